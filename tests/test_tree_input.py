"""What the tree op and the nodes refuse, and in which words."""

import numpy as np
import pytest

import fffnb

X = np.ones((5, 3), np.float32)
NODES = fffnb.init_nodes(3, 2, depth=4)
BIAS = np.zeros((1, 15), np.float32)
Y, TRACE = fffnb.fff_forward(X, NODES, bias=BIAS, return_trace=True)
NUMBERS = {"lr": 0.1, "momentum": 0.0, "weight_decay": 0.0, "nesterov": 0.0}
SGD = fffnb.UpdateRule("sgd", NUMBERS, {})
MOMENTUM = {**NUMBERS, "momentum": 0.9}
ADAMW = {"lr": 0.1, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "weight_decay": 0.0}


class Tensor:
    """An array of another library."""

    shape, dtype, ndim = (5, 3), "float32", 2


def swapped(array):
    return array.astype(array.dtype.newbyteorder())


FORWARD = [
    ({"x": X.tolist()}, TypeError, "x must be a numpy.ndarray, got builtins.list"),
    ({"x": Tensor()}, TypeError, "x must be a numpy.ndarray, got .*Tensor"),
    ({"x": np.ma.ones((5, 3), np.float32)}, TypeError, "x must be a plain .* got .*MaskedArray"),
    ({"x": np.ones((5, 3), int)}, TypeError, "x must have the dtype of nodes, float32, got int64"),
    ({"x": X.astype(float)}, TypeError, "x must have the dtype of nodes, float32, got float64"),
    ({"x": X.astype("f2")}, TypeError, "x must have the dtype of nodes, float32, got float16"),
    ({"x": X.astype(object)}, TypeError, "x must have the dtype of nodes, float32, got object"),
    (
        {"x": np.array([np.ones(3), np.ones(2)], dtype=object)},
        TypeError,
        "x must have the dtype of nodes, float32, got object",
    ),
    ({"x": np.float32(1)}, TypeError, "x must be a numpy.ndarray, got numpy.float32"),
    ({"x": np.array(1, "f4")}, ValueError, r"x must have shape \(..., n\) with n >= 1, got \(\)"),
    ({"x": X[:, :0]}, ValueError, r"x must have shape .* got \(5, 0\)"),
    ({"x": np.ones((5, 5), "f4")}, ValueError, "x must have fewer columns than nodes, 5 .* got 5"),
    ({"n_out": 3}, ValueError, "x must have 2 columns for n_out = 3 .* got 3"),
    ({"nodes": NODES.tolist()}, TypeError, "nodes must be a numpy.ndarray, got builtins.list"),
    ({"nodes": NODES[0]}, ValueError, r"nodes must be 3-D .* got shape \(15, 5\); nodes\[None\]"),
    ({"nodes": NODES[None]}, ValueError, r"nodes must be 3-D .* got \(1, 1, 15, 5\)"),
    ({"nodes": NODES[:0]}, ValueError, r"nodes must be 3-D .* not empty, got \(0, 15, 5\)"),
    ({"nodes": NODES[:, :14].copy()}, ValueError, r"must be 2\*\*depth - 1 .* got 14"),
    ({"nodes": np.asfortranarray(NODES)}, ValueError, r"nodes must be C-contiguous.*np\.ascont"),
    ({"nodes": NODES[:, :, ::-1]}, ValueError, "nodes must be C-contiguous, got strides"),
    ({"nodes": swapped(NODES)}, TypeError, "nodes must be of native byte order, got"),
    ({"nodes": NODES.astype(int)}, TypeError, "nodes must be float32 or float64, got int64"),
    ({"nodes": NODES.astype("f2")}, TypeError, "nodes must be float32 or float64, got float16"),
    ({"bias": BIAS[0]}, ValueError, r"bias must have shape \(1, 15\) .* got \(15,\)"),
    ({"bias": BIAS.astype(float)}, TypeError, "bias must be float32, got float64"),
    ({"bias": 0.0}, TypeError, "bias must be a numpy.ndarray, got builtins.float"),
    ({"activation": "swish"}, ValueError, "activation must be one of identity, .* got 'swish'"),
    ({"n_out": "2"}, TypeError, "n_out must be an int, got str"),
    ({"activation": np.array(["relu", "gelu"])}, ValueError, "activation must be one of"),
    ({"activation": None}, ValueError, "activation must be one of identity, .* got None"),
    ({"out": np.empty((5, 3), "f4")}, ValueError, r"out must have shape \(5, 2\) .* got \(5, 3\)"),
    ({"out": np.empty((5, 2))}, TypeError, "out must have the dtype of nodes, float32, got"),
    ({"out": [[0.0] * 2] * 5}, TypeError, "out must be a numpy.ndarray, got builtins.list"),
]


@pytest.mark.parametrize(("change", "error", "words"), FORWARD)
def test_forward_refuses(change, error, words):
    with pytest.raises(error, match=words):
        fffnb.fff_forward(**{"x": X, "nodes": NODES, "bias": BIAS, **change})
    np.testing.assert_array_equal(fffnb.fff_forward(X, NODES, bias=BIAS), Y)


def test_update_rows_refuses_a_dense_gradient_and_numbers_that_are_none():
    weights = np.ones((4, 2))
    with pytest.raises(TypeError, match="gradient must be a RowGradient, got ndarray"):
        fffnb.update_rows(weights, weights, SGD)
    gradient = fffnb.RowGradient(np.array([1]), np.ones((1, 2)), None, 1)
    with pytest.raises(TypeError):
        fffnb.update_rows(weights, gradient, SGD._replace(numbers={**NUMBERS, "lr": None}))
    assert (weights == 1).all()


def test_out_must_not_overlap_an_input():
    room = np.ones((5, 5), np.float32)
    with pytest.raises(ValueError, match="out must not overlap x"):
        fffnb.fff_forward(room[:, :3], NODES, out=room[:, 2:4])
    apart = fffnb.fff_forward(room[:, :3], NODES, out=room[:, 3:])
    np.testing.assert_array_equal(apart, fffnb.fff_forward(X, NODES))
    nodes = NODES.copy()
    with pytest.raises(ValueError, match="out must not overlap nodes"):
        fffnb.fff_forward(X, nodes, out=nodes[0, :5, :2])
    read_only = np.empty((5, 2), np.float32)
    read_only.flags.writeable = False
    with pytest.raises(ValueError, match="out must be writeable"):
        fffnb.fff_forward(X, NODES, out=read_only)


LEAVES = TRACE.leaves
BACKWARD = [
    ({"grad_y": Y[:4]}, ValueError, r"grad_y must have shape \(5, 2\) .* got \(4, 2\)"),
    ({"grad_y": Y.astype(float)}, TypeError, "grad_y must have the dtype of nodes"),
    ({"grad_y": Y.tolist()}, TypeError, "grad_y must be a numpy.ndarray, got builtins.list"),
    ({"x": X[:4]}, ValueError, r"grad_y must have shape \(4, 2\)"),
    (
        {"nodes": fffnb.init_nodes(3, 2, 5)},
        ValueError,
        "trace must come from nodes",
    ),
    ({"nodes": fffnb.init_nodes(3, 2, 4, 2)}, ValueError, "trace must come from nodes of shape"),
    ({"nodes": NODES.astype(float)}, TypeError, "x must have the dtype of nodes, float64"),
    ({"trace": None}, TypeError, "trace must be the Trace of fff_forward, got NoneType"),
    ({"trace": tuple(TRACE)}, TypeError, "trace must be the Trace of fff_forward, got tuple"),
    ({"trace": TRACE._replace(leaves=LEAVES[:4])}, ValueError, r"trace.leaves must have shape \(5"),
    ({"trace": TRACE._replace(leaves=LEAVES.astype(int))}, TypeError, "trace.leaves must be int32"),
    ({"trace": TRACE._replace(leaves=LEAVES + 16)}, ValueError, "must lie from 0 to 15, got"),
    ({"trace": TRACE._replace(leaves=LEAVES - 16)}, ValueError, "must lie from 0 to 15, got"),
    (
        {"trace": TRACE._replace(scores=TRACE.scores[:4])},
        ValueError,
        "trace.scores must have",
    ),
    (
        {"trace": TRACE._replace(scores=TRACE.scores.astype(float))},
        TypeError,
        "trace.scores must be",
    ),
    ({"trace": TRACE._replace(activation="swish")}, ValueError, "activation must be one of"),
    ({"trace": TRACE._replace(n_in=2)}, ValueError, "trace must come from .* n_in = 3, got"),
]


@pytest.mark.parametrize(("change", "error", "words"), BACKWARD)
def test_backward_refuses(change, error, words):
    arguments = {"grad_y": Y, "x": X, "nodes": NODES, "trace": TRACE, **change}
    before = arguments["nodes"].copy()
    with pytest.raises(error, match=words):
        fffnb.fff_backward(**arguments)
    with pytest.raises(error, match=words):
        fffnb.fff_backward_update(**arguments, rule=SGD)
    np.testing.assert_array_equal(arguments["nodes"], before)


RULES = [
    ("sgd", TypeError, "rule must be an UpdateRule, got str"),
    (SGD._replace(kind="lion"), ValueError, "rule.kind must be 'sgd' or 'adamw', got 'lion'"),
    (SGD._replace(numbers={"lr": 1.0}), ValueError, "rule.numbers must hold momentum, weight_dec"),
    (SGD._replace(numbers=MOMENTUM), TypeError, r"rule.state\['momentum'\] must be a numpy"),
    (
        fffnb.UpdateRule("sgd", MOMENTUM, {"momentum": NODES[:, :7].copy()}),
        ValueError,
        r"rule.state\['momentum'\] must have shape \(1, 15, 5\)",
    ),
    (
        fffnb.UpdateRule(
            "adamw",
            ADAMW,
            {"mean": NODES.copy(), "variance": NODES.copy(), "steps": np.zeros(14, int)},
        ),
        ValueError,
        r"rule.state\['steps'\] must have shape \(15,\)",
    ),
]


@pytest.mark.parametrize(("rule", "error", "words"), RULES)
def test_update_refuses_rules_that_do_not_fit(rule, error, words):
    nodes = NODES.copy()
    with pytest.raises(error, match=words):
        fffnb.fff_backward_update(Y, X, nodes, TRACE, rule)
    np.testing.assert_array_equal(nodes, NODES)


def test_update_refuses_what_it_cannot_write_or_misses():
    nodes = NODES.copy()
    nodes.flags.writeable = False
    with pytest.raises(ValueError, match="nodes must be writeable"):
        fffnb.fff_backward_update(Y, X, nodes, TRACE, SGD)
    with pytest.raises(ValueError, match="bias and bias_rule must be given together"):
        fffnb.fff_backward_update(Y, X, NODES.copy(), TRACE, SGD, bias=BIAS.copy())
    _, trace = fffnb.fff_forward(X, NODES, return_trace=True)
    with pytest.raises(ValueError, match="bias must be None"):
        fffnb.fff_backward_update(Y, X, NODES.copy(), trace, SGD, bias=BIAS.copy(), bias_rule=SGD)


ROWS = np.array([1, 3])
VALUES = np.ones((2, 2))
UPDATES = [
    ({"rows": np.array([3, 1])}, ValueError, "rows must be ascending, unique and below 4"),
    ({"rows": np.array([1, 1])}, ValueError, "rows must be ascending, unique and below 4"),
    ({"rows": np.array([1, 4])}, ValueError, "rows must be ascending, unique and below 4"),
    ({"rows": np.array([-1, 1])}, ValueError, "rows must be ascending, unique and below 4"),
    ({"rows": ROWS.astype("i4")}, TypeError, "gradient.rows must be int64, got int32"),
    ({"values": VALUES.astype("f4")}, TypeError, "gradient.values must be float64, got float32"),
    ({"values": np.ones((3, 2))}, ValueError, "gradient must hold count rows and as many values"),
    ({"values": np.ones((2, 3))}, ValueError, "gradient.values must have rows of"),
    ({"count": 1}, ValueError, "gradient must hold count rows"),
]


@pytest.mark.parametrize(("change", "error", "words"), UPDATES)
def test_update_rows_refuses(change, error, words):
    weights = np.ones((4, 2))
    fields = {"rows": ROWS, "values": VALUES, "bias": None, "count": 2, **change}
    with pytest.raises(error, match=words):
        fffnb.update_rows(weights, fffnb.RowGradient(**fields), SGD)
    assert (weights == 1).all()
