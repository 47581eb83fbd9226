"""Soft training of the tree against its dense reference, and its hard limit."""

import numpy as np
import pytest

import fffnb
from fffnb.cpu import soft_paths
from fffnb.ops.paths import GATES
from fffnb.reference import soft as reference
from fffnb.reference import tree as hard_reference

BOUND = {"float32": 1e-6, "float64": 1e-13}
CASES = [  # n_in, n_out, depth, n_trees, batch, activation, bias, temperature, leak
    (1, 1, 1, 1, 1, "identity", True, 1.0, 0.0),
    (3, 5, 2, 3, 7, "relu", False, 0.5, 0.3),
    (63, 57, 6, 3, 130, "gelu", True, 0.5, 0.0),
    (257, 1, 7, 1, 33, "tanh", True, 2.0, 0.1),
    (100, 64, 5, 2, 64, "silu", False, 1.0, 0.5),
    (5, 100, 4, 1, 300, "relu2", True, 3.0, 0.05),
]


def problem(n_in, n_out, depth, n_trees, batch, dtype, *, bias=True, seed=0):
    """Return x, nodes, bias (or None), grad_y and grad_scores."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((batch, n_in)).astype(dtype)
    nodes = fffnb.init_nodes(n_in, n_out, depth, n_trees, rng=rng, dtype=dtype)
    biases = (0.1 * rng.standard_normal(nodes.shape[:2])).astype(dtype)
    grad_y = rng.standard_normal((batch, n_out)).astype(dtype)
    grad_scores = rng.standard_normal((batch, *nodes.shape[:2])).astype(dtype)
    return x, nodes, biases if bias else None, grad_y, grad_scores


def rms(array):
    return np.sqrt(np.mean(np.square(array, dtype=np.float64)))


def by_tree(array):
    """Return (batch, n_trees, n_nodes) as the reference has it."""
    return None if array is None else array.transpose(1, 0, 2)


def level_sums(weights):
    """Return the sum of the weights of each level."""
    starts = 2 ** np.arange(weights.shape[-1].bit_length()) - 1
    return np.add.reduceat(weights, starts, axis=-1)


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize(("dtype", "form"), [("float32", "parallel"), ("float64", "serial")])
def test_equals_the_reference(dtype, form, gate, monkeypatch):
    monkeypatch.setattr("fffnb.cpu.jit.forced", form)
    for seed, (*sizes, activation, with_bias, temperature, leak) in enumerate(CASES):
        x, nodes, bias, grad_y, grad_scores = problem(*sizes, dtype, bias=with_bias, seed=seed)
        options = {"temperature": temperature, "gate": gate, "leak": leak, "rng": seed}
        options |= {"bias": bias, "activation": activation}
        y, trace = fffnb.fff_forward_soft(x, nodes, **options, return_trace=True)
        loss, slopes = fffnb.hardening_loss(trace, reduction="sum")
        grads = fffnb.fff_backward_soft(grad_y, x, nodes, trace, grad_scores=grad_scores)
        assert (grads.bias is None) == (bias is None)

        same = reference.Options(bias, activation, gate, temperature, by_tree(trace.leaks))
        truth = reference.forward(x, nodes, same)
        entropy, rise = reference.hardening(truth.scores, gate, temperature)
        back = grad_y, x, nodes, same, by_tree(grad_scores)
        one = np.ones(())
        triples = [
            (y, truth.y, truth.size),
            (by_tree(trace.weights), truth.weights, one),
            (level_sums(trace.weights), one, one),
            (loss, entropy, entropy),
            (by_tree(slopes), rise, 1 / temperature),
            *zip(
                grads,
                reference.backward(*back),
                reference.backward(*back, absolute=True),
                strict=True,
            ),
        ]
        for found, right, size in triples:
            if found is not None:
                assert rms(found - right) <= BOUND[dtype] * rms(size), (seed, size)


@pytest.mark.parametrize(("gate", "activation"), [*zip(GATES, ("gelu", "relu2"), strict=True)])
def test_gradients_equal_finite_differences(gate, activation):
    x, nodes, bias, weights, _ = problem(4, 3, 3, 2, 5, "float64", seed=2)
    options = {"temperature": 1.5, "gate": gate, "leak": 0.3, "rng": 7, "return_trace": True}
    options |= {"bias": bias, "activation": activation}

    def objective():
        y, trace = fffnb.fff_forward_soft(x, nodes, **options)
        loss, grad_scores = fffnb.hardening_loss(trace, reduction="sum")
        return float((y * weights).sum() + 0.7 * loss), trace, 0.7 * grad_scores

    _, trace, grad_scores = objective()
    grads = fffnb.fff_backward_soft(weights, x, nodes, trace, grad_scores=grad_scores)
    step = 1e-6
    for array, gradient in zip((x, nodes, bias), grads, strict=True):
        for at in np.ndindex(array.shape):
            before = array[at]
            array[at] = before + step
            high = objective()[0]
            array[at] = before - step
            low = objective()[0]
            array[at] = before
            assert gradient[at] == pytest.approx((high - low) / (2 * step), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("gate", GATES)
def test_the_cold_limit_is_the_hard_tree(gate):
    x, nodes, bias, grad_y, _ = problem(63, 57, 6, 3, 130, "float32")
    clear = ~hard_reference.forward(x, nodes, bias).ambiguous(np.finfo("float32").eps)
    assert clear.sum() > 120
    x, grad_y = x[clear], grad_y[clear]
    options = {"bias": bias, "activation": "gelu", "return_trace": True}
    y, trace = fffnb.fff_forward_soft(x, nodes, temperature=1e-30, gate=gate, **options)
    right, path = fffnb.fff_forward(x, nodes, **options)
    np.testing.assert_allclose(y, right, atol=1e-5)
    np.testing.assert_array_equal(trace.weights.sum(axis=2), 6)
    assert set(np.unique(trace.weights)) == {0, 1}
    grads = fffnb.fff_backward_soft(grad_y, x, nodes, trace)
    for found, wanted in zip(grads, fffnb.fff_backward(grad_y, x, nodes, path), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-4)
    assert fffnb.hardening_loss(trace)[0] == 0


def test_the_smooth_step_decides_beyond_half_the_temperature():
    nodes = fffnb.pack_nodes(np.ones((3, 1)), np.ones((3, 1)))
    x = np.array([[-9.0], [-1.0], [-0.999], [0.0], [1.0], [9.0]])
    trace = fffnb.fff_forward_soft(
        x, nodes, temperature=2.0, gate="smooth_step", return_trace=True
    )[1]
    left, right = trace.weights[:, 0, 1], trace.weights[:, 0, 2]
    np.testing.assert_array_equal(right == 0, [True, True, False, False, False, False])
    np.testing.assert_array_equal(left == 0, [False, False, False, False, True, True])
    assert right[3] == 0.5
    loss, grad_scores = fffnb.hardening_loss(trace, reduction="sum")
    assert loss > 0
    np.testing.assert_array_equal(grad_scores[[0, 1, 4, 5]], 0)


def test_a_leak_swaps_children_at_its_rate_and_by_its_seed():
    x, nodes, *_ = problem(9, 7, 6, 2, 200, "float32")
    options = {"leak": 0.1, "return_trace": True}
    y, trace = fffnb.fff_forward_soft(x, nodes, rng=1, **options)
    assert 0.09 < trace.leaks.mean() < 0.11
    np.testing.assert_array_equal(y, fffnb.fff_forward_soft(x, nodes, rng=1, **options)[0])
    assert (y != fffnb.fff_forward_soft(x, nodes, rng=2, **options)[0]).any()
    dry = fffnb.fff_forward_soft(x, nodes, return_trace=True)[1]
    assert dry.leaks is None
    leaks = trace.leaks[:, :, 0]
    np.testing.assert_array_equal(trace.weights[leaks][:, 1], dry.weights[leaks][:, 2])
    np.testing.assert_array_equal(trace.weights[~leaks][:, 1], dry.weights[~leaks][:, 1])


@pytest.mark.parametrize("depth", [1, 4])
def test_the_hardening_loss_is_that_of_the_nodes_that_decide(depth):
    nodes = fffnb.init_nodes(3, 2, depth, n_trees=2)
    trace = fffnb.fff_forward_soft(np.zeros((4, 5, 3), "f4"), nodes, return_trace=True)[1]
    mean, mean_slopes = fffnb.hardening_loss(trace)
    total, slopes = fffnb.hardening_loss(trace, reduction="sum")
    n_decisions = 4 * 5 * 2 * (2 ** (depth - 1) - 1)
    assert total == pytest.approx(n_decisions * np.log(2))
    assert mean == pytest.approx(np.log(2) if n_decisions else 0)
    np.testing.assert_allclose(slopes, n_decisions * mean_slopes, rtol=1e-6)


def everything(x, nodes, bias, grad_y, grad_scores):
    """Return all results as bytes."""
    options = {"temperature": 0.7, "leak": 0.2, "rng": 3, "bias": bias, "activation": "gelu"}
    y, trace = fffnb.fff_forward_soft(x, nodes, **options, return_trace=True)
    grads = fffnb.fff_backward_soft(grad_y, x, nodes, trace, grad_scores=grad_scores)
    loss, slopes = fffnb.hardening_loss(trace)
    results = (y, trace.scores, trace.weights, trace.leaks, slopes, *grads)
    return [loss, *(array.tobytes() for array in results)]


def test_all_forms_and_thread_counts_give_the_same_bits(monkeypatch):
    numba = pytest.importorskip("numba")
    before = numba.get_num_threads()
    for batch in (1, 130):
        arguments = problem(9, 7, 5, 3, batch, "float32")
        monkeypatch.setattr("fffnb.cpu.jit.forced", "serial")
        expected = everything(*arguments)
        monkeypatch.setattr("fffnb.cpu.jit.forced", "parallel")
        try:
            for threads in (1, min(2, before)):
                numba.set_num_threads(threads)
                assert everything(*arguments) == expected
        finally:
            numba.set_num_threads(before)


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


LAYOUTS = {
    "strided": lambda array: np.repeat(array, 2, axis=-1)[..., ::2],
    "read-only": read_only,
    "byte-swapped": lambda array: array.astype(array.dtype.newbyteorder()),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_of_x_and_grad_y(layout):
    x, *layer, grad_y, grad_scores = problem(9, 7, 5, 2, 130, "float32")
    change = LAYOUTS[layout]
    found = everything(change(x), *layer, change(grad_y), grad_scores)
    assert found == everything(x, *layer, grad_y, grad_scores)


def test_inputs_are_not_written_and_may_be_read_only():
    inputs = problem(9, 7, 5, 2, 7, "float32")
    before = [array.copy() for array in inputs]
    expected = everything(*inputs)
    for array, was in zip(inputs, before, strict=True):
        np.testing.assert_array_equal(array, was)
    compiled = list(soft_paths.weigh.serial.signatures)
    assert everything(*map(read_only, inputs)) == expected
    assert list(soft_paths.weigh.serial.signatures) == compiled


@pytest.mark.parametrize("lead", [(), (0,), (2, 3), (2, 0, 3)])
def test_any_leading_axes(lead):
    _, nodes, bias, *_ = problem(9, 7, 5, 2, 1, "float32")
    x = np.random.default_rng(0).standard_normal((*lead, 9)).astype("float32")
    options = {"bias": bias, "leak": 0.1, "rng": 0, "return_trace": True}
    y, trace = fffnb.fff_forward_soft(x, nodes, **options)
    assert y.shape == (*lead, 7)
    for array in (trace.scores, trace.weights, trace.leaks):
        assert array.shape == (*lead, 2, 31)
    grads = fffnb.fff_backward_soft(y, x, nodes, trace, grad_scores=trace.scores)
    assert (grads.x.shape, grads.nodes.shape) == (x.shape, nodes.shape)
    for gradient in (grads.nodes, grads.bias):
        assert np.isfinite(gradient).all() and gradient.any() == bool(x.size)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_stay_in_their_sample(value):
    x, nodes, _, grad_y, _ = problem(9, 7, 5, 2, 7, "float32")
    clean = fffnb.fff_forward_soft(x, nodes)
    x[3, 2] = value
    y, trace = fffnb.fff_forward_soft(x, nodes, return_trace=True)
    others = np.arange(7) != 3
    np.testing.assert_array_equal(y[others], clean[others])
    assert not np.isfinite(y[3]).any()
    grads = fffnb.fff_backward_soft(grad_y, x, nodes, trace)
    assert np.isfinite(grads.x[others]).all()
