"""What the bag and product keys refuse, and in which words."""

import numpy as np
import pytest

import fffnb

X = np.ones((5, 4), np.float32)
NODES, BIAS = fffnb.init_bag(4, 2, n_nodes=9), np.zeros((1, 9), np.float32)
Y, TRACE = fffnb.bag_forward(X, NODES, k=3, bias=BIAS, return_trace=True)
POSITIVE = fffnb.bag_forward(X, NODES, k=None, return_trace=True)[1]
KEYS, VECTORS = fffnb.init_keys(4, 2, n_keys=3)
KEYS_TRACE = fffnb.keys_forward(X, KEYS, VECTORS, k=3, return_trace=True)[1]


def swapped(array):
    return array.astype(array.dtype.newbyteorder())


BAG = [
    ({"x": X.tolist()}, TypeError, "x must be a numpy.ndarray, got builtins.list"),
    ({"x": X.astype(float)}, TypeError, "x must have the dtype of nodes, float32, got float64"),
    ({"x": np.ones((5, 6), "f4")}, ValueError, "x must have fewer columns than nodes"),
    ({"n_out": 3}, ValueError, "x must have 3 columns for n_out = 3"),
    ({"nodes": NODES[0]}, ValueError, r"nodes must be 3-D .* got shape \(9, 6\); nodes\[None\]"),
    ({"nodes": NODES[:0]}, ValueError, r"not empty, got \(0, 9, 6\)"),
    ({"nodes": NODES.tolist()}, TypeError, "nodes must be a numpy.ndarray, got builtins.list"),
    ({"nodes": np.asfortranarray(NODES)}, ValueError, "nodes must be C-contiguous"),
    ({"nodes": swapped(NODES)}, TypeError, "nodes must be of native byte order"),
    ({"k": 10}, ValueError, "k must be at most the number of nodes of a bag, 9, got 10"),
    ({"k": 0}, ValueError, "k must be at least 1, got 0"),
    ({"k": 2.0}, TypeError, "k must be an int, got float"),
    ({"bias": BIAS[0]}, ValueError, r"bias must have shape \(1, 9\) .* got \(9,\)"),
    ({"bias": BIAS.astype(float)}, TypeError, "bias must be float32, got float64"),
    ({"activation": "swish"}, ValueError, "activation must be one of identity, .* got 'swish'"),
    ({"out": np.empty((5, 3), "f4")}, ValueError, r"out must have shape \(5, 2\) .* got \(5, 3\)"),
    ({"out": X[:, :2]}, ValueError, "out must not overlap x"),
]


@pytest.mark.parametrize(("change", "error", "words"), BAG)
def test_bag_forward_refuses(change, error, words):
    with pytest.raises(error, match=words):
        fffnb.bag_forward(**{"x": X, "nodes": NODES, "k": 3, "bias": BIAS, **change})


BAG_BACKWARD = [
    ({"grad_y": Y[:4]}, ValueError, r"grad_y must have shape \(5, 2\) .* got \(4, 2\)"),
    ({"grad_y": Y.astype(float)}, TypeError, "grad_y must have the dtype of nodes"),
    ({"trace": None}, TypeError, "trace must be the BagTrace of bag_forward, got NoneType"),
    ({"trace": KEYS_TRACE}, TypeError, "trace must be the BagTrace of bag_forward, got KeysTrace"),
    ({"trace": TRACE._replace(n_in=3)}, ValueError, r"of shape \(1, 9, 6\) and n_in = 4, got one"),
    ({"trace": TRACE._replace(activation="exec")}, ValueError, "activation must be one of"),
    ({"trace": TRACE._replace(rows=TRACE.rows + 7)}, ValueError, "trace.rows must lie from 0 to 8"),
    ({"trace": TRACE._replace(rows=TRACE.rows[:4])}, ValueError, r"trace.rows must have shape \(5"),
    ({"trace": TRACE._replace(rows=TRACE.rows[0, 0, 0:])}, ValueError, r"have shape \(5, 1, 3\)"),
    ({"trace": TRACE._replace(rows=np.array(1))}, ValueError, "k must be at least 1, got 0"),
    (
        {"trace": TRACE._replace(rows=TRACE.rows.astype("i4"))},
        TypeError,
        "trace.rows must be int64",
    ),
    ({"trace": TRACE._replace(scores=TRACE.scores.astype(float))}, TypeError, "trace.scores must"),
    (
        {"trace": POSITIVE._replace(rows=None, starts=None)},
        ValueError,
        "trace must come from arrays on the CPU, got one without rows",
    ),
    (
        {"trace": POSITIVE._replace(starts=POSITIVE.starts[:-1])},
        ValueError,
        r"trace.starts must have shape \(6,\)",
    ),
    (
        {"trace": POSITIVE._replace(starts=POSITIVE.starts[::-1].copy())},
        ValueError,
        "trace.starts must rise from 0",
    ),
    (
        {"trace": POSITIVE._replace(starts=2 * POSITIVE.starts)},
        ValueError,
        "trace.scores must have shape",
    ),
]


@pytest.mark.parametrize(("change", "error", "words"), BAG_BACKWARD)
def test_bag_backward_refuses(change, error, words):
    with pytest.raises(error, match=words):
        fffnb.bag_backward(**{"grad_y": Y, "x": X, "nodes": NODES, "trace": TRACE, **change})


FORWARD = [
    ({"x": np.ones((5, 3), "f4")}, ValueError, "x must have 4 columns, twice as many .* got 3"),
    ({"x": X.astype(float)}, TypeError, "x must have the dtype of keys, float32, got float64"),
    ({"y_vectors": VECTORS[:8]}, ValueError, r"must be a square, n_keys\*\*2 .* got 8 at shape"),
    ({"y_vectors": VECTORS[None]}, ValueError, r"y_vectors must be 2-D .* got \(1, 9, 2\)"),
    ({"y_vectors": VECTORS.astype(int)}, TypeError, "y_vectors must be float32 or float64"),
    ({"y_vectors": VECTORS.tolist()}, TypeError, "y_vectors must be a numpy.ndarray"),
    (
        {"keys": KEYS[:, :, :2]},
        ValueError,
        r"keys must have shape \(n_trees, 2, 3, n_in / 2\) for 9 y_vectors, .* got \(1, 2, 2, 2\)",
    ),
    ({"keys": KEYS[:, :1]}, ValueError, r"keys must have shape .* got \(1, 1, 3, 2\)"),
    ({"keys": KEYS.astype(float)}, TypeError, "keys must be float32, got float64"),
    ({"keys": KEYS[..., ::-1]}, ValueError, "keys must be C-contiguous"),
    ({"k": 10}, ValueError, "k must be at most the number of y vectors, 9, got 10"),
    ({"k": None}, TypeError, "k must be an int, got NoneType"),
    ({"activation": "softmax"}, ValueError, "activation must be one of"),
    ({"out": VECTORS[:5]}, ValueError, "out must not overlap y_vectors"),
]


@pytest.mark.parametrize(("change", "error", "words"), FORWARD)
def test_keys_forward_refuses(change, error, words):
    with pytest.raises(error, match=words):
        fffnb.keys_forward(**{"x": X, "keys": KEYS, "y_vectors": VECTORS, "k": 3, **change})


BACKWARD = [
    ({"grad_y": Y[:4]}, ValueError, r"grad_y must have shape \(5, 2\) .* got \(4, 2\)"),
    ({"trace": TRACE}, TypeError, "trace must be the KeysTrace of keys_forward, got BagTrace"),
    (
        {"trace": KEYS_TRACE._replace(y_vectors_shape=(9, 3))},
        ValueError,
        r"of shapes \(1, 2, 3, 2\) and \(9, 2\), got one of \(1, 2, 3, 2\) and \(9, 3\)",
    ),
    ({"trace": KEYS_TRACE._replace(rows=KEYS_TRACE.rows + 9)}, ValueError, "must lie from 0 to 8"),
    ({"trace": KEYS_TRACE._replace(scores=Y)}, ValueError, r"trace.scores must have shape \(5, 1"),
]


@pytest.mark.parametrize(("change", "error", "words"), BACKWARD)
def test_keys_backward_refuses(change, error, words):
    arguments = {"grad_y": Y, "x": X, "keys": KEYS, "y_vectors": VECTORS, "trace": KEYS_TRACE}
    with pytest.raises(error, match=words):
        fffnb.keys_backward(**{**arguments, **change})


@pytest.mark.parametrize(
    ("make", "arguments", "error", "words"),
    [
        (fffnb.init_bag, (3, 2, 0), ValueError, "n_nodes must be at least 1, got 0"),
        (fffnb.init_bag, (3, 2, 4.0), TypeError, "n_nodes must be an int, got float"),
        (fffnb.init_bag, (3, 2, 10**13), MemoryError, "nodes of shape .* would take"),
        (fffnb.init_keys, (3, 2, 4), ValueError, "n_in must be even, .* got 3"),
        (fffnb.init_keys, (4, 2, 0), ValueError, "n_keys must be at least 1, got 0"),
        (fffnb.init_keys, (4, 2, 10**7), MemoryError, "y_vectors of shape .* would take"),
    ],
)
def test_init_refuses(make, arguments, error, words):
    with pytest.raises(error, match=words):
        make(*arguments)
