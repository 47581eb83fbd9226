"""What the flat op refuses, and in which words."""

import numpy as np
import pytest

import fffnb
from fffnb import nn

X = np.ones((5, 3), np.float32)
PLANES, VECTORS = fffnb.init_flat(3, 2, depth=4)
BIAS = np.zeros((1, 4), np.float32)
Y, TRACE = fffnb.flat_forward(X, PLANES, VECTORS, bias=BIAS, return_trace=True)
TREE_TRACE = fffnb.fff_forward(X, fffnb.init_nodes(3, 2, depth=4), return_trace=True)[1]


RULE = nn.SGD({"bias": BIAS}, lr=0.1).rule("bias")


def frozen(array):
    array = array.copy()
    array.flags.writeable = False
    return array


def swapped(array):
    return array.astype(array.dtype.newbyteorder())


FORWARD = [
    ({"x": X.tolist()}, TypeError, "x must be a numpy.ndarray, got builtins.list"),
    ({"x": X.astype(float)}, TypeError, "x must have the dtype of planes, float32, got float64"),
    ({"x": np.array(1, "f4")}, ValueError, r"x must have shape \(..., n\) with n >= 1, got \(\)"),
    ({"x": np.ones((5, 4), "f4")}, ValueError, "x must have 3 columns like planes, got 4"),
    ({"planes": PLANES.tolist()}, TypeError, "planes must be a numpy.ndarray, got builtins.list"),
    ({"planes": PLANES[0]}, ValueError, r"planes must be 3-D .* got \(4, 3\)"),
    ({"planes": PLANES[:0]}, ValueError, r"planes must be 3-D .* not empty, .* got \(0, 4, 3\)"),
    ({"planes": np.ones((1, 32, 3), "f4")}, ValueError, "at most 31 levels, got"),
    ({"planes": np.asfortranarray(PLANES)}, ValueError, r"planes must be C-contiguous.*np\.ascont"),
    ({"planes": swapped(PLANES)}, TypeError, "planes must be of native byte order, got"),
    ({"planes": PLANES.astype(int)}, TypeError, "planes must be float32 or float64, got int64"),
    (
        {"planes": PLANES[:, :3].copy()},
        ValueError,
        r"y_vectors must .* \(1, 7, n_out\) .* or \(1, 24, n_out\) .* of shape \(1, 3, 3\), got",
    ),
    ({"y_vectors": VECTORS[0]}, ValueError, r"y_vectors must have shape \(1, 15, n_out\) .* got"),
    ({"y_vectors": VECTORS[:, :, :0]}, ValueError, r"n_out >= 1, .* got \(1, 15, 0\)"),
    ({"y_vectors": VECTORS.astype(float)}, TypeError, "y_vectors must be float32, got float64"),
    ({"y_vectors": VECTORS[:, ::-1]}, ValueError, "y_vectors must be C-contiguous, got strides"),
    ({"bias": BIAS[0]}, ValueError, r"bias must have shape \(1, 4\) .* got \(4,\)"),
    ({"bias": BIAS.astype(float)}, TypeError, "bias must be float32, got float64"),
    ({"activation": "swish"}, ValueError, "activation must be one of identity, .* got 'swish'"),
    ({"out": np.empty((5, 3), "f4")}, ValueError, r"out must have shape \(5, 2\) .* got \(5, 3\)"),
    ({"out": np.empty((5, 2))}, TypeError, "out must have the dtype of planes, float32, got"),
    ({"out": [[0.0] * 2] * 5}, TypeError, "out must be a numpy.ndarray, got builtins.list"),
]


@pytest.mark.parametrize(("change", "error", "words"), FORWARD)
def test_forward_refuses(change, error, words):
    arguments = {"x": X, "planes": PLANES, "y_vectors": VECTORS, "bias": BIAS, **change}
    with pytest.raises(error, match=words):
        fffnb.flat_forward(**arguments)


def test_out_must_not_overlap_an_input():
    vectors = VECTORS.copy()
    with pytest.raises(ValueError, match="out must not overlap y_vectors"):
        fffnb.flat_forward(X, PLANES, vectors, out=vectors[0, :5])


LEAVES = TRACE.leaves
BACKWARD = [
    ({"grad_y": Y[:4]}, ValueError, r"grad_y must have shape \(5, 2\) .* got \(4, 2\)"),
    ({"grad_y": Y.astype(float)}, TypeError, "grad_y must have the dtype of planes"),
    ({"x": X[:4]}, ValueError, r"grad_y must have shape \(4, 2\)"),
    ({"x": X[:, :2]}, ValueError, "x must have 3 columns like planes, got 2"),
    ({"trace": None}, TypeError, "trace must be the FlatTrace of flat_forward, got NoneType"),
    ({"trace": TREE_TRACE}, TypeError, "trace must be the FlatTrace of flat_forward, got Trace"),
    (
        {"trace": TRACE._replace(y_vectors_shape=(1, 15, 3))},
        ValueError,
        r"trace must come from .* \(1, 4, 3\) and \(1, 15, 2\), got one of \(1, 4, 3\) and \(1, 15",
    ),
    ({"trace": TRACE._replace(activation="exec")}, ValueError, "activation must be one of"),
    ({"trace": TRACE._replace(leaves=LEAVES[:4])}, ValueError, r"trace.leaves must have shape \(5"),
    ({"trace": TRACE._replace(leaves=LEAVES.astype(int))}, TypeError, "trace.leaves must be int32"),
    ({"trace": TRACE._replace(leaves=LEAVES + 16)}, ValueError, "must lie from 0 to 15, got"),
    (
        {"trace": TRACE._replace(scores=TRACE.scores[:4])},
        ValueError,
        r"trace.scores must have shape \(5, 1, 4\)",
    ),
]


@pytest.mark.parametrize(("change", "error", "words"), BACKWARD)
def test_backward_refuses(change, error, words):
    arguments = {"grad_y": Y, "x": X, "planes": PLANES, "y_vectors": VECTORS, "trace": TRACE}
    with pytest.raises(error, match=words):
        fffnb.flat_backward(**{**arguments, **change})


UPDATE = [
    ({"bias": None}, ValueError, "bias and bias_rule must be given together"),
    ({"planes": frozen(PLANES)}, ValueError, "planes must be writeable"),
    ({"y_vectors": frozen(VECTORS)}, ValueError, "y_vectors must be writeable"),
    ({"bias": frozen(BIAS)}, ValueError, "bias must be writeable"),
    ({"bias": BIAS[:, :3]}, ValueError, r"bias must .* got \(1, 3\)"),
    ({"planes_rule": None}, TypeError, "planes_rule must be an UpdateRule, got NoneType"),
    ({"y_vectors_rule": RULE._replace(kind="lion")}, ValueError, "y_vectors_rule.kind must be"),
    ({"bias_rule": RULE._replace(numbers={})}, ValueError, "bias_rule.numbers must hold lr"),
    ({"trace": TRACE._replace(has_bias=False)}, ValueError, "bias must be None, as the forward"),
    ({"x": X[:4]}, ValueError, r"grad_y must have shape \(4, 2\)"),
]


@pytest.mark.parametrize(("change", "error", "words"), UPDATE)
def test_backward_update_refuses_and_updates_nothing(change, error, words):
    layer = {"planes": PLANES.copy(), "y_vectors": VECTORS.copy(), "bias": BIAS.copy()}
    rules = dict.fromkeys(("planes_rule", "y_vectors_rule", "bias_rule"), RULE)
    arguments = {"grad_y": Y, "x": X, "trace": TRACE, **layer, **rules}
    with pytest.raises(error, match=words):
        fffnb.flat_backward_update(**{**arguments, **change})
    for name, before in (("planes", PLANES), ("y_vectors", VECTORS), ("bias", BIAS)):
        np.testing.assert_array_equal(layer[name], before)


def test_a_trace_of_the_flat_form_is_none_of_the_tree():
    with pytest.raises(TypeError, match="trace must be the Trace of fff_forward, got FlatTrace"):
        fffnb.fff_backward(Y, X, fffnb.init_nodes(3, 2, depth=4), TRACE)


def test_tensors_on_the_cpu_are_refused():
    torch = pytest.importorskip("torch", reason="asks for a tensor of PyTorch")
    tensor, words = torch.from_numpy, r"must be a numpy\.ndarray, got torch\.Tensor"
    with pytest.raises(TypeError, match=r"planes is a tensor on the CPU: .* pass x\.numpy\(\)"):
        fffnb.flat_forward(X, tensor(PLANES), tensor(VECTORS))
    with pytest.raises(TypeError, match=f"y_vectors {words}"):
        fffnb.flat_forward(X, PLANES, tensor(VECTORS))
    with pytest.raises(TypeError, match=f"x {words}"):
        fffnb.flat_forward(tensor(X), PLANES, VECTORS)


REFUSED = [
    ({"n_in": 0}, ValueError, "n_in must be at least 1, got 0"),
    ({"depth": 32}, ValueError, "depth must be at most 31 .* got 32"),
    ({"n_trees": 0}, ValueError, "n_trees must be at least 1, got 0"),
    ({"dtype": int}, TypeError, "dtype must be float32 or float64"),
    ({"scheme": "he"}, ValueError, "scheme must be .* got 'he'"),
    ({"rows": "leaves"}, ValueError, "rows must be 'nodes' or 'patterns', got 'leaves'"),
    ({"depth": 31, "n_out": 2048}, MemoryError, r"y_vectors of .* would take 17,592,186,036,224"),
    ({"n_in": 10**13}, MemoryError, "planes of shape .* would take"),
]


@pytest.mark.parametrize(("change", "error", "words"), REFUSED)
def test_init_refuses(change, error, words):
    with pytest.raises(error, match=words):
        fffnb.init_flat(**{"n_in": 3, "n_out": 2, "depth": 2, **change})
