"""The balance loss against its reference; what it and the bias do, and what they refuse."""

import itertools
from functools import partial

import numpy as np
import pytest
from test_flat import problem
from test_score_gradient import assert_gradient, empty, on_paths, traced
from test_tree import BOUND

import fffnb
from fffnb import nn
from fffnb.nodes import FLAT_ROWS
from fffnb.reference import balance as reference
from fffnb.reference import tree

CASES = [(5, 2, 2, 1, 1), (3, 2, 4, 3, 40), (20, 2, 7, 2, 130)]


@pytest.mark.parametrize("case", CASES)
def test_balance_loss_equals_the_reference(case):
    for dtype in BOUND:
        x, nodes, bias, _, trace = traced(case, dtype)
        truth = tree.forward(x, nodes, bias)
        expected, gradient = reference.loss(truth.scores, truth.mask)
        loss, grad_scores = fffnb.balance_loss(trace, weight=3)
        eps = float(np.finfo(dtype).eps)
        assert loss == pytest.approx(3 * expected, rel=1e2 * eps)
        assert grad_scores.dtype == dtype
        bound = 1e3 * eps * np.abs(gradient).max()
        np.testing.assert_allclose(on_paths(grad_scores, truth.mask), 3 * gradient, atol=bound)
        assert not grad_scores[..., -1].any()


def test_the_reference_of_the_balance_loss_equals_finite_differences():
    x, nodes, bias, *_ = traced((3, 2, 4, 2, 9))
    truth = tree.forward(x, nodes, bias)
    scores = truth.scores
    _, gradient = reference.loss(scores, truth.mask)
    assert gradient.any()
    assert_gradient(lambda: reference.loss(scores, truth.mask)[0], scores, gradient)


def test_balance_loss_is_one_where_turns_are_even_and_two_where_all_surely_turn_one_way():
    nodes = fffnb.init_nodes(2, 1, depth=2, dtype=float)
    nodes[0, :, :2] = [[1, 0], [0, 1], [0, 1]]
    even = np.array([[-9.0, 1], [-1, -5], [2, 3], [1, -1]])
    trace = fffnb.fff_forward(even, nodes, return_trace=True)[1]
    loss, _ = fffnb.balance_loss(trace)
    assert loss == pytest.approx(1)
    trace = fffnb.fff_forward(np.abs(even) * 100, nodes, return_trace=True)[1]
    assert fffnb.balance_loss(trace)[0] == pytest.approx(2)
    assert fffnb.balance_loss(trace, weight=0)[0] == 0


def lopsided(bias, layer=nn.FFF):
    """Return samples that are not centred, and a layer whose trees send most of them one way."""
    x = (np.random.default_rng(2).standard_normal((500, 6)) + 1).astype(np.float32)
    return x, layer(6, 2, depth=4, n_trees=2, bias=bias)


def spread(layer, x):
    """Return the evenness of the visits of the last level's nodes, the mean over the trees."""
    visits = nn.usage(layer, x)[""].nodes[:, 7:]
    shares = visits[visits > 0] / len(x)
    return float(-(shares * np.log2(shares)).sum()) / 3 / len(visits)


@pytest.mark.parametrize("layer", [nn.FFF, nn.FlatFFF])
@pytest.mark.parametrize("means", ["loss", "bias"])
def test_training_evens_the_visits_out(means, layer):
    x, layer = lopsided(means == "bias", layer)
    if means == "loss":
        layer.score_loss = partial(fffnb.balance_loss, weight=10)
    else:
        layer.balance_rate = 0.02
    optimizer = nn.SGD(layer.parameters, lr=0.5)
    before = spread(layer, x)
    for start in itertools.islice(itertools.cycle(range(0, 500, 100)), 300):
        y, trace = layer.forward(x[start : start + 100])
        layer.backward_update(np.zeros_like(y), trace, optimizer)
    assert before < 0.85 and spread(layer, x) > 0.95


def test_layers_add_the_gradient_of_their_score_loss():
    x, layer = lopsided(bias=True)
    y, trace = layer.forward(x)
    plain = layer.backward(y, trace)[1]
    layer.score_loss = fffnb.balance_loss
    grad_x, gradients = layer.backward(y, trace)
    grad_scores = fffnb.balance_loss(trace[1])[1]
    expected = fffnb.fff_backward(y, x, layer.nodes, trace[1], grad_scores=grad_scores)
    np.testing.assert_array_equal(grad_x, expected.x)
    np.testing.assert_array_equal(gradients["nodes"], expected.nodes)
    assert (gradients["bias"] != plain["bias"]).any()


def test_balance_bias_moves_visited_nodes_away_from_their_fuller_side():
    x, nodes, bias, _, trace = traced((3, 2, 5, 3, 12))
    truth = tree.forward(x, nodes, bias)
    right = (truth.mask & (truth.scores > 0)).sum(axis=1)
    side = np.sign(2 * right - truth.mask.sum(axis=1))
    side[:, 15:] = 0  # the last level
    expected = bias - 0.25 * side
    fffnb.balance_bias(bias, trace, rate=0.25)
    np.testing.assert_array_equal(bias, expected)
    assert {-1, 0, 1} == set(side.reshape(-1))


@pytest.mark.parametrize("rows", FLAT_ROWS)
def test_balance_of_the_flat_form(rows):
    """The loss is that of a tree with these scores; with patterns the last level counts, too."""
    x, *layer, bias, _ = problem(3, 2, 4, 2, 30, "float64", seed=5, rows=rows)
    _, trace = fffnb.flat_forward(x, *layer, bias=bias, return_trace=True)
    loss, grad_scores = fffnb.balance_loss(trace, weight=3)
    scores, leaves, n_levels = trace.scores, trace.leaves, 3
    if rows == "patterns":  # as if one level more followed
        n_levels, leaves = 4, 2 * leaves
        scores = np.concatenate([scores, np.zeros((*scores.shape[:2], 1))], axis=2)
    shape = 2, 2 ** (n_levels + 1) - 1, 5
    same = fffnb.balance_loss(fffnb.Trace(scores, leaves, "relu", True, shape, 3), weight=3)
    assert loss == same[0]
    np.testing.assert_array_equal(grad_scores, same[1][..., :4])
    assert grad_scores[..., n_levels - 1].any()
    right = (trace.scores > 0).sum(axis=0)
    side = np.sign(2 * right - len(x)) * (np.arange(4) < n_levels)
    expected = bias - 0.25 * side
    fffnb.balance_bias(bias, trace, rate=0.25)
    np.testing.assert_array_equal(bias, expected)
    assert {-1, 1} <= set(side.reshape(-1))


def test_balance_refuses_what_it_cannot_take():
    x, nodes, bias, _, trace = traced((3, 2, 3, 1, 5))
    flat = fffnb.FlatTrace(*trace[:4], planes_shape=(1, 3, 3), y_vectors_shape=(1, 7, 2))
    shallow = fffnb.fff_forward(x, nodes[:, :1].copy(), bias=bias[:, :1].copy(), return_trace=True)
    traces = [
        (trace[:4], TypeError, "trace must be the Trace of fff_forward or the FlatTrace .* tuple"),
        (empty(trace), ValueError, r"trace must hold at least one sample, got .* \(0, 1, 3\)"),
        (shallow[1], ValueError, "trace must come from trees of at least two levels, got one"),
        (trace._replace(leaves=trace.leaves + 8), ValueError, "trace.leaves must lie from 0 to 7"),
        (trace._replace(scores=[1.0]), TypeError, "trace.scores must be a numpy.ndarray, got"),
        (trace._replace(scores=trace.scores[0, 0]), ValueError, "trace.scores must have shape"),
    ]
    for wrong, error, words in traces:
        for call in (fffnb.balance_loss, partial(fffnb.balance_bias, bias)):
            with pytest.raises(error, match=words):
                call(wrong)
    for value, error in (
        ("1", TypeError),
        (True, TypeError),
        (-1, ValueError),
        (np.nan, ValueError),
    ):
        with pytest.raises(error, match=r"weight must be a .*number.*, got"):
            fffnb.balance_loss(trace, weight=value)
        with pytest.raises(error, match=r"rate must be a .*number.*, got"):
            fffnb.balance_bias(bias, trace, rate=value)
    with pytest.raises(ValueError, match="from a forward pass with a bias, got one without"):
        fffnb.balance_bias(bias, trace._replace(has_bias=False))
    with pytest.raises(ValueError, match=r"bias must have shape \(1, 7\) .* got \(1, 3\)"):
        fffnb.balance_bias(bias[:, :3].copy(), trace)
    with pytest.raises(ValueError, match=r"bias must have shape \(1, 3\) .* got \(1, 7\)"):
        fffnb.balance_bias(bias, flat)
    with pytest.raises(TypeError, match="bias must be float64, got float32"):
        fffnb.balance_bias(bias.astype("f4"), trace)
    bias.flags.writeable = False
    with pytest.raises(ValueError, match="bias must be writeable"):
        fffnb.balance_bias(bias, trace)
