"""What the ops of the leaf form refuse, and in which words."""

import numpy as np
import pytest

import fffnb
from fffnb import nn

X = np.ones((5, 3), np.float32)
ROUTERS, LEAVES, BIAS = fffnb.init_leaf(3, 2, depth=2, width=6)
LAYER = {"x": X, "routers": ROUTERS, "leaves": LEAVES, "bias": BIAS}
Y, TRACE = fffnb.leaf_forward(**LAYER, return_trace=True)
SOFT_TRACE = fffnb.leaf_forward_soft(**LAYER, return_trace=True)[1]


def swapped(array):
    return array.astype(array.dtype.newbyteorder())


BOTH = [
    ({"x": X.tolist()}, TypeError, "x must be a numpy.ndarray, got builtins.list"),
    ({"x": X.astype(float)}, TypeError, "x must have the dtype of routers, float32, got float64"),
    ({"x": np.ones((5, 4), "f4")}, ValueError, "x must have 3 columns like routers, got 4"),
    ({"routers": ROUTERS[0]}, ValueError, r"routers must be 3-D .* got \(3, 3\)"),
    ({"routers": ROUTERS[:, :2]}, ValueError, r"routers of shape \(1, 2, 3\): .* 2\*\*depth - 1"),
    ({"routers": swapped(ROUTERS)}, TypeError, "routers must be of native byte order, got"),
    ({"routers": ROUTERS.astype(int)}, TypeError, "routers must be float32 or float64, got int64"),
    ({"leaves": LEAVES[0]}, ValueError, r"leaves must have shape \(1, 4, width, 3 \+ n_out\) .*"),
    ({"leaves": LEAVES[:, :, :, :3]}, ValueError, r"n_out >= 1 .* got \(1, 4, 6, 3\)"),
    ({"leaves": LEAVES[:, :, ::-1]}, ValueError, "leaves must be C-contiguous, got strides"),
    ({"leaves": LEAVES.astype(float)}, TypeError, "leaves must be float32, got float64"),
    ({"bias": tuple(BIAS)}, TypeError, "bias must be a LeafBias, got tuple"),
    ({"bias": BIAS._replace(hidden=None)}, TypeError, "bias.hidden must be a numpy.ndarray, got"),
    (
        {"bias": BIAS._replace(output=BIAS.hidden)},
        ValueError,
        r"bias.output must have shape \(1, 4, 2\) .* got \(1, 4, 6\)",
    ),
    ({"activation": "swish"}, ValueError, "activation must be one of identity, .* got 'swish'"),
]


@pytest.mark.parametrize(("change", "error", "words"), BOTH)
def test_both_forward_passes_refuse(change, error, words):
    for forward in (fffnb.leaf_forward, fffnb.leaf_forward_soft):
        with pytest.raises(error, match=words):
            forward(**{**LAYER, **change})


def test_the_hard_pass_refuses_an_output_that_cannot_take_the_result():
    with pytest.raises(ValueError, match=r"out must have shape \(5, 2\) .* got \(5, 3\)"):
        fffnb.leaf_forward(**LAYER, out=np.empty((5, 3), "f4"))
    output = np.zeros((1, 5, 2), "f4")[:, :4]
    with pytest.raises(ValueError, match="out must not overlap output"):
        bias = BIAS._replace(output=output)
        fffnb.leaf_forward(**{**LAYER, "bias": bias}, out=output.base[0])


SOFT = [
    ({"temperature": 0.0}, ValueError, "temperature must be a finite number above 0, got 0"),
    ({"gate": "step"}, ValueError, "gate must be one of sigmoid, smooth_step, got 'step'"),
    ({"leak": 0.6}, ValueError, "leak must be a probability from 0 to 0.5, got 0.6"),
]


@pytest.mark.parametrize(("change", "error", "words"), SOFT)
def test_the_soft_pass_and_the_layer_refuse(change, error, words):
    with pytest.raises(error, match=words):
        fffnb.leaf_forward_soft(**LAYER, **change)
    with pytest.raises(error, match=words):
        nn.LeafFFF(3, 2, 2, 6, **change)


def test_a_soft_pass_beyond_memory_is_refused():
    routers, leaves = np.broadcast_to(ROUTERS[:, :1], (1, 1, 3)), np.ones((1, 2, 10**4, 5), "f4")
    x = np.broadcast_to(X[:1], (10**8, 3))
    with pytest.raises(MemoryError, match=r"scores and weights .* would take 24,000,000,000,000 b"):
        fffnb.leaf_forward_soft(x, routers.copy(), leaves)


def without_bias(arguments):
    return {name: array for name, array in arguments.items() if name != "bias"}


BACKWARD = [
    ({"grad_y": Y[:4]}, ValueError, r"grad_y must have shape \(5, 2\) .* got \(4, 2\)"),
    ({"grad_y": Y.astype(float)}, TypeError, "grad_y must have the dtype of routers"),
    ({"trace": SOFT_TRACE}, TypeError, "be the LeafTrace of leaf_forward, got LeafSoftTrace"),
    (
        {"trace": TRACE._replace(leaves_shape=(1, 4, 5, 5))},
        ValueError,
        r"trace must come from .* \(1, 3, 3\) and \(1, 4, 6, 5\), got one of .* \(1, 4, 5, 5\)",
    ),
    ({"trace": TRACE._replace(activation="exec")}, ValueError, "activation must be one of"),
    ({"trace": TRACE._replace(leaves=TRACE.leaves + 4)}, ValueError, "must lie from 0 to 3, got"),
    (
        {"trace": TRACE._replace(scores=TRACE.scores[:4])},
        ValueError,
        r"trace.scores must have shape \(5, 1, 6\)",
    ),
]


@pytest.mark.parametrize(("change", "error", "words"), BACKWARD)
def test_the_hard_backward_pass_refuses(change, error, words):
    arguments = {"grad_y": Y, "trace": TRACE, **without_bias(LAYER), **change}
    with pytest.raises(error, match=words):
        fffnb.leaf_backward(**arguments)


SOFT_BACKWARD = [
    ({"trace": TRACE}, TypeError, "be the LeafSoftTrace of leaf_forward_soft, got LeafTrace"),
    ({"bias": None}, ValueError, "bias must be that of the forward pass, which had one"),
    (
        {"trace": SOFT_TRACE._replace(has_bias=False)},
        ValueError,
        "bias must be that of the forward pass, which had none",
    ),
    (
        {"grad_scores": np.zeros((5, 1, 4), "f4")},
        ValueError,
        r"grad_scores must have shape \(5, 1, 3\) .* got \(5, 1, 4\)",
    ),
    (
        {"trace": SOFT_TRACE._replace(weights=SOFT_TRACE.weights[:4])},
        ValueError,
        r"trace.weights must have shape \(5, 1, 7\)",
    ),
    ({"trace": SOFT_TRACE._replace(temperature=-1.0)}, ValueError, "temperature must be"),
]


@pytest.mark.parametrize(("change", "error", "words"), SOFT_BACKWARD)
def test_the_soft_backward_pass_refuses(change, error, words):
    arguments = {"grad_y": Y, "trace": SOFT_TRACE, **LAYER, **change}
    with pytest.raises(error, match=words):
        fffnb.leaf_backward_soft(**arguments)


def test_other_ops_refuse_the_traces_of_the_leaf_form():
    nodes = fffnb.init_nodes(3, 2, depth=2)
    with pytest.raises(TypeError, match="trace must be the Trace of fff_forward, got LeafTrace"):
        fffnb.fff_backward(Y, X, nodes, TRACE)
    with pytest.raises(TypeError, match="LeafSoftTrace of leaf_forward_soft, got LeafTrace"):
        fffnb.hardening_loss(TRACE)


REFUSED = [
    ({"n_in": 0}, ValueError, "n_in must be at least 1, got 0"),
    ({"depth": 32}, ValueError, "depth must be at most 31 .* got 32"),
    ({"width": 0}, ValueError, "width must be at least 1, got 0"),
    ({"width": 1.0}, TypeError, "width must be an int, got float"),
    ({"dtype": int}, TypeError, "dtype must be float32 or float64"),
    ({"width": 10**12}, MemoryError, r"leaves of shape .* would take 80,000,000,000,000 bytes"),
]


@pytest.mark.parametrize(("change", "error", "words"), REFUSED)
def test_init_refuses(change, error, words):
    with pytest.raises(error, match=words):
        fffnb.init_leaf(**{"n_in": 3, "n_out": 2, "depth": 2, "width": 6, **change})
