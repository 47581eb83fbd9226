"""fit on a GPU: it learns what the CPU learns, and goes on to the same bits."""

import signal

import kinds
import numpy as np
import pytest

from fffnb import nn

if kinds.MISSING or kinds.SIMULATED:
    pytest.skip(kinds.MISSING or "the simulator has no CuPy", allow_module_level=True)

pytest.importorskip("array_api_compat")

pytestmark = [
    pytest.mark.usefixtures("tiles"),
    pytest.mark.parametrize("tiles", ["default"], indirect=True),
]

RNG = np.random.default_rng(0)
X = RNG.standard_normal((330, 6)).astype(np.float32)
Y = (X[:, 0] * X[:, 1] > 0).astype(np.int64) + (X[:, 2] > 0.5)
BATCHES = 19  # of 16 samples in an epoch of 297, the last one of 9


@pytest.fixture(scope="module")
def kind():
    return kinds.CuPy()


class StopAfter(nn.ReLU):
    """A layer that sends SIGINT to its own process in its n-th forward pass with a trace."""

    def __init__(self, n):
        super().__init__()
        self.left = n

    def config(self):
        return {"kind": "ReLU"}

    def __call__(self, x):
        return super().forward(x)[0]

    def forward(self, x):
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGINT)
        return super().forward(x)


def network(stop=0):
    return nn.Sequential(
        nn.FFF(6, 8, depth=3, n_trees=2, activation="gelu", bias=True),
        StopAfter(stop),
        nn.Linear(8, 7),
        nn.GELU(),
        nn.Linear(7, 3, rng=1),
    )


def options(name, model):
    optimizers = {
        "sgd": lambda: nn.SGD(model.parameters, 0.05),
        "momentum": lambda: nn.SGD(model.parameters, 0.05, momentum=0.9, weight_decay=0.01),
        "adamw": lambda: nn.AdamW(model.parameters, 0.01),
    }
    return {
        "optimizer": optimizers[name](),
        "batch_size": 16,
        "epochs": 3,
        "schedule": nn.cosine(3 * BATCHES),
        "validation": 0.1,
        "seed": 5,
    }


def run(name, device, model=None, **changes):
    model = network() if model is None else model
    settings = options(name, model)
    history = nn.fit(model, X, Y, **{**settings, **changes}, device=device)
    return model, settings["optimizer"], history


def as_bytes(model, optimizer, history):
    """Return all that a run leaves behind."""
    state = {
        (name, word): array.tobytes()
        for name, arrays in optimizer.state_dict().items()
        for word, array in arrays.items()
    }
    parameters = {name: array.tobytes() for name, array in model.parameters.items()}
    numbers = [getattr(history, key) for key in ("loss", "val_loss", "accuracy", "lr")]
    return parameters, state, numbers


@pytest.mark.parametrize("name", ["sgd", "momentum", "adamw"])
def test_a_run_is_close_to_that_of_the_cpu(name):
    (model, optimizer, history), (model2, optimizer2, history2) = (
        run(name, device) for device in ("cpu", "cuda")
    )
    np.testing.assert_allclose(history2.loss, history.loss, rtol=1e-3)
    np.testing.assert_allclose(history2.val_loss, history.val_loss, rtol=1e-3)
    np.testing.assert_allclose(history2.accuracy, history.accuracy, atol=0.04)  # one of 33
    assert history2.lr == history.lr
    for key, parameter in model.parameters.items():
        assert type(model2.parameters[key]) is np.ndarray
        apart = np.linalg.norm(model2.parameters[key] - parameter)
        assert apart <= 0.02 * np.linalg.norm(parameter)
    state, state2 = optimizer.state_dict(), optimizer2.state_dict()
    assert {key: set(words) for key, words in state.items()} == {
        key: set(words) for key, words in state2.items()
    }


def test_a_regression_in_float64_is_close_to_that_of_the_cpu():
    losses = []
    x, target = X.astype(float), (X[:, :1] - X[:, 1:2]).astype(float)
    for device in ("cpu", "cuda"):
        model = nn.Sequential(nn.FFF(6, 4, depth=2, dtype=float), nn.Linear(4, 1, dtype=float))
        history = nn.fit(
            model, x, target, loss=nn.mean_squared_error, validation=(x, target), device=device
        )
        losses.append(history.loss + history.val_loss)
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-9)


def test_two_runs_are_the_same_bits():
    assert as_bytes(*run("adamw", "cuda")) == as_bytes(*run("adamw", "cuda"))


@pytest.mark.parametrize("stop", [3, BATCHES, BATCHES + 17])
@pytest.mark.parametrize("name", ["momentum", "adamw"])
def test_a_stopped_run_resumes_to_the_same_bits(name, stop, tmp_path):
    pytest.importorskip("safetensors")
    path = tmp_path / "c.safetensors"
    assert run(name, "cuda", network(stop), checkpoint=path)[2].interrupted
    resumed = run(name, "cuda", checkpoint=path, resume=True)
    assert as_bytes(*resumed) == as_bytes(*run(name, "cuda"))


class Lost(Exception):
    pass


def test_parameters_come_back_after_an_error_in_the_callback():
    seen = []

    def fail(epoch, history):
        seen.extend(array.copy() for array in model.parameters.values())
        raise Lost

    model = network()
    with pytest.raises(Lost):
        run("adamw", "cuda", model, callback=fail)
    expected = run("adamw", "cuda", callback=lambda epoch, history: True)[0]
    for one, other, now in zip(
        expected.parameters.values(), seen, model.parameters.values(), strict=True
    ):
        np.testing.assert_array_equal(other, one)
        np.testing.assert_array_equal(now, one)
    assert not np.array_equal(model.parameters["2.weight"], network().parameters["2.weight"])


def test_a_run_that_diverges_is_refused():
    model = network()
    with pytest.raises(ValueError, match=r"loss must stay finite, got .* in epoch 1, step"):
        run("sgd", "cuda", model, optimizer=nn.SGD(model.parameters, 1e30))


def test_large_samples_arrive_whole_while_the_gpu_is_busy():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((3000, 500)).astype(np.float32)
    y = (x[:, :20].sum(axis=1) > 0).astype(np.int64)
    losses = []
    for device in ("cpu", "cuda"):
        model = nn.Sequential(nn.Linear(500, 600), nn.ReLU(), nn.Linear(600, 2, rng=1))
        optimizer = nn.SGD(model.parameters, 0.05)
        history = nn.fit(model, x, y, optimizer=optimizer, epochs=2, batch_size=512, device=device)
        losses.append(history.loss)
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)


def test_the_command_line_trains_on_it(tmp_path, capsys):
    for package in ("matplotlib", "safetensors", "sklearn"):
        pytest.importorskip(package)
    from fffnb import cli

    argv = ["train", "--epochs", "2", "--json", "--device", "cuda", "--out", str(tmp_path)]
    assert cli.main(argv) == 0
    assert "test_accuracy" in capsys.readouterr().out
