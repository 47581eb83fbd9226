"""The bag against its dense reference."""

import itertools

import numpy as np
import pytest

import fffnb
from fffnb import cpu, nn
from fffnb.activations import ACTIVATIONS
from fffnb.cpu import bag_choose, tree
from fffnb.reference import bag as reference

BOUND = {"float32": 1e-6, "float64": 1e-13}
WIDTHS = (1, 3, 63, 100, 257)
BATCHES = (0, 1, 7, 130)

#: Bits are those of one form; in the other one, kernels for float64 need not be compiled.
FORMS = [("float32", "serial"), ("float32", "parallel"), ("float64", "serial")]


def problem(n_in, n_out, n_nodes, n_trees, batch, dtype, *, bias=True, seed=0):
    """Return x, nodes, bias (or None) and grad_y."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((batch, n_in)).astype(dtype)
    nodes = rng.standard_normal((n_trees, n_nodes, n_in + n_out)).astype(dtype)
    nodes[:, :, :n_in] /= np.sqrt(n_in)
    biases = (0.1 * rng.standard_normal((n_trees, n_nodes))).astype(dtype)
    grad_y = rng.standard_normal((batch, n_out)).astype(dtype)
    return x, nodes, biases if bias else None, grad_y


def rms(array):
    return np.sqrt(np.mean(np.square(array, dtype=np.float64)))


def cases():
    """Return all pairs of widths, with the other factors running along in coprime cycles."""
    bags = itertools.cycle(((1, 1), (7, 3), (64, None), (2, None), (64, 8), (100, 100), (31, 30)))
    trees, acts = itertools.cycle((1, 3)), itertools.cycle(ACTIVATIONS)
    batches, biases = itertools.cycle((130, 7, 1, 130, 5)), itertools.cycle((True, False, False))
    return [
        (*pair, *next(bags), next(trees), next(acts), next(batches), next(biases))
        for pair in [*itertools.product(WIDTHS, WIDTHS)] * 2
    ]


def check(case, dtype, seed):
    """Compare forward and backward of one case; return counts of samples and unclear ones."""
    n_in, n_out, n_nodes, k, n_trees, activation, batch, with_bias = case
    x, nodes, bias, grad_y = problem(
        n_in, n_out, n_nodes, n_trees, batch, dtype, bias=with_bias, seed=seed
    )
    unclear = reference.forward(x, nodes, k, bias).ambiguous(np.finfo(dtype).eps, k)
    x, grad_y = x[~unclear], grad_y[~unclear]  # the others may choose otherwise, which is no error
    options = k, bias, activation
    truth = reference.forward(x, nodes, *options)
    y, trace = fffnb.bag_forward(x, nodes, k=k, bias=bias, activation=activation, return_trace=True)
    counts = np.diff(trace.starts) if k is None else n_trees * k
    mask = np.zeros((len(x), n_trees * n_nodes), bool)
    mask[np.repeat(np.arange(len(x)), counts), trace.rows.reshape(-1)] = True
    np.testing.assert_array_equal(mask.reshape(len(x), n_trees, -1), truth.mask.swapaxes(0, 1))
    if len(x):
        grads = fffnb.bag_backward(grad_y, x, nodes, trace)
        expected = reference.backward(grad_y, x, nodes, *options)
        sizes = reference.backward(grad_y, x, nodes, *options, absolute=True)
        pairs = [(y, truth.y, truth.y_size), *zip(grads, expected, sizes, strict=True)]
        assert (grads.bias is None) == (bias is None)
        for found, right, size in pairs:
            if found is not None:
                assert found.dtype == dtype and found.shape == right.shape
                assert rms(found - right) <= BOUND[dtype] * rms(size), case
    return batch, int(unclear.sum())


@pytest.mark.parametrize(("dtype", "form"), FORMS)
def test_equals_the_reference(dtype, form, monkeypatch):
    monkeypatch.setattr("fffnb.cpu.jit.forced", form)
    counts = [check(case, dtype, seed) for seed, case in enumerate(cases())]
    samples, unclear = np.sum(counts, axis=0)
    assert samples > 2500
    assert unclear <= 0.02 * samples


@pytest.mark.parametrize("k", [3, None])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_equal_finite_differences(activation, k):
    x, nodes, bias, weights = problem(5, 4, 9, 2, 6, "float64", seed=2)
    options = {"k": k, "bias": bias, "activation": activation, "return_trace": True}
    _, trace = fffnb.bag_forward(x, nodes, **options)
    grads = fffnb.bag_backward(weights, x, nodes, trace)

    def objective():
        y, again = fffnb.bag_forward(x, nodes, **options)
        np.testing.assert_array_equal(np.sort(again.rows), np.sort(trace.rows))
        return float((y * weights).sum())

    step = 1e-6
    for array, gradient in zip((x, nodes, bias), grads, strict=True):
        for at in np.ndindex(array.shape):
            before = array[at]
            array[at] = before + step
            high = objective()
            array[at] = before - step
            low = objective()
            array[at] = before
            assert gradient[at] == pytest.approx((high - low) / (2 * step), rel=1e-5, abs=1e-7)


SCORES = np.array([1, np.nan, 1, np.inf, -np.inf, np.nan, 2, -0.0, 0, 1], np.float32)


def in_order(scores):
    """Return where scores are, from the highest to the lowest, equal ones as they come."""
    numbers = np.where(np.isnan(scores), -np.inf, scores)
    return np.lexsort((np.arange(len(scores)), -numbers, np.isnan(scores)))


@pytest.mark.parametrize("n", [None, 1, 2, 300])
def test_the_best_come_first_and_ties_go_to_the_lower_node(n):
    rng = np.random.default_rng(3)
    scores = SCORES if n is None else rng.integers(-3, 3, n).astype(np.float32)
    nodes = np.stack([scores, np.ones_like(scores)], axis=1)[None]
    x = np.ones((1, 1), np.float32)
    for k in {1, 2, len(scores) // 2, len(scores) - 1, len(scores)} - {0}:
        if k <= len(scores):
            _, trace = fffnb.bag_forward(x, nodes, k=k, return_trace=True)
            order = in_order(scores)[:k]
            np.testing.assert_array_equal(trace.rows[0, 0], order)
            np.testing.assert_array_equal(trace.scores[0, 0], scores[order])
    y, trace = fffnb.bag_forward(x, nodes, k=None, return_trace=True)
    np.testing.assert_array_equal(trace.rows, np.flatnonzero(~(scores <= 0)))
    assert n is not None or np.isnan(y).all()  # a NaN score is seen


def test_nobody_is_chosen_where_no_score_is_positive():
    x, nodes, bias, grad_y = problem(9, 7, 5, 2, 6, "float32")
    bias[...], x[1::2] = -0.1, 0
    y, trace = fffnb.bag_forward(x, nodes, k=None, bias=bias, return_trace=True)
    grads = fffnb.bag_backward(grad_y, x, nodes, trace)
    assert (np.diff(trace.starts)[1::2] == 0).all() and len(trace.rows) > 0
    assert not y[1::2].any() and y[::2].any(axis=1).all()
    assert not grads.x[1::2].any() and grads.x[::2].any(axis=1).all()
    y, trace = fffnb.bag_forward(0 * x, nodes, k=None, bias=bias, return_trace=True)
    grads = fffnb.bag_backward(grad_y, 0 * x, nodes, trace, sparse=True)
    assert not y.any() and not grads.x.any() and len(grads.nodes.rows) == len(grads.bias.rows) == 0


@pytest.mark.parametrize("k", [3, None])
@pytest.mark.parametrize("batch", BATCHES)
def test_sparse_gradients_are_the_rows_of_the_dense_ones(batch, k):
    for bias in (True, False):
        x, nodes, biases, grad_y = problem(9, 7, 60, 3, batch, "float32", bias=bias)
        _, trace = fffnb.bag_forward(x, nodes, k=k, bias=biases, return_trace=True)
        dense = fffnb.bag_backward(grad_y, x, nodes, trace)
        sparse = fffnb.bag_backward(grad_y, x, nodes, trace, sparse=True)
        np.testing.assert_array_equal(sparse.x, dense.x)
        np.testing.assert_array_equal(sparse.nodes.rows, np.unique(trace.rows))
        pairs = [(sparse.nodes, dense.nodes.reshape(-1, 16))]
        if bias:
            pairs.append((sparse.bias, dense.bias.reshape(-1)))
            np.testing.assert_array_equal(sparse.nodes.bias, sparse.bias.values)
        for rows, whole in pairs:
            assert rows.count == len(rows.rows) == len(rows.values)
            np.testing.assert_array_equal(rows.values, whole[rows.rows])
            assert not np.delete(whole, rows.rows, axis=0).any()
        assert bias or sparse.bias is dense.bias is sparse.nodes.bias is None


def everything(x, nodes, bias, grad_y):
    """Return all results of both ops, for both kinds of choice, as bytes."""
    results = []
    for k in (5, None):
        options = {"k": k, "bias": bias, "activation": "gelu"}
        y, trace = fffnb.bag_forward(x, nodes, **options, return_trace=True)
        grads = fffnb.bag_backward(grad_y, x, nodes, trace)
        rows = fffnb.bag_backward(grad_y, x, nodes, trace, sparse=True).nodes
        results += [y, trace.scores, trace.rows, *grads, rows.rows, rows.values]
    return [array.tobytes() for array in results]


@pytest.mark.parametrize("batch", BATCHES[1:])
def test_neither_form_nor_borders_change_the_bits(batch, monkeypatch):
    arguments = problem(100, 63, 64, 2, batch, "float32", seed=4)
    arguments[0][0, 0] = np.nan
    found = []
    for form, chunk, size in itertools.product(("serial", "parallel"), (1, 8, 64), (1, 10**9)):
        monkeypatch.setattr("fffnb.cpu.jit.forced", form)
        monkeypatch.setattr(tree, "chunk_of", lambda batch, work, chunk=chunk: chunk)
        monkeypatch.setattr(tree, "STEP_BYTES", size)
        monkeypatch.setattr(cpu.bag, "BLOCK_BYTES", size)
        found.append(everything(*arguments))
    assert all(results == found[0] for results in found)


def test_one_and_two_threads_give_the_same_bits(monkeypatch):
    numba = pytest.importorskip("numba")
    monkeypatch.setattr("fffnb.cpu.jit.forced", "parallel")
    arguments = problem(100, 63, 64, 2, 130, "float32", seed=5)
    found, before = [], numba.get_num_threads()
    try:
        for threads in (1, min(2, before)):
            numba.set_num_threads(threads)
            found.append(everything(*arguments))
    finally:
        numba.set_num_threads(before)
    assert found[0] == found[1]


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


LAYOUTS = {
    "strided": lambda array: np.repeat(array, 2, axis=-1)[..., ::2],
    "transposed": np.asfortranarray,
    "read-only": read_only,
    "byte-swapped": lambda array: array.astype(array.dtype.newbyteorder()),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_of_x_and_grad_y(layout):
    x, nodes, bias, grad_y = problem(9, 7, 20, 2, 30, "float32")
    change = LAYOUTS[layout]
    assert everything(change(x), nodes, bias, change(grad_y)) == everything(x, nodes, bias, grad_y)


def test_inputs_are_not_written_and_may_be_read_only():
    inputs = problem(9, 7, 20, 2, 30, "float32")
    before = [array.copy() for array in inputs]
    result = everything(*inputs)
    for array, was in zip(inputs, before, strict=True):
        np.testing.assert_array_equal(array, was)
    compiled = list(bag_choose.score.serial.signatures)
    assert everything(*map(read_only, inputs)) == result
    assert compiled and bag_choose.score.serial.signatures == compiled
    for k in (5, None):
        y, trace = fffnb.bag_forward(*inputs[:2], k=k, return_trace=True)
        locked = [read_only(a) if isinstance(a, np.ndarray) else a for a in trace]
        fffnb.bag_backward(y, *inputs[:2], fffnb.BagTrace(*locked))


@pytest.mark.parametrize("k", [3, None])
@pytest.mark.parametrize("lead", [(), (1,), (0,), (2, 3), (2, 0, 3)])
def test_any_leading_axes(lead, k):
    _, nodes, bias, _ = problem(9, 7, 20, 2, 1, "float32")
    x = np.random.default_rng(0).standard_normal((*lead, 9)).astype("float32")
    y, trace = fffnb.bag_forward(x, nodes, k=k, bias=bias, return_trace=True)
    shape = trace.rows.shape if k is None else (*lead, 2, k)
    assert y.shape == (*lead, 7) and trace.scores.shape == trace.rows.shape == shape
    assert k or trace.starts.shape == (x.size // 9 + 1,)
    grads = fffnb.bag_backward(y, x, nodes, trace)
    assert grads.x.shape == x.shape
    rows = [fffnb.bag_forward(row, nodes, k=k, bias=bias) for row in x.reshape(-1, 9)]
    np.testing.assert_array_equal(y.reshape(-1, 7), np.reshape(rows, (-1, 7)))
    for gradient in (grads.nodes, grads.bias):
        assert np.isfinite(gradient).all() and gradient.any() == bool(x.size)


@pytest.mark.parametrize("contiguous", [True, False])
def test_out_receives_the_result(contiguous):
    x, nodes, _, _ = problem(9, 7, 20, 2, 12, "float32")
    room = np.full((3, 4, 14), np.nan, np.float32)
    out = room[:, :, :7].copy() if contiguous else room[:, :, ::2]
    assert fffnb.bag_forward(x.reshape(3, 4, 9), nodes, k=3, out=out) is out
    np.testing.assert_array_equal(out.reshape(12, 7), fffnb.bag_forward(x, nodes, k=3))


def test_init_bag_draws_unit_vectors_or_within_bounds():
    nodes = fffnb.init_bag(30, 20, 16, 2, dtype=float)
    assert nodes.shape == (2, 16, 50) and nodes.flags.c_contiguous
    for vectors in fffnb.split_nodes(nodes, 30):
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=2), 1, rtol=1e-5)
    x_vectors, y_vectors = fffnb.split_nodes(fffnb.init_bag(25, 20, 16, scheme="uniform"), 25)
    assert 0.18 < np.abs(x_vectors).max() <= 1 / 5 and 0.23 < np.abs(y_vectors).max() <= 1 / 4


@pytest.mark.parametrize("k", [8, None])
def test_a_short_training_run_learns(k):
    x = np.random.default_rng(8).standard_normal((3000, 12)).astype(np.float32)
    labels = (x[:, :3] > 0) @ np.array([4, 2, 1])
    layer = nn.BagFFF(12, 8, n_nodes=32, k=k, bias=True)
    before = nn.accuracy(layer, x[2000:], labels[2000:])
    optimizer = nn.AdamW(layer.parameters, lr=1e-2)
    nn.fit(layer, x[:2000], labels[:2000], optimizer=optimizer, batch_size=50, epochs=10)
    after = nn.accuracy(layer, x[2000:], labels[2000:])
    assert before < 0.3 and after > 0.7, (before, after)


def test_a_step_leaves_nodes_alone_that_nobody_chose():
    layer = nn.BagFFF(5, 4, n_nodes=30, k=3, bias=True)
    before = layer.nodes.copy()
    y, trace = layer.forward(np.ones((1, 5), np.float32))
    layer.backward_update(y, trace, nn.AdamW(layer.parameters, lr=0.1))
    assert (layer.nodes != before).any(axis=2).sum() == 3
