"""fit: it learns, it is reproducible, and a stopped run goes on to the same bits."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from fffnb import files, nn

RNG = np.random.default_rng(0)
X = RNG.standard_normal((200, 6)).astype(np.float32)
Y = (X[:, 0] * X[:, 1] > 0).astype(np.int64) + (X[:, 2] > 0.5)
BATCHES = 7  # of 32 samples in an epoch of 200


def network():
    return nn.Sequential(
        nn.FFF(6, 8, depth=3, n_trees=2, activation="gelu", bias=True),
        nn.ReLU(),
        nn.Linear(8, 3),
    )


def options(kind, model):
    optimizers = {
        "sgd": lambda: nn.SGD(model.parameters, 0.05, momentum=0.9),
        "adamw": lambda: nn.AdamW(model.parameters, 0.01),
    }
    return {
        "optimizer": optimizers[kind](),
        "batch_size": 32,
        "epochs": 3,
        "schedule": nn.cosine(3 * BATCHES),
        "validation": (X, Y),
        "seed": 5,
    }


def assert_same_run(one, other):
    (model, optimizer, history), (model2, optimizer2, history2) = one, other
    for name, parameter in model.parameters.items():
        np.testing.assert_array_equal(parameter, model2.parameters[name])
    state, state2 = optimizer.state_dict(), optimizer2.state_dict()
    assert state.keys() == state2.keys()
    for name, arrays in state.items():
        assert arrays.keys() == state2[name].keys()
        for word, array in arrays.items():
            np.testing.assert_array_equal(array, state2[name][word])
    for key in ("loss", "val_loss", "accuracy", "lr"):
        assert getattr(history, key) == getattr(history2, key)


class StopAfter(nn.ReLU):
    """A layer that sends SIGINT to its own process in its n-th forward pass with a trace."""

    def __init__(self, n):
        super().__init__()
        self.left = n

    def config(self):
        return {"kind": "ReLU"}

    def __call__(self, x):
        return np.maximum(x, 0)

    def forward(self, x):
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGINT)
        return super().forward(x)


def interrupted_network(n):
    model = network()
    return nn.Sequential(model.layers[0], StopAfter(n), model.layers[2])


def test_it_learns():
    model = network()
    settings = {**options("adamw", model), "schedule": None, "epochs": 60}
    history = nn.fit(model, X, Y, **settings)
    assert history.accuracy[-1] > 0.9
    assert history.loss[-1] < history.loss[0] / 3
    assert len(history.loss) == len(history.val_loss) == len(history.lr) == 60


def test_it_regresses():
    model = nn.FFF(6, 1, depth=2)
    target = X[:, :1] - X[:, 1:2]
    history = nn.fit(
        model,
        X,
        target,
        loss=nn.mean_squared_error,
        optimizer=nn.SGD(model.parameters, 0.05),
        epochs=40,
        batch_size=20,
        validation=(X, target),
    )
    assert history.val_loss[-1] < 0.3 * history.val_loss[0]
    assert history.accuracy == []


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize("stop", [1, 3, BATCHES, BATCHES + 1, 3 * BATCHES - 1])
def test_a_run_stopped_at_any_batch_resumes_to_the_same_bits(kind, stop, tmp_path):
    whole = network()
    settings = options(kind, whole)
    one = (whole, settings["optimizer"], nn.fit(whole, X, Y, **settings))

    path = tmp_path / "c.safetensors"
    cut = interrupted_network(stop)
    history = nn.fit(cut, X, Y, **options(kind, cut), checkpoint=path)
    assert history.interrupted
    assert len(history.loss) == stop // BATCHES

    resumed = network()
    settings = options(kind, resumed)
    history = nn.fit(resumed, X, Y, **settings, checkpoint=path, resume=True)
    assert not history.interrupted
    assert_same_run(one, (resumed, settings["optimizer"], history))


def test_a_run_stopped_by_its_callback_resumes_to_the_same_bits(tmp_path):
    path = tmp_path / "c.safetensors"
    whole, cut, resumed = network(), network(), network()
    settings = options("adamw", whole)
    one = (whole, settings["optimizer"], nn.fit(whole, X, Y, **settings))
    epochs = []

    def stop(epoch, history):
        epochs.append((epoch, len(history.loss)))
        return epoch == 2

    nn.fit(cut, X, Y, **options("adamw", cut), checkpoint=path, callback=stop)
    assert epochs == [(1, 1), (2, 2)]
    settings = options("adamw", resumed)
    history = nn.fit(resumed, X, Y, **settings, checkpoint=path, resume=True)
    assert_same_run(one, (resumed, settings["optimizer"], history))


def test_a_second_ctrl_c_raises_at_once():
    model = interrupted_network(2)

    def forward(x):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    model.layers[2].forward = forward
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        nn.fit(model, X, Y, **options("sgd", model))
    assert signal.getsignal(signal.SIGINT) is before


def test_it_trains_in_another_thread():
    histories = []
    model = network()
    settings = options("sgd", model)
    thread = threading.Thread(target=lambda: histories.append(nn.fit(model, X, Y, **settings)))
    thread.start()
    thread.join()
    assert len(histories[0].loss) == 3


def test_threads_do_not_change_a_run(monkeypatch):
    runs = []
    for form in ("serial", "parallel"):
        monkeypatch.setattr("fffnb.cpu.jit.forced", form)
        model = network()
        settings = options("adamw", model)
        runs.append((model, settings["optimizer"], nn.fit(model, X, Y, **settings)))
    assert_same_run(*runs)


def test_a_share_is_set_aside_for_validation():
    model = network()
    history = nn.fit(model, X, Y, **{**options("sgd", model), "validation": 0.25})
    assert {round(a * 50, 9) % 1 for a in history.accuracy} == {0}  # of 50 samples


@pytest.mark.parametrize("progress", [True, False, None])
def test_the_bar_is_shown_when_asked(progress, capsys):
    model = network()
    nn.fit(model, X, Y, **options("sgd", model), progress=progress)
    assert ("step" in capsys.readouterr().err) == bool(progress)


def test_a_failed_save_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "c.safetensors"
    model = network()
    nn.fit(model, X, Y, **{**options("sgd", model), "epochs": 1}, checkpoint=path)
    old = path.read_bytes()

    def full(*paths):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(files.FileError, match="No space left on device"):
        nn.fit(model, X, Y, **options("sgd", model), checkpoint=path)
    assert path.read_bytes() == old
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


CHANGES = {
    "model": lambda model: {"model": nn.Sequential(nn.FFF(6, 3, depth=3))},
    "optimizer": lambda model: {"optimizer": nn.SGD(model.parameters, 0.05)},
    "batch size": lambda model: {"batch_size": 16},
    "seed": lambda model: {"seed": 6},
    "data": lambda model: {"x": X + 1},
    "beyond 1 epochs": lambda model: {"epochs": 1},
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_checkpoint_of_another_run_is_refused(what, tmp_path):
    path = tmp_path / "c.safetensors"
    model = network()
    nn.fit(model, X, Y, **options("adamw", model), checkpoint=path)
    other = network()
    arguments = {"model": other, "x": X, "y": Y, **options("adamw", other), **CHANGES[what](other)}
    if what == "model":
        arguments["optimizer"] = nn.AdamW(arguments["model"].parameters, 0.01)
    before = {name: array.copy() for name, array in arguments["model"].parameters.items()}
    with pytest.raises(files.FileError, match=what):
        nn.fit(**arguments, checkpoint=path, resume=True)
    for name, array in arguments["model"].parameters.items():
        np.testing.assert_array_equal(array, before[name])


def test_a_model_is_no_checkpoint(tmp_path):
    path = tmp_path / "m.safetensors"
    model = network()
    nn.save_model(path, model)
    with pytest.raises(files.FileError, match="kind 'model'"):
        nn.fit(model, X, Y, checkpoint=path, resume=True)


BAD = [
    ({"epochs": 0}, ValueError, "epochs must be at least 1, got 0"),
    ({"batch_size": 2.5}, TypeError, "batch_size must be an int, got float"),
    ({"seed": -1}, ValueError, "seed must be at least 0, got -1"),
    ({"validation": 1.5}, ValueError, "validation must .* got 1.5"),
    ({"validation": (X, Y[:-1])}, ValueError, "y of validation must have 200 entries"),
    ({"y": Y[:-1]}, ValueError, "y must have 200 entries like x, got 199"),
    ({"y": Y + 1}, ValueError, "y must lie from 0 to 2, got"),
    ({"y": Y.astype(float)}, TypeError, "y must be an array of integers, got float64"),
    ({"x": X.tolist()}, ValueError, "x must be an array .* got list"),
    ({"x": X[:0], "y": Y[:0]}, ValueError, "x must be an array of at least one sample"),
    ({"x": X.astype(float)}, TypeError, "x must have the dtype of nodes"),
    ({"resume": True}, ValueError, "checkpoint must name the file"),
]


@pytest.mark.parametrize(("change", "error", "words"), BAD, ids=lambda value: str(value)[:30])
def test_bad_arguments_are_refused(change, error, words):
    model = network()
    before = {name: array.copy() for name, array in model.parameters.items()}
    with pytest.raises(error, match=words):
        nn.fit(**{"model": model, "x": X, "y": Y, **options("sgd", model), **change})
    for name, array in model.parameters.items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning", "ignore:invalid:RuntimeWarning")
def test_a_loss_that_is_not_finite_ends_the_run():
    model = network()
    settings = {**options("sgd", model), "optimizer": nn.SGD(model.parameters, 1e30)}
    with pytest.raises(ValueError, match=r"loss must stay finite, got .* in epoch 1, step"):
        nn.fit(model, X, Y, **settings)


CHILD = """
import sys, time
import numpy as np
from fffnb import nn

class Slow(nn.ReLU):
    def forward(self, x):
        time.sleep(0.004)
        return super().forward(x)
    def config(self):
        return {"kind": "ReLU"}

path, resume = sys.argv[1], sys.argv[2] == "resume"
rng = np.random.default_rng(0)
x = rng.standard_normal((96, 5)).astype(np.float32)
model = nn.Sequential(nn.FFF(5, 6, depth=3), Slow(), nn.Linear(6, 2))
optimizer = nn.AdamW(model.parameters, 0.01)
history = nn.fit(
    model, x, (x[:, 0] > 0).astype(int), optimizer=optimizer, epochs=25, batch_size=16,
    validation=0.25, checkpoint=path, resume=resume,
    callback=lambda epoch, history: print(epoch, flush=True),
)
state = {f"{n}/{w}": a for n, s in optimizer.state_dict().items() for w, a in s.items()}
numbers = {k: history.to_dict()[k] for k in ("loss", "val_loss", "accuracy", "lr")}
np.savez(path + ".npz", **model.parameters, **state, **numbers)
print("interrupted" if history.interrupted else "done", flush=True)
"""


def child(path, word):
    environment = {**os.environ, "PYTHONPATH": str(Path(nn.__file__).parents[2])}
    command = [sys.executable, "-c", CHILD, str(path), word]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def test_a_process_stopped_by_a_real_sigint_resumes_to_the_same_bits(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert child(whole, "fresh").communicate(timeout=60)[0].endswith("done\n")
    with child(cut, "fresh") as stopped:
        assert stopped.stdout.readline() == "1\n"
        stopped.send_signal(signal.SIGINT)
        assert stopped.communicate(timeout=60)[0].endswith("interrupted\n")
        assert stopped.returncode == 0
    assert child(cut, "resume").communicate(timeout=60)[0].endswith("done\n")
    with np.load(f"{whole}.npz") as one, np.load(f"{cut}.npz") as other:
        assert set(one) == set(other)
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])


def test_numpy_numbers_do_not_spoil_a_checkpoint(tmp_path):
    def loss(output, labels):
        value, gradient = nn.softmax_cross_entropy(output, labels)
        return np.float32(value), gradient

    model = nn.Sequential(nn.FFF(np.int64(6), 3, depth=2))
    nn.fit(
        model,
        X,
        Y,
        loss=loss,
        epochs=np.int64(1),
        batch_size=np.int64(64),
        seed=np.int64(3),
        schedule=lambda step: np.float32(0.5),
        checkpoint=tmp_path / "c.safetensors",
    )
    nn.save_model(tmp_path / "m.safetensors", model)


def test_an_optimizer_of_another_model_is_refused():
    model, other = network(), network()
    with pytest.raises(ValueError, match=r"optimizer must hold the parameters of model"):
        nn.fit(model, X, Y, optimizer=nn.SGD(other.parameters, 0.1))


@pytest.mark.parametrize(
    ("validation", "words"),
    [
        ("0.2", "validation must be a pair"),
        ([X, Y], "validation must be a pair"),
        ((X,), "validation must be a pair"),
        ((X[:0], Y[:0]), "the x of validation must be an array of at least one sample"),
        ((X.astype(float), Y), "float32, got float64"),
        ((X[:, :5], Y), "got 5"),
        ((X, Y + 9), "the y of validation must lie"),
    ],
    ids=lambda value: str(value)[:12],
)
def test_validation_that_does_not_fit_is_refused_before_the_first_step(validation, words):
    model = network()
    before = {name: array.copy() for name, array in model.parameters.items()}
    with pytest.raises((TypeError, ValueError), match=words):
        nn.fit(model, X, Y, validation=validation, epochs=1)
    for name, array in model.parameters.items():
        np.testing.assert_array_equal(array, before[name])


HISTORY = {"loss": [1.0], "val_loss": [], "accuracy": [], "lr": [0.1], "seconds": [1.0]}


@pytest.mark.parametrize(
    "change",
    [
        {"epoch": float("inf")},
        {"epoch": 0.5},
        {"batch": True},
        {"loss_sum": float("nan")},
        {"loss_sum": "1"},
        {"history": None},
        {"history": {**HISTORY, "loss": "a"}},
        {"history": {**HISTORY, "loss": [None]}},
        {"history": {**HISTORY, "lr": []}},
        {"run": None},
    ],
    ids=str,
)
def test_a_forged_checkpoint_is_refused(change, tmp_path):
    path = tmp_path / "c.safetensors"
    nn.fit(network(), X, Y, epochs=1, checkpoint=path)
    arrays, metadata = files.read_arrays(path, kind="checkpoint")
    files.write_arrays(path, arrays, {**metadata, **change})
    with pytest.raises(files.FileError, match="is no checkpoint of this run"):
        nn.fit(network(), X, Y, epochs=2, checkpoint=path, resume=True)


def test_the_bar_shows_loss_and_accuracy_in_short_epochs(capsys):
    nn.fit(network(), X, Y, epochs=2, batch_size=100, validation=(X, Y), progress=True)
    shown = capsys.readouterr().err
    assert "loss=" in shown
    assert "accuracy=" in shown


def test_a_terminal_without_tqdm_has_no_bar(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert len(nn.fit(network(), X, Y, epochs=1).loss) == 1
    with pytest.raises(ImportError, match=r"fffnb\[train\]"):
        nn.fit(network(), X, Y, epochs=1, progress=True)


def test_a_checkpoint_that_cannot_be_written_is_found_before_the_first_epoch(tmp_path):
    model = network()
    before = {name: array.copy() for name, array in model.parameters.items()}
    with pytest.raises(files.FileError, match="cannot be written"):
        nn.fit(model, X, Y, **options("sgd", model), checkpoint=tmp_path / "missing" / "c")
    for name, array in model.parameters.items():
        np.testing.assert_array_equal(array, before[name])
