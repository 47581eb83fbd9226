"""fit on a GPU that is made up, and computes as the CPU; what is said where there is none."""

import signal
import sys
from types import SimpleNamespace

import fake_cupy
import numpy as np
import pytest

from fffnb import cli, cuda, nn
from fffnb.nn import place

RNG = np.random.default_rng(0)
X = RNG.standard_normal((250, 6)).astype(np.float32)
Y = (X[:, 0] * X[:, 1] > 0).astype(np.int64) + (X[:, 2] > 0.5)


class Tracked(nn.ReLU):
    """A layer that notes which arrays came, and sends SIGINT in its n-th pass with a trace."""

    def __init__(self, stop=0):
        super().__init__()
        self.seen, self.stop = [], stop

    def config(self):
        return {"kind": "ReLU"}

    def __call__(self, x):
        return super().forward(x)[0]

    def forward(self, x):
        self.seen.append((type(x), len(x)))
        if len(self.seen) == self.stop:
            signal.raise_signal(signal.SIGINT)
        return super().forward(x)


def network(stop=0):
    return nn.Sequential(nn.Linear(6, 8), Tracked(stop), nn.Linear(8, 3, rng=1))


def options(kind, model):
    optimizers = {
        "sgd": lambda: nn.SGD(model.parameters, 0.05, momentum=0.9),
        "adamw": lambda: nn.AdamW(model.parameters, 0.01),
    }
    return {
        "optimizer": optimizers[kind](),
        "batch_size": 9,  # the last batch has 2
        "epochs": 3,
        "schedule": nn.cosine(70),
        "validation": 0.2,
        "seed": 5,
    }


@pytest.fixture
def gpu(monkeypatch):
    """A made-up GPU."""
    machine = fake_cupy.Machine(eager=True)
    made_up = machine.install(monkeypatch)
    monkeypatch.setattr(place, "require_cupy", lambda: made_up)
    monkeypatch.setattr(place, "to_device", lambda array: array.copy().view(fake_cupy.DeviceArray))
    return machine


def assert_same_run(one, other):
    (model, optimizer, history), (model2, optimizer2, history2) = one, other
    for name, parameter in model.parameters.items():
        np.testing.assert_array_equal(parameter, model2.parameters[name])
    state, state2 = optimizer.state_dict(), optimizer2.state_dict()
    assert state.keys() == state2.keys()
    for name, arrays in state.items():
        assert arrays.keys() == state2[name].keys()
        for word, array in arrays.items():
            assert type(state2[name][word]) is np.ndarray
            np.testing.assert_array_equal(array, state2[name][word])
    for key in ("loss", "val_loss", "accuracy", "lr"):
        assert getattr(history, key) == getattr(history2, key)


def run(kind, device, **changes):
    model = changes.pop("model", None) or network()
    settings = options(kind, model)
    history = nn.fit(model, X, Y, **{**settings, **changes}, device=device)
    return model, settings["optimizer"], history


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_a_run_is_that_of_the_cpu(kind):
    one, other = run(kind, "cpu"), run(kind, "cuda")
    assert_same_run(one, other)
    assert all(type(array) is np.ndarray for array in other[0].parameters.values())
    assert one[1].lr == other[1].lr == options(kind, one[0])["optimizer"].lr
    seen = other[0].layers[1].seen
    assert {of for of, _ in seen} == {fake_cupy.DeviceArray}
    assert {size for _, size in seen} == {9, 2}


@pytest.mark.usefixtures("gpu")
def test_a_regression_is_that_of_the_cpu():
    results = []
    for device in ("cpu", "cuda"):
        model = nn.Sequential(nn.Linear(6, 1))
        target = X[:, :1] - X[:, 1:2]
        validation = (X[:50], target[:50])
        history = nn.fit(
            model, X, target, loss=nn.mean_squared_error, validation=validation, device=device
        )
        results.append((history.loss, history.val_loss, model.parameters["0.weight"].tolist()))
    assert results[0] == results[1]


@pytest.mark.usefixtures("gpu")
def test_an_optimizer_goes_on_where_it_was():
    model, optimizer, _ = run("adamw", "cpu", epochs=1)
    model2, optimizer2, _ = run("adamw", "cuda", epochs=1)
    one = run("adamw", "cpu", model=model, optimizer=optimizer)
    other = run("adamw", "cuda", model=model2, optimizer=optimizer2)
    assert_same_run((model, optimizer, one[2]), (model2, optimizer2, other[2]))


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("stop", [3, 22, 23, 24, 50])
def test_a_stopped_run_resumes_on_either_device_to_the_same_bits(stop, tmp_path):
    path = tmp_path / "c.safetensors"
    cut = run("adamw", "cuda", model=network(stop), checkpoint=path)[2]
    assert cut.interrupted
    for device in ("cuda", "cpu"):
        copy = tmp_path / device
        copy.write_bytes(path.read_bytes())
        assert_same_run(run("adamw", "cpu"), run("adamw", device, checkpoint=copy, resume=True))


@pytest.mark.usefixtures("gpu")
def test_callbacks_see_the_model_as_it_is():
    seen = {}
    for device in ("cpu", "cuda"):
        model, seen[device] = network(), []

        def look(epoch, history, device=device, model=model):
            seen[device].append([array.copy() for array in model.parameters.values()])
            return epoch == 2

        run("sgd", device, model=model, callback=look)
    assert len(seen["cuda"]) == 2
    for one, other in zip(seen["cpu"], seen["cuda"], strict=True):
        for array, array2 in zip(one, other, strict=True):
            np.testing.assert_array_equal(array, array2)


class Lost(Exception):
    pass


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("how", ["error", "interrupt"])
def test_parameters_come_back_however_the_run_ends(how):
    passes = 30
    expected, model = network(passes), network(passes)

    class Failing(nn.ReLU):
        left = passes

        def forward(self, x):
            self.left -= 1
            if self.left == 0:
                if how == "error":
                    raise Lost
                signal.raise_signal(signal.SIGINT)
                signal.raise_signal(signal.SIGINT)
            return super().forward(x)

    for device, network_ in (("cpu", expected), ("cuda", model)):
        network_.layers = (network_.layers[0], Failing(), network_.layers[2])
        with pytest.raises(Lost if how == "error" else KeyboardInterrupt):
            run("sgd", device, model=network_)
    for name, parameter in model.parameters.items():
        np.testing.assert_array_equal(parameter, expected.parameters[name])
        assert not np.array_equal(parameter, network().parameters[name])


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("step", [1, 5, 16, 17, 23])
def test_the_step_is_named_at_which_the_loss_stopped_being_finite(step):
    left = {"cpu": step, "cuda": step}
    words = []
    for device in left:

        def loss(output, labels, device=device):
            value, gradient = nn.softmax_cross_entropy(output, labels)
            left[device] -= 1
            return (np.nan if left[device] <= 0 else value), gradient

        with pytest.raises(ValueError, match=f"got nan in epoch 1, step {step};") as caught:
            run("sgd", device, loss=loss, validation=None)
        words.append(str(caught.value))
    assert words[0] == words[1]
    assert left["cpu"] == 0  # the CPU looks at once, the GPU after up to 16 steps
    assert left["cuda"] >= -15


@pytest.mark.usefixtures("gpu")
def test_layers_that_share_an_array_share_it_there():
    results = []
    for device in ("cpu", "cuda"):
        first = nn.Linear(6, 6, bias=False)
        model = nn.Sequential(first, nn.ReLU(), nn.Linear.of(first.weight))
        nn.fit(model, X, Y, optimizer=nn.SGD(model.parameters, 0.01), epochs=2, device=device)
        results.append(first.weight)
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("device", ["tpu", "cuda:1", 0])
def test_an_unknown_device_is_refused(device):
    with pytest.raises(ValueError, match=f"device must be 'cpu' or 'cuda', got {device!r}"):
        nn.fit(network(), X, Y, device=device)


def refuse():
    raise RuntimeError("fffnb found no usable GPU: no device")


def test_a_machine_without_a_gpu_is_refused_before_anything_else(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("fffnb.cuda.support.require", refuse)
    with pytest.raises(RuntimeError, match="fffnb found no usable GPU: no device"):
        nn.fit(network(), X, Y, device="cuda", checkpoint=tmp_path / "c")
    assert not list(tmp_path.iterdir())
    assert cli.main(["train", "--device", "cuda", "--json", "--out", str(tmp_path)]) == 2
    printed = capsys.readouterr()
    assert printed.err == "fffnb: error: fffnb found no usable GPU: no device\n"
    assert printed.out == ""


@pytest.fixture
def usable(monkeypatch):
    """A machine on which kernels could run."""
    monkeypatch.setattr("fffnb.cuda.support.require", lambda: None)
    monkeypatch.setitem(vars(cuda), "launch", SimpleNamespace(SIMULATED=False))
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace())


@pytest.mark.usefixtures("usable")
@pytest.mark.parametrize(
    ("package", "words"),
    [
        (
            "cupy",
            r"CuPy cannot be imported .*'fffnb\[cu13\]' \(or 'fffnb\[cu12\]'",
        ),
        ("array_api_compat", r"array-api-compat: python -m pip install 'fffnb\[train\]'"),
    ],
)
def test_a_missing_package_is_named(package, words, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=words):
        nn.fit(network(), X, Y, device="cuda")


@pytest.mark.usefixtures("usable")
def test_the_simulator_is_no_gpu(monkeypatch):
    monkeypatch.setitem(vars(cuda), "launch", SimpleNamespace(SIMULATED=True))
    with pytest.raises(RuntimeError, match="CuPy needs a GPU, and NUMBA_ENABLE_CUDASIM=1 only"):
        nn.fit(network(), X, Y, device="cuda")
