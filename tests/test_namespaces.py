"""Layers, losses and optimisers on arrays of another library give what they give on NumPy's."""

import subprocess
import sys

import numpy as np
import pytest

from fffnb import nn
from fffnb.nn import namespace

xp = pytest.importorskip("array_api_strict")

RNG = np.random.default_rng(0)
X = RNG.standard_normal((9, 5))
LABELS = RNG.integers(4, size=9)


def moved(layer):
    """Return a layer whose parameters are arrays of array_api_strict."""
    return layer.with_parameters(
        {name: xp.asarray(array, copy=True) for name, array in layer.parameters.items()}
    )


def assert_equal(found, expected):
    assert type(found).__module__.startswith("array_api_strict")
    assert str(found.dtype).split(".")[-1] == str(expected.dtype)
    np.testing.assert_allclose(np.asarray(found), expected, rtol=1e-6)


LAYERS = {
    "linear": lambda dtype: nn.Linear(5, 4, dtype=dtype),
    "linear without bias": lambda dtype: nn.Linear(5, 4, bias=False, dtype=dtype),
    "relu": lambda dtype: nn.ReLU(),
    "gelu": lambda dtype: nn.GELU(),
    "sequential": lambda dtype: nn.Sequential(
        nn.Linear(5, 6, rng=1, dtype=dtype),
        nn.GELU(),
        nn.Sequential(nn.Linear(6, 6, rng=2, dtype=dtype), nn.ReLU()),
        nn.Linear(6, 4, rng=3, dtype=dtype),
    ),
    "sum": lambda dtype: nn.Sum(nn.Linear(5, 4, rng=1, dtype=dtype), nn.Linear(5, 4, dtype=dtype)),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", LAYERS)
def test_layers(name, dtype):
    layer, x = LAYERS[name](dtype), X.astype(dtype)
    other = moved(layer)
    assert other.config() == layer.config()
    expected, trace = layer.forward(x)
    y, other_trace = other.forward(xp.asarray(x))
    assert_equal(y, expected)
    assert_equal(other(xp.asarray(x)), expected)
    weights = RNG.standard_normal(expected.shape).astype(dtype)
    grad_x, gradients = layer.backward(weights, trace)
    other_x, other_gradients = other.backward(xp.asarray(weights), other_trace)
    assert_equal(other_x, grad_x)
    assert other_gradients.keys() == gradients.keys() == layer.parameters.keys()
    for key, gradient in gradients.items():
        assert_equal(other_gradients[key], gradient)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_losses(dtype):
    logits, target = RNG.standard_normal((2, 9, 4)).astype(dtype)
    for loss, goal in ((nn.softmax_cross_entropy, LABELS), (nn.mean_squared_error, target)):
        expected, gradient = loss(logits, goal)
        value, other = loss(xp.asarray(logits), xp.asarray(goal))
        assert type(expected) is float
        assert_equal(value, np.float64(expected))
        assert_equal(other, gradient)


def test_losses_refuse_what_does_not_fit():
    logits = xp.zeros((3, 4))
    with pytest.raises(TypeError, match=r"logits must be a float32 or float64 array, got .*int64"):
        nn.softmax_cross_entropy(xp.zeros((3, 4), dtype=xp.int64), xp.zeros(3, dtype=xp.int64))
    with pytest.raises(TypeError, match=r"labels must be an array of integers, got .*float64"):
        nn.softmax_cross_entropy(logits, xp.zeros(3))
    with pytest.raises(ValueError, match="one label per row"):
        nn.softmax_cross_entropy(logits, xp.zeros(2, dtype=xp.int64))
    with pytest.raises(ValueError, match="must hold at least one sample"):
        nn.mean_squared_error(xp.zeros((0, 4)), xp.zeros((0, 4)))
    with pytest.raises(TypeError, match=r"target must be a array_api_strict.*Array, got ndarray"):
        nn.mean_squared_error(logits, np.zeros((3, 4)))


OPTIMIZERS = [
    (nn.SGD, {"lr": 0.1, "weight_decay": 0.05}),
    (nn.SGD, {"lr": 0.1, "momentum": 0.9}),
    (nn.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.05}),
    (nn.AdamW, {"lr": 0.05, "betas": (0.8, 0.95), "weight_decay": 0.1}),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("kind", "numbers"), OPTIMIZERS)
def test_dense_steps(kind, numbers, dtype):
    start = {"w": X.astype(dtype), "b": X[0].astype(dtype)}
    parameters = {name: array.copy() for name, array in start.items()}
    others = {name: xp.asarray(array, copy=True) for name, array in start.items()}
    one, other = kind(parameters, **numbers), kind(others, **numbers)
    for _ in range(4):
        gradients = {
            name: RNG.standard_normal(array.shape).astype(dtype) for name, array in start.items()
        }
        one.step(gradients)
        other.step({name: xp.asarray(gradient) for name, gradient in gradients.items()})
    for name, parameter in parameters.items():
        assert_equal(others[name], parameter)
        for word, array in one.state_dict()[name].items():
            found = other.state_dict()[name][word]
            assert type(found) is np.ndarray
            np.testing.assert_allclose(found, array, rtol=1e-6)


def test_optimizers_refuse_arrays_that_are_no_floats():
    with pytest.raises(TypeError, match=r"parameter 'p' must be float32 or float64, got .*int64"):
        nn.SGD({"p": xp.zeros(3, dtype=xp.int64)}, 0.1)


def test_predict_and_accuracy(monkeypatch):
    monkeypatch.setattr("fffnb.nn.evaluate.EVALUATION_BATCH", 4)
    layer = LAYERS["sequential"]("float64")
    other, x = moved(layer), xp.asarray(X)
    assert_equal(nn.predict(other, x), layer(X))
    assert 0 < nn.accuracy(layer, X, LABELS) < 1
    assert nn.accuracy(other, x, xp.asarray(LABELS)) == nn.accuracy(layer, X, LABELS)


def test_a_layer_with_other_parameters_leaves_the_first_as_it_is():
    layer = nn.Sequential(nn.FFF(5, 4, depth=2, bias=True), nn.ReLU(), nn.Linear(4, 3))
    before = layer(X.astype("f4"))
    other = layer.with_parameters({k: np.zeros_like(v) for k, v in layer.parameters.items()})
    assert not other(X.astype("f4")).any()
    np.testing.assert_array_equal(layer(X.astype("f4")), before)
    assert other.layers[0].nodes is other.parameters["0.nodes"] is not layer.layers[0].nodes


def test_what_is_no_array_is_refused():
    with pytest.raises(TypeError, match="parameter 'p' must be an array, got list"):
        nn.SGD({"p": [1.0]}, 0.1)


def test_array_api_compat_is_asked_for_by_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "array_api_compat", None)
    with pytest.raises(ImportError, match=r"array-api-compat: python -m pip install 'fffnb\[train"):
        namespace.namespace_of(xp.zeros(3))


def test_numpy_needs_no_array_api_compat():
    code = """
import sys
sys.modules["array_api_compat"] = None
import numpy as np
from fffnb import nn
x = np.random.default_rng(0).standard_normal((64, 4)).astype("f4")
model = nn.Sequential(nn.FFF(4, 6, depth=2), nn.GELU(), nn.Linear(6, 2), nn.ReLU())
nn.fit(model, x, (x[:, 0] > 0).astype(int), epochs=1, validation=0.25, device="cpu")
print(sorted(name for name in sys.modules if name.startswith(("cupy", "array_api_compat."))))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout == "[]\n"
