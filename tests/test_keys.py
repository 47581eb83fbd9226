"""Product keys against their dense reference, and against all sums."""

import itertools

import numpy as np
import pytest

import fffnb
from fffnb import cpu, nn
from fffnb.activations import ACTIVATIONS
from fffnb.cpu import tree
from fffnb.reference import keys as reference

BOUND = {"float32": 1e-6, "float64": 1e-13}

#: Bits are those of one form; in the other one, kernels for float64 need not be compiled.
FORMS = [("float32", "serial"), ("float32", "parallel"), ("float64", "serial")]


def problem(n_in, n_out, n_keys, n_trees, batch, dtype, *, seed=0):
    """Return x, keys, y vectors and grad_y."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((batch, n_in)).astype(dtype)
    keys = (rng.standard_normal((n_trees, 2, n_keys, n_in // 2)) / np.sqrt(n_in)).astype(dtype)
    y_vectors = rng.standard_normal((n_keys**2, n_out)).astype(dtype)
    return x, keys, y_vectors, rng.standard_normal((batch, n_out)).astype(dtype)


def rms(array):
    return np.sqrt(np.mean(np.square(array, dtype=np.float64)))


def cases():
    """Return pairs of widths, with the other factors running along in coprime cycles."""
    choices = itertools.cycle(((1, 1), (5, 3), (9, 1), (9, 81), (4, 16), (16, 20), (3, 7)))
    trees, acts = itertools.cycle((1, 3)), itertools.cycle(ACTIVATIONS)
    batches = itertools.cycle((130, 7, 1, 130, 5))
    return [
        (*pair, *next(choices), next(trees), next(acts), next(batches))
        for pair in [*itertools.product((2, 6, 126, 258), (1, 63, 257))] * 3
    ]


def check(case, dtype, seed):
    """Compare forward and backward of one case; return counts of samples and unclear ones."""
    n_in, n_out, n_keys, k, n_trees, activation, batch = case
    x, keys, y_vectors, grad_y = problem(n_in, n_out, n_keys, n_trees, batch, dtype, seed=seed)
    unclear = reference.forward(x, keys, y_vectors, k).ambiguous(np.finfo(dtype).eps, k)
    x, grad_y = x[~unclear], grad_y[~unclear]  # the others may choose otherwise, which is no error
    options = k, activation
    truth = reference.forward(x, keys, y_vectors, *options)
    y, trace = fffnb.keys_forward(x, keys, y_vectors, k=k, activation=activation, return_trace=True)
    mask = np.zeros((len(x), n_trees, n_keys**2), bool)
    np.put_along_axis(mask, trace.rows, True, axis=2)
    np.testing.assert_array_equal(mask, truth.mask.swapaxes(0, 1))
    if len(x):
        grads = fffnb.keys_backward(grad_y, x, keys, y_vectors, trace)
        expected = reference.backward(grad_y, x, keys, y_vectors, *options)
        sizes = reference.backward(grad_y, x, keys, y_vectors, *options, absolute=True)
        pairs = [(y, truth.y, truth.y_size), *zip(grads, expected, sizes, strict=True)]
        for found, right, size in pairs:
            assert found.dtype == dtype and found.shape == right.shape
            assert rms(found - right) <= BOUND[dtype] * rms(size), case
    return batch, int(unclear.sum())


@pytest.mark.parametrize(("dtype", "form"), FORMS)
def test_equals_the_reference(dtype, form, monkeypatch):
    monkeypatch.setattr("fffnb.cpu.jit.forced", form)
    counts = [check(case, dtype, seed) for seed, case in enumerate(cases())]
    samples, unclear = np.sum(counts, axis=0)
    assert samples > 1500
    assert unclear <= 0.02 * samples


@pytest.mark.parametrize("k", [1, 4, 30, 49])
def test_equal_sums_are_told_apart_by_their_keys(k):
    rng = np.random.default_rng(1)
    keys = rng.integers(-2, 3, (2, 2, 7, 3)).astype(np.float32)
    x = rng.integers(-1, 2, (50, 6)).astype(np.float32)
    _, trace = fffnb.keys_forward(x, keys, np.ones((49, 1), np.float32), k=k, return_trace=True)
    for s, t in np.ndindex(50, 2):
        halves = [keys[t, h] @ x[s, 3 * h : 3 * h + 3] for h in range(2)]
        first, second = (np.argsort(np.argsort(-scores, kind="stable")) for scores in halves)
        sums = np.add.outer(*halves).ravel()
        order = np.lexsort((np.tile(second, 7), np.repeat(first, 7), -sums))[:k]
        np.testing.assert_array_equal(trace.rows[s, t], order)
        np.testing.assert_array_equal(trace.scores[s, t], sums[order])


@pytest.mark.parametrize("k", [1, 16, 100, 4096])
def test_the_choice_is_that_among_all_sums(k):
    x, keys, y_vectors, _ = problem(16, 3, 64, 2, 20, "float32", seed=2)
    _, trace = fffnb.keys_forward(x, keys, y_vectors, k=k, return_trace=True)
    halves = cpu.bag.score(x, keys.reshape(-1, 8), None, 4, 2).reshape(20, 2, 2, 64)
    sums = (halves[:, :, 0, :, None] + halves[:, :, 1, None, :]).reshape(20, 2, -1)
    np.testing.assert_array_equal(trace.scores, -np.sort(-sums, axis=2)[:, :, :k])
    np.testing.assert_array_equal(trace.scores, np.take_along_axis(sums, trace.rows, axis=2))
    assert all(len(np.unique(rows)) == k for rows in trace.rows.reshape(-1, k))


def test_gradients_equal_finite_differences():
    x, *layer, weights = problem(6, 4, 3, 2, 6, "float64", seed=3)
    options = {"k": 4, "activation": "gelu", "return_trace": True}
    _, trace = fffnb.keys_forward(x, *layer, **options)
    grads = fffnb.keys_backward(weights, x, *layer, trace)

    def objective():
        y, again = fffnb.keys_forward(x, *layer, **options)
        np.testing.assert_array_equal(np.sort(again.rows), np.sort(trace.rows))
        return float((y * weights).sum())

    step = 1e-6
    for array, gradient in zip((x, *layer), grads, strict=True):
        for at in np.ndindex(array.shape):
            before = array[at]
            array[at] = before + step
            high = objective()
            array[at] = before - step
            low = objective()
            array[at] = before
            assert gradient[at] == pytest.approx((high - low) / (2 * step), rel=1e-5, abs=1e-7)


def everything(x, keys, y_vectors, grad_y):
    """Return all results of both ops as bytes."""
    layer = keys, y_vectors
    y, trace = fffnb.keys_forward(x, *layer, k=20, activation="silu", return_trace=True)
    grads = fffnb.keys_backward(grad_y, x, *layer, trace)
    rows = fffnb.keys_backward(grad_y, x, *layer, trace, sparse=True).y_vectors
    results = [y, trace.scores, trace.rows, *grads, rows.rows, rows.values]
    return [array.tobytes() for array in results]


@pytest.mark.parametrize("batch", [1, 7, 130])
def test_neither_form_nor_borders_nor_threads_change_the_bits(batch, monkeypatch):
    numba = pytest.importorskip("numba")
    arguments = problem(100, 63, 16, 2, batch, "float32", seed=4)
    arguments[0][0, 0] = np.nan
    found = [everything(*arguments)]
    before = numba.get_num_threads()
    try:
        for form, size in itertools.product(("serial", "parallel"), (1, 10**9)):
            numba.set_num_threads(1 if size == 1 else before)
            monkeypatch.setattr("fffnb.cpu.jit.forced", form)
            monkeypatch.setattr(tree, "STEP_BYTES", size)
            monkeypatch.setattr(cpu.bag, "BLOCK_BYTES", size)
            found.append(everything(*arguments))
    finally:
        numba.set_num_threads(before)
    assert all(results == found[0] for results in found)


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


def test_inputs_are_not_written_and_may_have_any_layout():
    inputs = problem(8, 7, 5, 2, 30, "float32")
    before = [array.copy() for array in inputs]
    result = everything(*inputs)
    for array, was in zip(inputs, before, strict=True):
        np.testing.assert_array_equal(array, was)
    assert everything(*map(read_only, inputs)) == result
    x, *layer, grad_y = inputs
    swapped = [array.astype(array.dtype.newbyteorder()) for array in (x, grad_y)]
    assert everything(swapped[0], *layer, swapped[1]) == result
    assert everything(np.asfortranarray(x), *layer, np.asfortranarray(grad_y)) == result


@pytest.mark.parametrize("lead", [(), (0,), (2, 3)])
def test_any_leading_axes_and_sparse_gradients(lead):
    _, *layer, _ = problem(8, 7, 5, 2, 1, "float32")
    x = np.random.default_rng(0).standard_normal((*lead, 8)).astype("float32")
    out = np.full((*lead, 7), np.nan, np.float32)
    y, trace = fffnb.keys_forward(x, *layer, k=4, out=out, return_trace=True)
    assert y is out and trace.scores.shape == trace.rows.shape == (*lead, 2, 4)
    dense = fffnb.keys_backward(y, x, *layer, trace)
    sparse = fffnb.keys_backward(y, x, *layer, trace, sparse=True)
    assert dense.x.shape == x.shape
    rows = [fffnb.keys_forward(row, *layer, k=4) for row in x.reshape(-1, 8)]
    np.testing.assert_array_equal(y.reshape(-1, 7), np.reshape(rows, (-1, 7)))
    np.testing.assert_array_equal(sparse.y_vectors.rows, np.unique(trace.rows))
    np.testing.assert_array_equal(sparse.y_vectors.values, dense.y_vectors[sparse.y_vectors.rows])
    assert not np.delete(dense.y_vectors, sparse.y_vectors.rows, axis=0).any()
    np.testing.assert_array_equal(sparse.keys, dense.keys)
    assert dense.keys.any() == bool(x.size)


@pytest.mark.parametrize("dtype", BOUND)
def test_init_keys_draws_unit_vectors(dtype):
    for vectors, shape in zip(
        fffnb.init_keys(30, 20, 16, 2, dtype=dtype), [(2, 2, 16, 15), (256, 20)], strict=True
    ):
        assert (vectors.shape, vectors.dtype) == (shape, dtype)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=-1), 1, rtol=1e-5)


def test_a_short_training_run_learns():
    x = np.random.default_rng(8).standard_normal((3000, 12)).astype(np.float32)
    labels = (x[:, :3] > 0) @ np.array([4, 2, 1])
    layer = nn.ProductKeyFFF(12, 8, n_keys=8, k=4, n_trees=4)
    before = nn.accuracy(layer, x[2000:], labels[2000:])
    optimizer = nn.AdamW(layer.parameters, lr=1e-2)
    nn.fit(layer, x[:2000], labels[:2000], optimizer=optimizer, batch_size=50, epochs=10)
    after = nn.accuracy(layer, x[2000:], labels[2000:])
    assert before < 0.3 and after > 0.7, (before, after)


def test_a_step_leaves_y_vectors_alone_that_nobody_chose():
    layer = nn.ProductKeyFFF(6, 4, n_keys=5, k=3)
    before = layer.y_vectors.copy()
    y, trace = layer.forward(np.ones((1, 6), np.float32))
    layer.backward_update(y, trace, nn.AdamW(layer.parameters, lr=0.1))
    assert (layer.y_vectors != before).any(axis=1).sum() == 3
