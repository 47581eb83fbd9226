"""Layers and losses: gradients by finite differences, shapes, saved structures."""

import numpy as np
import pytest
from scipy.special import log_softmax

from fffnb import RowGradient, files, nn

LAYERS = {
    "fff": lambda: nn.FFF(5, 4, depth=3, n_trees=2, activation="silu", bias=True, dtype=float),
    "flat": lambda: nn.FlatFFF(5, 4, depth=3, n_trees=2, activation="tanh", bias=True, dtype=float),
    "flat by patterns": lambda: nn.FlatFFF(5, 4, depth=3, rows="patterns", dtype=float),
    "flat without bias": lambda: nn.FlatFFF(5, 4, depth=3, dtype=float),
    "bag": lambda: nn.BagFFF(5, 4, 9, k=3, n_trees=2, activation="gelu", bias=True, dtype=float),
    "bag without k": lambda: nn.BagFFF(5, 4, n_nodes=9, k=None, dtype=float),
    "keys": lambda: nn.Sequential(
        nn.Linear(5, 6, dtype=float),
        nn.ProductKeyFFF(6, 4, n_keys=5, k=3, n_trees=2, activation="silu", dtype=float),
    ),
    "linear": lambda: nn.Linear(5, 4, dtype=float),
    "linear without bias": lambda: nn.Linear(5, 4, bias=False, dtype=float),
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "sequential": lambda: nn.Sequential(
        nn.FFF(5, 6, depth=2, dtype=float), nn.GELU(), nn.Linear(6, 4, dtype=float)
    ),
    "sum": lambda: nn.Sum(
        nn.FFF(5, 4, depth=3, dtype=float),
        nn.Sequential(nn.Linear(5, 2, dtype=float), nn.ReLU(), nn.Linear(2, 4, dtype=float)),
    ),
    "mix": lambda: nn.Mix.of(
        nn.FFF(5, 4, depth=3, dtype=float), nn.Linear(5, 4, dtype=float), np.array([0.7])
    ),
    "activation after the sum": lambda: nn.Sequential(
        nn.FFF(5, 4, depth=3, n_trees=2, dtype=float), nn.GELU()
    ),
}


def numeric(function, array, at, step=1e-6):
    """Return the central difference of a scalar function in one element."""
    before = array[at]
    array[at] = before + step
    high = function()
    array[at] = before - step
    low = function()
    array[at] = before
    return (high - low) / (2 * step)


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_equal_finite_differences(name):
    rng = np.random.default_rng(3)
    layer = LAYERS[name]()
    x = rng.standard_normal((7, 5))
    y, trace = layer.forward(x)
    weights = rng.standard_normal(y.shape)
    grad_x, gradients = layer.backward(weights, trace)
    assert set(gradients) == set(layer.parameters)

    def objective():
        return float((layer(x) * weights).sum())

    pairs = [(x, grad_x), *((layer.parameters[key], gradients[key]) for key in gradients)]
    for array, found in pairs:
        assert found.shape == array.shape
        for flat in rng.choice(array.size, min(array.size, 40), replace=False):
            at = np.unravel_index(flat, array.shape)
            assert found[at] == pytest.approx(numeric(objective, array, at), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("make", [nn.SGD, nn.AdamW])
@pytest.mark.parametrize("name", LAYERS)
def test_backward_update_is_backward_and_step(name, make):
    rng = np.random.default_rng(4)
    one, two = LAYERS[name](), LAYERS[name]()
    x, optimizers = rng.standard_normal((7, 5)), []
    for layer in (one, two):
        optimizers.append(make(layer.parameters, lr=0.1))
    for _ in range(3):
        y, trace = one.forward(x)
        grad_y = rng.standard_normal(y.shape)
        grad_x = one.backward_update(grad_y, trace, optimizers[0])
        _, trace = two.forward(x)
        expected, gradients = two.backward(grad_y, trace, sparse=True)
        optimizers[1].step(gradients)
        np.testing.assert_allclose(grad_x, expected, rtol=1e-12)
    for key, parameter in one.parameters.items():
        np.testing.assert_allclose(parameter, two.parameters[key], rtol=1e-12)


def test_fff_gives_row_gradients_when_asked():
    layer = LAYERS["fff"]()
    y, trace = layer.forward(np.ones((2, 5)))
    gradients = layer.backward(y, trace, sparse=True)[1]
    assert all(isinstance(gradient, RowGradient) for gradient in gradients.values())


def test_layers_keep_float32():
    x = np.ones((3, 6), np.float32)
    model = nn.Sequential(nn.FFF(6, 5, depth=2), nn.GELU(), nn.ReLU(), nn.Linear(5, 4))
    y, trace = model.forward(x)
    grad_x, gradients = model.backward(y, trace)
    assert {y.dtype, grad_x.dtype, *(g.dtype for g in gradients.values())} == {np.dtype("f4")}


def test_layers_refuse_bad_sizes_and_inputs():
    with pytest.raises(ValueError, match="n_in must be at least 1, got 0"):
        nn.Linear(0, 3)
    with pytest.raises(TypeError, match="dtype must be float32 or float64, got int64"):
        nn.FFF(3, 3, dtype=int)
    with pytest.raises(ValueError, match="activation must be one of"):
        nn.FFF(3, 3, activation="swish")
    with pytest.raises(ValueError, match="x must have 3 columns"):
        nn.Linear(3, 2)(np.ones((2, 4), np.float32))
    with pytest.raises(ValueError, match="n_out = 2"):
        nn.FFF(3, 2)(np.ones((2, 4), np.float32))
    with pytest.raises(TypeError, match="x must have dtype float32, got float64"):
        nn.Linear(3, 2)(np.ones((2, 3)))


def test_cross_entropy_equals_scipy_and_finite_differences():
    rng = np.random.default_rng(5)
    logits, labels = 20 * rng.standard_normal((6, 4)), rng.integers(4, size=6)
    loss, gradient = nn.softmax_cross_entropy(logits, labels)
    assert loss == pytest.approx(-log_softmax(logits, axis=1)[np.arange(6), labels].mean())
    for at in np.ndindex(logits.shape):
        found = numeric(lambda: nn.softmax_cross_entropy(logits, labels)[0], logits, at)
        assert gradient[at] == pytest.approx(found, abs=1e-7)


def test_mean_squared_error_equals_finite_differences():
    rng = np.random.default_rng(6)
    prediction, target = rng.standard_normal((2, 5, 3))
    loss, gradient = nn.mean_squared_error(prediction, target)
    assert loss == pytest.approx(((prediction - target) ** 2).mean())
    for at in np.ndindex(prediction.shape):
        found = numeric(lambda: nn.mean_squared_error(prediction, target)[0], prediction, at)
        assert gradient[at] == pytest.approx(found, abs=1e-7)


def test_losses_refuse_targets_that_do_not_fit():
    logits = np.zeros((3, 4))
    for labels in (np.array([0, 1, 4]), np.array([0, -1, 1])):
        with pytest.raises(ValueError, match="labels must lie from 0 to 3, got"):
            nn.softmax_cross_entropy(logits, labels)
    with pytest.raises(TypeError, match="labels must be an array of integers, got float64"):
        nn.softmax_cross_entropy(logits, np.zeros(3))
    with pytest.raises(ValueError, match="one label per row"):
        nn.softmax_cross_entropy(logits, np.zeros(2, int))
    with pytest.raises(ValueError, match=r"target must have shape \(3, 4\)"):
        nn.mean_squared_error(logits, np.zeros((4, 3)))
    with pytest.raises(TypeError, match="target must have dtype float64"):
        nn.mean_squared_error(logits, np.zeros((3, 4), np.float32))


@pytest.mark.parametrize("name", LAYERS)
def test_a_saved_model_comes_back(name, tmp_path):
    layer = LAYERS[name]()
    nn.save_model(tmp_path / "m.safetensors", layer, extra_metadata={"note": "λ"})
    loaded = nn.load_model(tmp_path / "m.safetensors")
    x = np.random.default_rng(7).standard_normal((9, 5))
    np.testing.assert_array_equal(loaded(x), layer(x))
    assert loaded.config() == layer.config()
    assert nn.load_metadata(tmp_path / "m.safetensors") == {"note": "λ"}


FFF = {"kind": "FFF", "n_in": 3, "n_out": 2, "depth": 2, "n_trees": 1, "activation": "relu"}
FLAT = {**FFF, "kind": "FlatFFF", "rows": "nodes"}
BAG = {**FFF, "kind": "BagFFF", "n_nodes": 3, "k": 2, "bias": False}
KEYS = {**FFF, "kind": "ProductKeyFFF", "n_in": 2, "n_keys": 2, "k": 2}
DEEP = {"kind": "Sequential", "layers": []}
for _ in range(50):
    DEEP = {"kind": "Sequential", "layers": [DEEP]}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (None, "a layer must be"),
        ([], "a layer must be"),
        ({"kind": "os.system"}, "a layer must be"),
        ({"kind": ["FFF"]}, "a layer must be"),
        (DEEP, "nested at most"),
        ({"kind": "Sequential", "layers": 3}, "list of layers"),
        ({"kind": "Sum", "layers": []}, "layers must hold at least one layer to add up, got none"),
        ({"kind": "Mix", "layers": [{"kind": "ReLU"}]}, "a Mix must hold two layers, got 1"),
        ({**FFF, "bias": False, "straight_through": -1}, "temperature must be a finite number"),
        ({**FFF, "bias": False, "straight_through": "1"}, "must be a number, got '1'"),
        ({**FFF}, "bias"),
        ({**FFF, "bias": 1}, "bias"),
        ({**FFF, "bias": True}, "parameter 'bias'"),
        ({**FFF, "bias": False, "depth": 3}, "parameter 'nodes'"),
        ({**FFF, "bias": False, "depth": 10**9}, "parameter 'nodes'"),
        ({**FFF, "bias": False, "depth": "2"}, "depth"),
        ({**FFF, "bias": False, "n_in": 5, "n_out": 0}, "n_out"),
        ({**FFF, "bias": False, "n_in": 4}, "parameter 'nodes'"),
        ({**FFF, "bias": False, "activation": "exec"}, "activation"),
        ({**FLAT, "bias": False}, "parameter 'planes'"),
        ({**FLAT}, "bias"),
        ({**FLAT, "bias": False, "depth": 99}, "depth must be at most 31"),
        ({**FLAT, "bias": False, "rows": "all"}, "rows must be 'nodes' or 'patterns', got 'all'"),
        ({**BAG, "k": 4}, "k must be at most the number of nodes of a bag, 3, got 4"),
        ({**BAG, "k": True}, "k of a layer must be a positive integer, got True"),
        ({**BAG, "n_nodes": 4}, "parameter 'nodes'"),
        ({**KEYS}, "parameter 'keys'"),
        ({**KEYS, "n_in": 3}, "must be even, got 3"),
        ({"kind": "ReLU"}, "no place for the parameters nodes"),
        ({"kind": "Linear", "n_in": 3, "n_out": 5, "bias": False}, "parameter 'weight'"),
    ],
)
def test_structures_that_do_not_fit_are_refused(config, words, tmp_path):
    path = tmp_path / "m.safetensors"
    nodes = np.zeros((1, 3, 5), np.float32)
    files.write_arrays(path, {"nodes": nodes}, {"kind": "model", "config": config})
    with pytest.raises(ValueError, match=words):
        nn.load_model(path)


@pytest.mark.parametrize(
    ("config", "weight"),
    [
        ({"kind": "Linear", "n_in": 3, "n_out": 2, "bias": True}, {"weight": (3, 2), "bias": (2,)}),
        ({**FFF, "bias": True}, {"nodes": (1, 3, 5), "bias": (1, 3)}),
        (
            {**FLAT, "bias": True},
            {"planes": (1, 2, 3), "y_vectors": (1, 3, 2), "bias": (1, 2)},
        ),
    ],
)
def test_parameters_of_two_dtypes_are_refused(config, weight):
    parameters = {name: np.zeros(shape, np.float32) for name, shape in weight.items()}
    parameters["bias"] = parameters["bias"].astype(float)
    with pytest.raises(ValueError, match="parameter 'bias' must be a float32 array"):
        nn.layer_from_config(config, parameters)


def test_a_sum_refuses_outputs_of_different_shapes():
    x = np.ones((2, 3), np.float32)
    for kind in (nn.Sum, nn.Mix):
        model = kind(nn.Linear(3, 4), nn.Linear(3, 1))
        for call in (model, model.forward):
            words = r"outputs of one shape .* got \(2, 4\) and \(2, 1\)"
            with pytest.raises(ValueError, match=words):
                call(x)
    with pytest.raises(ValueError, match="one of the layers to mix must have parameters, got none"):
        nn.Mix(nn.ReLU(), nn.GELU())


def test_a_copy_of_a_mixture_has_its_own_share():
    model = nn.Mix(nn.FFF(3, 2, depth=2), nn.Linear(3, 2))
    other = model.with_parameters({name: array + 1 for name, array in model.parameters.items()})
    assert model.share == 0.5 and other.share == pytest.approx(1 / (1 + np.exp(-1)))
    assert other.layers[0].nodes is other.parameters["0.nodes"]


def test_losses_refuse_empty_batches_and_lists():
    for loss in (
        lambda: nn.softmax_cross_entropy(np.zeros((0, 3)), np.zeros(0, int)),
        lambda: nn.mean_squared_error(np.zeros((0, 3)), np.zeros((0, 3))),
    ):
        with pytest.raises(ValueError, match="must hold at least one sample"):
            loss()
    with pytest.raises(TypeError, match="logits must be a float32 or float64 array, got list"):
        nn.softmax_cross_entropy([[0.0, 1.0]], np.array([0]))
    with pytest.raises(TypeError, match=r"target must be a numpy\.ndarray, got list"):
        nn.mean_squared_error(np.zeros((1, 3)), [[0, 0, 0]])
