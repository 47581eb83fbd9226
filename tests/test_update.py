"""Row updates and the fused backward pass against a replay row by row in float64."""

import numpy as np
import pytest

import fffnb

SGD = {"lr": 0.1, "momentum": 0.0, "weight_decay": 0.05, "nesterov": 0.0}
RULES = {
    "sgd": ("sgd", SGD),
    "momentum": ("sgd", {**SGD, "momentum": 0.9}),
    "nesterov": ("sgd", {**SGD, "momentum": 0.9, "nesterov": 1.0}),
    "adamw": ("adamw", {"lr": 0.1, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "weight_decay": 0.1}),
}


class Replay:
    """An optimiser written out for whole rows in float64, with a step count for each row."""

    def __init__(self, name, parameter, width):
        self.kind, self.numbers = RULES[name]
        self.rows = parameter.astype(np.float64).reshape(-1, width)
        self.first, self.second = np.zeros((2, *self.rows.shape))
        self.steps = np.zeros(len(self.rows), int)

    def step(self, rows, gradients):
        for row, gradient in zip(rows, gradients.reshape(len(rows), -1), strict=True):
            self.steps[row] += 1
            (self.sgd if self.kind == "sgd" else self.adamw)(row, gradient.astype(np.float64))

    def sgd(self, row, gradient):
        n = self.numbers
        gradient = gradient + n["weight_decay"] * self.rows[row]
        self.first[row] = n["momentum"] * self.first[row] + gradient
        ahead = gradient + n["momentum"] * self.first[row]
        self.rows[row] -= n["lr"] * (ahead if n["nesterov"] else self.first[row])

    def adamw(self, row, gradient):
        n, t = self.numbers, self.steps[row]
        self.rows[row] *= 1 - n["lr"] * n["weight_decay"]
        self.first[row] = n["beta1"] * self.first[row] + (1 - n["beta1"]) * gradient
        self.second[row] = n["beta2"] * self.second[row] + (1 - n["beta2"]) * gradient**2
        mean, square = (
            self.first[row] / (1 - n["beta1"] ** t),
            self.second[row] / (1 - n["beta2"] ** t),
        )
        self.rows[row] -= n["lr"] * mean / (np.sqrt(square) + n["eps"])


def rule_for(name, parameter, width):
    """Return a rule with fresh state."""
    kind, numbers = RULES[name]
    state = {}
    if kind == "adamw":
        steps = np.zeros(parameter.size // width, np.int64)
        state = {"mean": np.zeros_like(parameter), "variance": np.zeros_like(parameter)}
        state["steps"] = steps
    elif numbers["momentum"]:
        state = {"momentum": np.zeros_like(parameter)}
    return fffnb.UpdateRule(kind, numbers, state)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", RULES)
def test_visited_rows_follow_the_replay(name, dtype, form):
    rng = np.random.default_rng(0)
    parameter = rng.standard_normal((3, 7, 10)).astype(dtype)
    before = parameter.copy()
    replay, rule = Replay(name, parameter, 10), rule_for(name, parameter, 10)
    seen = np.zeros(21, bool)
    for _ in range(9):
        rows = np.flatnonzero(rng.random(21) < 0.2)
        values = rng.standard_normal((len(rows), 10)).astype(dtype)
        fffnb.update_rows(parameter, fffnb.RowGradient(rows, values, None, len(rows)), rule)
        replay.step(rows, values)
        seen[rows] = True
    assert not seen.all()
    tolerance = 2e-5 if dtype == "float32" else 1e-13
    np.testing.assert_allclose(parameter.reshape(21, 10), replay.rows, rtol=0, atol=tolerance)
    np.testing.assert_array_equal(parameter.reshape(21, 10)[~seen], before.reshape(21, 10)[~seen])
    for state in rule.state.values():
        assert not state.reshape(21, -1)[~seen].any()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", RULES)
def test_fused_update_is_backward_and_row_updates(name, dtype, form):
    rng = np.random.default_rng(1)
    nodes = fffnb.init_nodes(33, 20, depth=6, n_trees=2, dtype=dtype)
    bias = (0.1 * rng.standard_normal((2, 63))).astype(dtype)
    replay, bias_replay = Replay(name, nodes, 53), Replay(name, bias, 1)
    rule, bias_rule = rule_for(name, nodes, 53), rule_for(name, bias, 1)
    for batch in (40, 1, 7):
        x = rng.standard_normal((batch, 33)).astype(dtype)
        y, trace = fffnb.fff_forward(x, nodes, bias=bias, activation="silu", return_trace=True)
        grad_y = rng.standard_normal(y.shape).astype(dtype)
        grads = fffnb.fff_backward(grad_y, x, nodes, trace, sparse=True)
        replay.step(grads.nodes.rows, grads.nodes.values)
        bias_replay.step(grads.bias.rows, grads.bias.values)
        grad_x = fffnb.fff_backward_update(
            grad_y, x, nodes, trace, rule, bias=bias, bias_rule=bias_rule
        )
        np.testing.assert_array_equal(grad_x, grads.x)  # from the nodes as they were
        tolerance = 1e-4 if dtype == "float32" else 1e-12
        np.testing.assert_allclose(nodes.reshape(126, 53), replay.rows, atol=tolerance)
        np.testing.assert_allclose(bias.reshape(126, 1), bias_replay.rows, atol=tolerance)
        nodes[...] = replay.rows.reshape(nodes.shape)
        bias[...] = bias_replay.rows.reshape(bias.shape)


def test_without_a_bias_rule_the_bias_stays():
    x = np.ones((4, 3), np.float32)
    nodes, bias = fffnb.init_nodes(3, 2, depth=3), np.ones((1, 7), np.float32)
    y, trace = fffnb.fff_forward(x, nodes, bias=bias, return_trace=True)
    fffnb.fff_backward_update(y, x, nodes, trace, rule_for("sgd", nodes, 5))
    assert (bias == 1).all()


def test_an_empty_batch_updates_nothing():
    nodes, bias = fffnb.init_nodes(3, 2, depth=3), np.ones((1, 7), np.float32)
    before = nodes.copy()
    x = np.ones((0, 3), np.float32)
    y, trace = fffnb.fff_forward(x, nodes, bias=bias, return_trace=True)
    rules = [rule_for("adamw", parameter, width) for parameter, width in ((nodes, 5), (bias, 1))]
    grad_x = fffnb.fff_backward_update(y, x, nodes, trace, rules[0], bias=bias, bias_rule=rules[1])
    assert grad_x.shape == (0, 3)
    np.testing.assert_array_equal(nodes, before)
    assert not any(rule.state["steps"].any() for rule in rules)
