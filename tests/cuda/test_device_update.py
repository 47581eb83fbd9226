"""Row updates and the fused backward pass on device arrays."""

import kinds
import numpy as np
import pytest
from problems import on_device
from test_tree import problem, rms
from test_update import RULES, Replay, rule_for

import fffnb
from fffnb.reference import tree as reference

if kinds.MISSING:
    pytest.skip(kinds.MISSING, allow_module_level=True)

pytestmark = pytest.mark.usefixtures("tiles")

#: Of the steps, which AdamW makes from gradients of any size.
TOLERANCE = {"float32": 1e-4, "float64": 1e-11}

#: Of their root mean square: AdamW turns what rounding leaves of a sum near zero into a whole step.
RMS_TOLERANCE = {"float32": 1e-5, "float64": 1e-12}


def row_gradient(kind, rows, values, tail):
    """Return a row gradient that has `tail` places without a row."""
    rows = np.concatenate([rows, np.full(tail, -1)])
    beyond = np.full((tail, *values.shape[1:]), np.nan, values.dtype)
    count = kind.put(np.array([len(values)]))
    values = kind.put(np.concatenate([values, beyond]))
    return fffnb.RowGradient(kind.put(rows), values, None, count)


@pytest.mark.parametrize("width", [12, 10, 9, 1])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", RULES)
def test_visited_rows_follow_the_replay(name, dtype, width, kind):
    rng = np.random.default_rng(0)
    before = rng.standard_normal((2, 7, width)).astype(dtype)
    replay, rule = Replay(name, before, width), on_device(kind, rule_for(name, before, width))
    parameter, seen = kind.put(before), np.zeros(14, bool)
    for tail in (0, 3, 1):
        rows = np.flatnonzero(rng.random(14) < 0.3)
        values = rng.standard_normal((len(rows), width)).astype(dtype)
        fffnb.update_rows(parameter, row_gradient(kind, rows, values, tail), rule)
        replay.step(rows, values)
        seen[rows] = True
    assert not seen.all()
    found = kind.get(parameter).reshape(14, width)
    np.testing.assert_allclose(found, replay.rows, rtol=0, atol=TOLERANCE[dtype])
    np.testing.assert_array_equal(found[~seen], before.reshape(14, width)[~seen])
    for key, state in rule.state.items():
        state = kind.get(state).reshape(14, -1)
        assert not state[~seen].any()
        if key == "steps":
            np.testing.assert_array_equal(state[:, 0], replay.steps)


def test_a_gradient_of_single_numbers(kind):
    before = np.ones((2, 3), np.float32)
    parameter = kind.put(before)
    gradient = row_gradient(kind, np.array([0, 4]), np.array([1, 2], np.float32), 2)
    rule = fffnb.UpdateRule("sgd", {**RULES["sgd"][1], "weight_decay": 0.0}, {})
    fffnb.update_rows(parameter, gradient, rule)
    np.testing.assert_allclose(kind.get(parameter), [[0.9, 1, 1], [1, 0.8, 1]], rtol=1e-6)
    fffnb.update_rows(parameter, row_gradient(kind, np.zeros(0, int), before[0, :0], 0), rule)
    np.testing.assert_allclose(kind.get(parameter), [[0.9, 1, 1], [1, 0.8, 1]], rtol=1e-6)


LAYERS = {"small": (9, 12, 3, 2), "default": (264, 120, 9, 2)}
BATCHES = {"small": (11, 1), "default": (2500, 1, 100)}


@pytest.mark.parametrize(
    ("name", "dtype"), [*((name, "float32") for name in RULES), ("adamw", "float64")]
)
def test_fused_update_is_that_of_the_cpu(name, dtype, kind, tiles):
    rng = np.random.default_rng(1)
    n_in, n_out, depth, n_trees = LAYERS[tiles]
    _, nodes, bias, _ = problem(n_in, n_out, depth, n_trees, 1, dtype, seed=1)
    rules = [rule_for(name, nodes, n_in + n_out), rule_for(name, bias, 1)]
    mine = [kind.put(nodes), kind.put(bias)]
    my_rules = [on_device(kind, rule) for rule in rules]
    for batch in BATCHES[tiles]:
        x = rng.standard_normal((batch, n_in)).astype(dtype)
        x = x[~reference.forward(x, nodes, bias).ambiguous(np.finfo(dtype).eps)]
        grad_y = rng.standard_normal((len(x), n_out)).astype(dtype) / batch
        _, trace = fffnb.fff_forward(x, nodes, bias=bias, activation="silu", return_trace=True)
        my_x, my_grad_y = kind.put(x), kind.put(grad_y)
        _, my_trace = fffnb.fff_forward(
            my_x, mine[0], bias=mine[1], activation="silu", return_trace=True
        )
        np.testing.assert_array_equal(kind.get(my_trace.leaves), trace.leaves)
        expected_x = kind.get(fffnb.fff_backward(my_grad_y, my_x, mine[0], my_trace).x)
        fffnb.fff_backward_update(grad_y, x, nodes, trace, rules[0], bias=bias, bias_rule=rules[1])
        grad_x = fffnb.fff_backward_update(
            my_grad_y, my_x, mine[0], my_trace, my_rules[0], bias=mine[1], bias_rule=my_rules[1]
        )
        assert isinstance(grad_x, kind.type)
        np.testing.assert_array_equal(kind.get(grad_x), expected_x)  # from the nodes as they were
        pairs = [(mine[0], nodes), (mine[1], bias)]
        for rule, my_rule in zip(rules, my_rules, strict=True):
            pairs += [(my_rule.state[key], array) for key, array in rule.state.items()]
        for found, right in pairs:
            assert rms(kind.get(found) - right) <= RMS_TOLERANCE[dtype]
        nodes[...], bias[...] = kind.get(mine[0]), kind.get(mine[1])


@pytest.mark.parametrize("name", RULES)
def test_fused_update_is_backward_and_row_updates(name, kind, tiles):
    n_in, n_out, depth, n_trees = LAYERS[tiles]
    host = problem(n_in, n_out, depth, n_trees, BATCHES[tiles][0], "float64", seed=2)
    x, nodes, bias, grad_y = map(kind.put, host)
    _, trace = fffnb.fff_forward(x, nodes, bias=bias, activation="gelu", return_trace=True)
    other = kind.put(host[1])
    rule, other_rule = (on_device(kind, rule_for(name, host[1], n_in + n_out)) for _ in range(2))
    sparse = fffnb.fff_backward(grad_y, x, nodes, trace, sparse=True)
    fffnb.update_rows(other, sparse.nodes, other_rule)
    fffnb.fff_backward_update(grad_y, x, nodes, trace, rule)
    np.testing.assert_array_equal(kind.get(bias), host[2])  # it has no rule
    for found, right in (
        (nodes, other),
        *((rule.state[k], other_rule.state[k]) for k in rule.state),
    ):
        assert kind.get(found).any()
        np.testing.assert_allclose(kind.get(found), kind.get(right), rtol=0, atol=1e-11)


def test_an_empty_batch_updates_nothing(kind):
    x, nodes, bias, grad_y = problem(3, 2, 3, 1, 0, "float32")
    mine = [kind.put(nodes), kind.put(bias)]
    rules = [on_device(kind, rule_for("adamw", *pair)) for pair in ((nodes, 5), (bias, 1))]
    x, grad_y = kind.put(x), kind.put(grad_y)
    _, trace = fffnb.fff_forward(x, mine[0], bias=mine[1], return_trace=True)
    grad_x = fffnb.fff_backward_update(
        grad_y, x, mine[0], trace, rules[0], bias=mine[1], bias_rule=rules[1]
    )
    assert tuple(grad_x.shape) == (0, 3)
    np.testing.assert_array_equal(kind.get(mine[0]), nodes)
    np.testing.assert_array_equal(kind.get(mine[1]), bias)
    assert not any(kind.get(rule.state["steps"]).any() for rule in rules)
