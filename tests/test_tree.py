"""The tree op against its dense reference."""

import functools
import itertools

import numpy as np
import pytest

import fffnb
from fffnb import buffers
from fffnb.activations import ACTIVATIONS
from fffnb.cpu import jit, tree, tree_backward, tree_walk
from fffnb.cpu.tree_mix import BLOCK
from fffnb.reference import tree as reference

BOUND = {"float32": 1e-6, "float64": 1e-13}
WIDTHS = (1, 3, 63, 100, 257)
DEPTHS = range(1, 10)
BATCHES = (0, 1, 7, 130)


def problem(n_in, n_out, depth, n_trees, batch, dtype, *, bias=True, seed=0):
    """Return x, nodes, bias (or None) and grad_y."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((batch, n_in)).astype(dtype)
    nodes = fffnb.init_nodes(n_in, n_out, depth, n_trees, rng=rng, dtype=dtype)
    biases = (0.1 * rng.standard_normal(nodes.shape[:2])).astype(dtype)
    grad_y = rng.standard_normal((batch, n_out)).astype(dtype)
    return x, nodes, biases if bias else None, grad_y


def rms(array):
    return np.sqrt(np.mean(np.square(array, dtype=np.float64)))


def cases():
    """Return all pairs of widths, with the other factors running along in coprime cycles."""
    depths, trees = itertools.cycle(DEPTHS), itertools.cycle((1, 3))
    acts, batches = itertools.cycle(ACTIVATIONS), itertools.cycle((130, 7, 130, 1, 130))
    biases = itertools.cycle((True, False, False, True, True, False, True))
    pairs = [*itertools.product(WIDTHS, WIDTHS)] * 3
    return [
        (*pair, next(depths), next(trees), next(acts), next(batches), next(biases))
        for pair in pairs
    ]


def check(case, dtype, seed):
    """Compare forward and backward of one case; return counts of samples and unclear ones."""
    n_in, n_out, depth, n_trees, activation, batch, with_bias = case
    x, nodes, bias, grad_y = problem(
        n_in, n_out, depth, n_trees, batch, dtype, bias=with_bias, seed=seed
    )
    truth = reference.forward(x, nodes, bias, activation)
    clear = ~truth.ambiguous(np.finfo(dtype).eps)
    unclear = int(batch - clear.sum())
    x, grad_y = x[clear], grad_y[clear]  # the others may go another way, which is no error
    truth = reference.forward(x, nodes, bias, activation)
    y, trace = fffnb.fff_forward(
        x, nodes, bias=bias, activation=activation, n_out=n_out, return_trace=True
    )
    np.testing.assert_array_equal(trace.leaves, truth.leaves)
    if len(x):
        grads = fffnb.fff_backward(grad_y, x, nodes, trace)
        expected = reference.backward(grad_y, x, nodes, bias, activation)
        sizes = reference.backward(grad_y, x, nodes, bias, activation, absolute=True)
        pairs = [(y, truth.y, reference.forward_size(x, nodes, bias, activation))]
        pairs += zip(grads, expected, sizes, strict=True)
        for found, right, size in pairs:
            if found is not None:
                assert found.dtype == dtype
                assert rms(found - right) <= BOUND[dtype] * rms(size), case
    return batch, unclear


@pytest.mark.parametrize("dtype", BOUND)
def test_equals_the_reference(dtype, path, form):
    counts = [check(case, dtype, seed) for seed, case in enumerate(cases())]
    samples, unclear = np.sum(counts, axis=0)
    assert samples > 5000
    assert unclear <= 0.01 * samples


def test_cases_hold_every_value_of_every_factor():
    n_in, n_out, depth, n_trees, activation, batch, bias = map(set, zip(*cases(), strict=True))
    assert n_in == n_out == set(WIDTHS)
    assert depth == set(DEPTHS)
    assert n_trees == {1, 3}
    assert activation == set(ACTIVATIONS)
    assert batch | {0} == set(BATCHES)
    assert bias == {True, False}


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_each_activation_with_and_without_bias(activation, path, form):
    for bias, dtype in itertools.product((True, False), BOUND):
        check((63, 57, 6, 3, activation, 130, bias), dtype, seed=1)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_equal_finite_differences(activation):
    x, nodes, bias, weights = problem(5, 4, 3, 2, 6, "float64", seed=2)
    _, trace = fffnb.fff_forward(x, nodes, bias=bias, activation=activation, return_trace=True)
    grads = fffnb.fff_backward(weights, x, nodes, trace)

    def objective():
        y, again = fffnb.fff_forward(x, nodes, bias=bias, activation=activation, return_trace=True)
        assert (again.leaves == trace.leaves).all()  # no step crosses a decision
        return float((y * weights).sum())

    step = 1e-6
    for array, gradient in ((x, grads.x), (nodes, grads.nodes), (bias, grads.bias)):
        for at in np.ndindex(array.shape):
            before = array[at]
            array[at] = before + step
            high = objective()
            array[at] = before - step
            low = objective()
            array[at] = before
            assert gradient[at] == pytest.approx((high - low) / (2 * step), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch", BATCHES)
def test_sparse_gradients_are_the_rows_of_the_dense_ones(batch, bias, form):
    x, nodes, biases, grad_y = problem(9, 7, 6, 3, batch, "float32", bias=bias)
    _, trace = fffnb.fff_forward(x, nodes, bias=biases, activation="silu", return_trace=True)
    dense = fffnb.fff_backward(grad_y, x, nodes, trace)
    sparse = fffnb.fff_backward(grad_y, x, nodes, trace, sparse=True)
    np.testing.assert_array_equal(sparse.x, dense.x)
    rows = sparse.nodes.rows
    visited = reference.forward(x, nodes, biases).mask.any(axis=1).reshape(-1)
    np.testing.assert_array_equal(rows, np.flatnonzero(visited))
    assert sparse.nodes.count == len(rows)
    pairs = [(sparse.nodes.values, dense.nodes.reshape(-1, 16))]
    if bias:
        pairs += [(sparse.nodes.bias, dense.bias.reshape(-1))]
        pairs += [(sparse.bias.values, dense.bias.reshape(-1))]
    else:
        assert sparse.bias is sparse.nodes.bias is dense.bias is None
    for values, whole in pairs:
        np.testing.assert_array_equal(values, whole[rows])
        assert not np.delete(whole, rows, axis=0).any()


def everything(x, nodes, bias, grad_y):
    """Return all results of all ops as bytes."""
    y, trace = fffnb.fff_forward(x, nodes, bias=bias, activation="gelu", return_trace=True)
    grads = fffnb.fff_backward(grad_y, x, nodes, trace)
    rows = fffnb.fff_backward(grad_y, x, nodes, trace, sparse=True).nodes
    updated = nodes.copy()
    numbers = {"lr": 0.1, "momentum": 0.0, "weight_decay": 0.01, "nesterov": 0.0}
    rule = fffnb.UpdateRule("sgd", numbers, {})
    grad_x = fffnb.fff_backward_update(grad_y, x, updated, trace, rule)
    results = (y, trace.scores, trace.leaves, *grads, rows.rows, rows.values, updated, grad_x)
    return [array.tobytes() for array in results]


@pytest.mark.parametrize("batch", BATCHES[1:])
def test_serial_and_parallel_give_the_same_bits(batch, path, monkeypatch):
    for n_in, n_out, depth in ((3, 100, 4), (257, 63, 9), (64, 64, 1)):
        arguments = problem(n_in, n_out, depth, 3, batch, "float32", seed=4)
        found = []
        for form in ("serial", "parallel"):
            monkeypatch.setattr("fffnb.cpu.jit.forced", form)
            found.append(everything(*arguments))
        assert found[0] == found[1]


def test_one_and_two_threads_give_the_same_bits(path, monkeypatch):
    numba = pytest.importorskip("numba")
    monkeypatch.setattr("fffnb.cpu.jit.forced", "parallel")
    arguments = problem(100, 63, 7, 3, 130, "float32", seed=5)
    found = []
    before = numba.get_num_threads()
    try:
        for threads in (1, min(2, before)):
            numba.set_num_threads(threads)
            found.append(everything(*arguments))
    finally:
        numba.set_num_threads(before)
    assert found[0] == found[1]


def note(ran, run, *arguments):
    """Note that `run` ran."""
    ran.append(run)
    run(*arguments)


@pytest.mark.parametrize("dtype", BOUND)
@pytest.mark.parametrize(("chunk", "levels"), [(1, 1), (4, 2), (12, 3), (128, 6)])
def test_walk_and_sweep_give_the_same_bits(chunk, levels, dtype, form, monkeypatch):
    monkeypatch.setattr(tree, "chunk_of", lambda batch, work: chunk)
    monkeypatch.setattr(tree, "LEVELS", levels)
    for batch, n_trees, depth in ((1, 1, 1), (7, 3, 4), (130, 1, 9), (130, 3, 6)):
        x, nodes, bias, grad_y = problem(100, 77, depth, n_trees, batch, dtype, seed=6)
        x[0, 0] = np.nan
        found, ran = [], []
        for path in ("walk", "sweep"):
            monkeypatch.setattr(tree, "forced", path)
            with monkeypatch.context() as patch:
                run = getattr(tree, path)
                patch.setattr(tree, path, functools.partial(note, ran, run))
                found.append(everything(x, nodes, bias, grad_y))
        assert found[0] == found[1]
        assert ran == [tree.walk, tree.sweep]


@pytest.mark.parametrize("chunk", [4, 64])
def test_outputs_written_past_the_caches_are_the_same_bits(chunk, form, path, monkeypatch):
    monkeypatch.setattr(tree, "chunk_of", lambda batch, work: chunk)
    for dtype, batch in (("float32", 130), ("float64", 131)):
        arguments = problem(64, 128, 6, 3, batch, dtype, seed=7)
        monkeypatch.setattr(tree, "STREAM_FROM", 10**9)
        expected = everything(*arguments)
        monkeypatch.setattr(tree, "STREAM_FROM", 0)
        assert tree.goes_past_caches(buffers.empty((batch, 64), dtype))
        assert tree.goes_past_caches(buffers.empty((batch, 128), dtype))
        assert everything(*arguments) == expected


def test_an_output_that_is_not_on_cache_lines_is_written_through_them(monkeypatch):
    monkeypatch.setattr(tree, "STREAM_FROM", 0)
    monkeypatch.setattr(tree, "forced", "sweep")
    x, nodes, bias, _ = problem(9, 16, 5, 2, 130, "float32")
    room = np.empty(130 * 16 + 1, np.float32)
    out = room[1:].reshape(130, 16) if room.ctypes.data % 64 == 0 else room[:-1].reshape(130, 16)
    assert not tree.goes_past_caches(out)
    fffnb.fff_forward(x, nodes, bias=bias, out=out)
    np.testing.assert_array_equal(out, fffnb.fff_forward(x, nodes, bias=bias))


@pytest.mark.parametrize("step_bytes", [1, 400_000])
def test_rows_wider_than_a_block(step_bytes, path, monkeypatch):
    monkeypatch.setattr(tree, "STEP_BYTES", step_bytes)
    wide = BLOCK + 77
    check((wide, wide + 3, 3, 2, "silu", 13, True), "float32", seed=8)


def test_all_stages_but_the_last_have_an_even_number_of_levels():
    for depth in range(1, 32):
        bounds = tree.stages(depth)
        assert bounds[0] == 0 and bounds[-1] == depth
        lengths = np.diff(bounds)
        assert (lengths > 0).all() and (lengths[:-1] % 2 == 0).all()
        assert lengths.max() <= tree.LEVELS + 2


@pytest.mark.parametrize("dtype", BOUND)
@pytest.mark.parametrize(("n_in", "n_out"), [(1, 3), (100, 77), (257, 5)])
def test_a_sample_is_the_same_bits_in_any_batch(n_in, n_out, dtype, path):
    x, nodes, bias, grad_y = problem(n_in, n_out, 5, 2, 23, dtype, seed=9)
    whole = fffnb.fff_forward(x, nodes, bias=bias, return_trace=True)
    grad_x = fffnb.fff_backward(grad_y, x, nodes, whole[1]).x
    for i in range(len(x)):
        one = slice(i, i + 1)
        y, trace = fffnb.fff_forward(x[one], nodes, bias=bias, return_trace=True)
        assert y.tobytes() == whole[0][one].tobytes()
        assert trace.scores.tobytes() == whole[1].scores[one].tobytes()
        alone = fffnb.fff_backward(grad_y[one], x[one], nodes, trace).x
        assert alone.tobytes() == grad_x[one].tobytes()


def test_the_path_follows_from_the_shapes(monkeypatch):
    x, nodes, bias, _ = problem(9, 7, 5, 2, 300, "float32")
    samples, size, ran = x.nbytes + 300 * 7 * 4, nodes.nbytes, []
    for name in ("walk", "sweep"):
        monkeypatch.setattr(tree, name, functools.partial(note, ran, getattr(tree, name)))
    for bounds in ((samples + 1, size), (samples, size + 1), (samples, size)):
        monkeypatch.setattr(tree, "SWEEP_FROM", bounds)
        fffnb.fff_forward(x, nodes, bias=bias)
    assert [run.__name__ for run in ran] == ["walk", "walk", "sweep"]


def test_chunks_are_fours_or_single_samples(monkeypatch):
    for threads in (1, 2, 64):
        monkeypatch.setattr(jit, "threads_for", lambda work, threads=threads: threads)
        for batch in (1, 3, 4, 7, 8, 100, 256, 1024, 10**6):
            chunk = tree.chunk_of(batch, 10**9)
            assert chunk == 1 if batch < 4 * threads else chunk % 4 == 0 < chunk <= tree.CHUNK
            assert batch < 32 * threads or -(-batch // chunk) >= 4 * threads


def test_an_unknown_path_is_refused(monkeypatch):
    monkeypatch.setattr(tree, "forced", "run")
    x, nodes, bias, _ = problem(9, 7, 5, 2, 3, "float32")
    with pytest.raises(ValueError, match="forced must be None, 'walk' or 'sweep', got 'run'"):
        fffnb.fff_forward(x, nodes, bias=bias)
    assert fffnb.fff_forward(x[:0], nodes, bias=bias).shape == (0, 7)


def strided(array):
    return np.repeat(np.repeat(array, 2, axis=0), 3, axis=1)[::2, ::3]


def reversed_(array):
    return np.ascontiguousarray(array[::-1, ::-1])[::-1, ::-1]


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


LAYOUTS = {
    "strided": strided,
    "reversed": reversed_,
    "transposed": np.asfortranarray,
    "read-only": read_only,
    "byte-swapped": lambda array: array.astype(array.dtype.newbyteorder()),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_of_x_and_grad_y(layout):
    x, nodes, bias, grad_y = problem(9, 7, 5, 2, 130, "float32")
    change = LAYOUTS[layout]
    assert everything(change(x), nodes, bias, change(grad_y)) == everything(x, nodes, bias, grad_y)


def test_read_only_inputs_need_no_kernels_of_their_own():
    inputs = problem(9, 7, 5, 2, 7, "float32")
    result = everything(*inputs)
    kernels = tree_walk.forward.serial, tree_backward.backward_samples.serial
    compiled = [list(kernel.signatures) for kernel in kernels]
    assert everything(*map(read_only, inputs)) == result
    assert [kernel.signatures for kernel in kernels] == compiled
    assert all(compiled)


@pytest.mark.parametrize("lead", [(), (1,), (0,), (2, 3), (2, 0, 3)])
def test_any_leading_axes(lead):
    _, nodes, bias, _ = problem(9, 7, 5, 2, 1, "float32")
    x = np.random.default_rng(0).standard_normal((*lead, 9)).astype("float32")
    y, trace = fffnb.fff_forward(x, nodes, bias=bias, return_trace=True)
    assert y.shape == (*lead, 7)
    assert trace.scores.shape == (*lead, 2, 5)
    assert trace.leaves.shape == (*lead, 2)
    assert trace.leaves.dtype == np.int32
    grads = fffnb.fff_backward(y, x, nodes, trace)
    assert grads.x.shape == x.shape
    flat = fffnb.fff_forward(x.reshape(-1, 9), nodes, bias=bias)
    np.testing.assert_array_equal(y.reshape(-1, 7), flat)
    assert grads.nodes.any() == bool(x.size)


def test_inputs_are_not_written():
    x, nodes, bias, grad_y = problem(9, 7, 5, 2, 130, "float32")
    before = [array.copy() for array in (x, nodes, bias, grad_y)]
    everything(x, nodes, bias, grad_y)
    for array, was in zip((x, nodes, bias, grad_y), before, strict=True):
        np.testing.assert_array_equal(array, was)


@pytest.mark.parametrize("contiguous", [True, False])
def test_out_receives_the_result(contiguous):
    x, nodes, _, _ = problem(9, 7, 5, 2, 12, "float32")
    room = np.full((3, 4, 14), np.nan, np.float32)
    out = room[:, :, :7].copy() if contiguous else room[:, :, ::2]
    y = fffnb.fff_forward(x.reshape(3, 4, 9), nodes, out=out)
    assert y is out
    np.testing.assert_array_equal(out.reshape(12, 7), fffnb.fff_forward(x, nodes))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_stay_in_their_sample(value, path):
    x, nodes, _, grad_y = problem(9, 7, 5, 2, 7, "float32")
    clean = fffnb.fff_forward(x, nodes)
    x[3, 2] = value
    y, trace = fffnb.fff_forward(x, nodes, return_trace=True)
    others = np.arange(7) != 3
    np.testing.assert_array_equal(y[others], clean[others])
    assert not np.isfinite(y[3]).any()
    if np.isnan(value):
        assert (trace.leaves[3] == 0).all()  # a NaN score goes left
    with np.errstate(invalid="ignore"):
        truth = reference.forward(x, nodes)
    np.testing.assert_array_equal(trace.leaves, truth.leaves)
    grads = fffnb.fff_backward(grad_y, x, nodes, trace)
    assert np.isfinite(grads.x[others]).all()
