"""The flat op against its dense reference, and against the tree that it is a case of."""

import itertools

import numpy as np
import pytest

import fffnb
from fffnb import nn
from fffnb.activations import ACTIVATIONS
from fffnb.cpu import flat, flat_walk, tree
from fffnb.reference import flat as reference

BOUND = {"float32": 1e-6, "float64": 1e-13}
WIDTHS = (1, 3, 63, 100, 257)
BATCHES = (0, 1, 7, 130, 300)


def problem(n_in, n_out, depth, n_trees, batch, dtype, *, bias=True, seed=0, rows="nodes"):
    """Return x, planes, y vectors, bias (or None) and grad_y."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((batch, n_in)).astype(dtype)
    planes, y_vectors = fffnb.init_flat(
        n_in, n_out, depth, n_trees, rows=rows, rng=rng, dtype=dtype
    )
    biases = (0.1 * rng.standard_normal((n_trees, depth))).astype(dtype)
    grad_y = rng.standard_normal((batch, n_out)).astype(dtype)
    return x, planes, y_vectors, biases if bias else None, grad_y


def rms(array):
    return np.sqrt(np.mean(np.square(array, dtype=np.float64)))


def cases():
    """Return all pairs of widths, with the other factors running along in coprime cycles."""
    depths, trees = itertools.cycle(range(1, 10)), itertools.cycle((1, 3))
    acts, batches = itertools.cycle(ACTIVATIONS), itertools.cycle((130, 7, 300, 1, 130))
    biases = itertools.cycle((True, False, False, True, True, False, True))
    rows = itertools.cycle(("nodes", "patterns") * 5 + ("nodes",))
    pairs = [*itertools.product(WIDTHS, WIDTHS)] * 3
    return [
        (*pair, next(depths), next(trees), next(acts), next(batches), next(biases), next(rows))
        for pair in pairs
    ]


def check(case, dtype, seed):
    """Compare forward and backward of one case; return counts of samples and unclear ones."""
    n_in, n_out, depth, n_trees, activation, batch, with_bias, rows = case
    depth = depth if rows == "nodes" else min(depth, 5)  # its dense reference is large
    x, *layer, bias, grad_y = problem(
        n_in, n_out, depth, n_trees, batch, dtype, bias=with_bias, seed=seed, rows=rows
    )
    truth = reference.forward(x, *layer, bias, activation)
    clear = ~truth.ambiguous(np.finfo(dtype).eps)
    unclear = int(batch - clear.sum())
    x, grad_y = x[clear], grad_y[clear]  # the others may go another way, which is no error
    truth = reference.forward(x, *layer, bias, activation)
    y, trace = fffnb.flat_forward(x, *layer, bias=bias, activation=activation, return_trace=True)
    np.testing.assert_array_equal(trace.leaves, truth.leaves)
    if len(x):
        grads = fffnb.flat_backward(grad_y, x, *layer, trace)
        expected = reference.backward(grad_y, x, *layer, bias, activation)
        sizes = reference.backward(grad_y, x, *layer, bias, activation, absolute=True)
        pairs = [(y, truth.y, reference.forward_size(x, *layer, bias, activation))]
        pairs += zip(grads, expected, sizes, strict=True)
        assert (grads.bias is None) == (bias is None)
        for found, right, size in pairs:
            if found is not None:
                assert found.dtype == dtype and found.shape == right.shape
                assert rms(found - right) <= BOUND[dtype] * rms(size), case
    return batch, unclear


@pytest.mark.parametrize("dtype", BOUND)
def test_equals_the_reference(dtype, form):
    counts = [check(case, dtype, seed) for seed, case in enumerate(cases())]
    samples, unclear = np.sum(counts, axis=0)
    assert samples > 5000
    assert unclear <= 0.02 * samples


@pytest.mark.parametrize("chunk", [1, 4, 12])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_each_activation_with_and_without_bias(activation, chunk, monkeypatch):
    monkeypatch.setattr(tree, "chunk_of", lambda batch, work: chunk)
    monkeypatch.setattr(tree, "STEP_BYTES", 1)
    for bias, dtype in itertools.product((True, False), BOUND):
        check((63, 57, 6, 3, activation, 130, bias, "nodes"), dtype, seed=1)
        check((63, 57, 4, 3, activation, 130, bias, "patterns"), dtype, seed=1)


def test_a_row_of_a_pattern_is_that_of_a_leaf_and_a_level():
    vectors = np.array([[[1.0], [2.0], [4.0], [8.0], [16.0], [32.0], [64.0], [128.0]]])
    x = np.array([[-3.0, -1.0], [-3.0, 1.0], [3.0, -1.0], [3.0, 1.0]])
    y = fffnb.flat_forward(x, np.eye(2)[None], vectors)
    np.testing.assert_array_equal(y[:, 0], [-3 - 2, -12 + 8, 48 - 32, 192 + 128])


GRADIENTS = [*((activation, "nodes") for activation in ACTIVATIONS), ("gelu", "patterns")]


@pytest.mark.parametrize(("activation", "rows"), GRADIENTS)
def test_gradients_equal_finite_differences(activation, rows):
    x, *layer, bias, weights = problem(5, 4, 3, 2, 6, "float64", seed=2, rows=rows)
    options = {"bias": bias, "activation": activation, "return_trace": True}
    _, trace = fffnb.flat_forward(x, *layer, **options)
    grads = fffnb.flat_backward(weights, x, *layer, trace)

    def objective():
        y, again = fffnb.flat_forward(x, *layer, **options)
        assert (again.leaves == trace.leaves).all()  # no step crosses a decision
        return float((y * weights).sum())

    step = 1e-6
    for array, gradient in zip((x, *layer, bias), grads, strict=True):
        for at in np.ndindex(array.shape):
            before = array[at]
            array[at] = before + step
            high = objective()
            array[at] = before - step
            low = objective()
            array[at] = before
            assert gradient[at] == pytest.approx((high - low) / (2 * step), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("dtype", BOUND)
@pytest.mark.parametrize("batch", BATCHES[1:])
def test_is_the_tree_whose_levels_share_their_x_vector(batch, dtype, form):
    x, *layer, bias, grad_y = problem(100, 77, 7, 3, batch, dtype, seed=3)
    x[0, 0] = np.nan
    options = {"activation": "gelu", "return_trace": True}
    y, trace = fffnb.flat_forward(x, *layer, bias=bias, **options)
    nodes, biases = reference.nodes_of(*layer), reference.biases_of(bias, layer[1])
    right, path = fffnb.fff_forward(x, nodes, bias=biases, **options)
    for found, wanted in ((y, right), (trace.scores, path.scores), (trace.leaves, path.leaves)):
        assert found.tobytes() == wanted.tobytes()
    grads = fffnb.flat_backward(grad_y, x, *layer, trace, sparse=True)
    wanted = fffnb.fff_backward(grad_y, x, nodes, path, sparse=True)
    assert grads.x.tobytes() == wanted.x.tobytes()
    np.testing.assert_array_equal(grads.y_vectors.rows, wanted.nodes.rows)
    eps = float(np.finfo(dtype).eps)
    expected = wanted.nodes.values[:, 100:]
    np.testing.assert_allclose(grads.y_vectors.values, expected, rtol=1e3 * eps, atol=1e3 * eps)


@pytest.mark.parametrize(("bias", "rows"), [(True, "nodes"), (False, "patterns")])
@pytest.mark.parametrize("batch", BATCHES)
def test_sparse_gradients_are_the_rows_of_the_dense_ones(batch, bias, rows, form, monkeypatch):
    monkeypatch.setattr(tree, "STEP_BYTES", 1)  # many chunks share rows
    x, *layer, biases, grad_y = problem(9, 7, 6, 3, batch, "float32", bias=bias, rows=rows)
    _, trace = fffnb.flat_forward(x, *layer, bias=biases, activation="silu", return_trace=True)
    dense = fffnb.flat_backward(grad_y, x, *layer, trace)
    sparse = fffnb.flat_backward(grad_y, x, *layer, trace, sparse=True)
    for one, two in ((sparse.x, dense.x), (sparse.planes, dense.planes), (sparse.bias, dense.bias)):
        np.testing.assert_array_equal(one, two)
    rows, values = sparse.y_vectors.rows, sparse.y_vectors.values
    visited = reference.forward(x, *layer, biases).mask.any(axis=1).reshape(-1)
    np.testing.assert_array_equal(rows, np.flatnonzero(visited))
    assert sparse.y_vectors.count == len(rows) and sparse.y_vectors.bias is None
    whole = dense.y_vectors.reshape(-1, 7)
    np.testing.assert_array_equal(values, whole[rows])
    assert not np.delete(whole, rows, axis=0).any()


def everything(x, planes, y_vectors, bias, grad_y):
    """Return all results of both ops as bytes."""
    layer = planes, y_vectors
    y, trace = fffnb.flat_forward(x, *layer, bias=bias, activation="gelu", return_trace=True)
    grads = fffnb.flat_backward(grad_y, x, *layer, trace)
    rows = fffnb.flat_backward(grad_y, x, *layer, trace, sparse=True).y_vectors
    results = (y, trace.scores, trace.leaves, *grads, rows.rows, rows.values)
    return [array.tobytes() for array in results]


@pytest.mark.parametrize("batch", BATCHES[1:])
def test_serial_and_parallel_give_the_same_bits(batch, monkeypatch):
    for n_in, n_out, depth, rows in (
        *((3, 100, 4, "nodes"), (257, 63, 9, "nodes")),
        *((64, 64, 1, "nodes"), (64, 64, 4, "patterns")),
    ):
        arguments = problem(n_in, n_out, depth, 3, batch, "float32", seed=4, rows=rows)
        found = []
        for form in ("serial", "parallel"):
            monkeypatch.setattr("fffnb.cpu.jit.forced", form)
            found.append(everything(*arguments))
        assert found[0] == found[1]


def test_one_and_two_threads_give_the_same_bits(monkeypatch):
    numba = pytest.importorskip("numba")
    monkeypatch.setattr("fffnb.cpu.jit.forced", "parallel")
    arguments = problem(100, 63, 7, 3, 300, "float32", seed=5)
    found = []
    before = numba.get_num_threads()
    try:
        for threads in (1, min(2, before)):
            numba.set_num_threads(threads)
            found.append(everything(*arguments))
    finally:
        numba.set_num_threads(before)
    assert found[0] == found[1]


@pytest.mark.parametrize("chunk", [1, 4, 12, 128])
def test_order_chunks_and_streams_leave_the_bits(chunk, form, monkeypatch):
    for dtype, batch, rows in (
        *(("float32", 7, "nodes"), ("float32", 130, "nodes")),
        *(("float64", 131, "nodes"), ("float32", 130, "patterns")),
    ):
        arguments = problem(64, 128, 6, 3, batch, dtype, seed=6, rows=rows)
        arguments[0][0, 0] = np.nan
        expected = everything(*arguments)
        with monkeypatch.context() as patch:
            patch.setattr(tree, "chunk_of", lambda batch, work: chunk)
            for stream_from, sort_from in itertools.product((0, 10**9), (1, 10**9)):
                patch.setattr(tree, "STREAM_FROM", stream_from)
                patch.setattr(flat, "SORT_FROM", sort_from)
                assert everything(*arguments) == expected


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
    x, *layer, bias, grad_y = problem(9, 7, 5, 2, 130, "float32")
    change = LAYOUTS[layout]
    found = everything(change(x), *layer, bias, change(grad_y))
    assert found == everything(x, *layer, bias, grad_y)


def test_read_only_inputs_need_no_kernels_of_their_own():
    inputs = problem(9, 7, 5, 2, 7, "float32")
    result = everything(*inputs)
    compiled = list(flat_walk.descend.serial.signatures)
    assert compiled
    assert everything(*map(read_only, inputs)) == result
    assert flat_walk.descend.serial.signatures == compiled


@pytest.mark.parametrize("lead", [(), (1,), (0,), (2, 3), (2, 0, 3)])
def test_any_leading_axes(lead):
    _, *layer, bias, _ = problem(9, 7, 5, 2, 1, "float32")
    x = np.random.default_rng(0).standard_normal((*lead, 9)).astype("float32")
    y, trace = fffnb.flat_forward(x, *layer, bias=bias, return_trace=True)
    assert (y.shape, trace.scores.shape) == ((*lead, 7), (*lead, 2, 5))
    assert (trace.leaves.shape, trace.leaves.dtype) == ((*lead, 2), np.int32)
    grads = fffnb.flat_backward(y, x, *layer, trace)
    assert grads.x.shape == x.shape
    rows = fffnb.flat_forward(x.reshape(-1, 9), *layer, bias=bias)
    np.testing.assert_array_equal(y.reshape(-1, 7), rows)
    for gradient in (grads.planes, grads.y_vectors, grads.bias):
        assert np.isfinite(gradient).all() and gradient.any() == bool(x.size)


def test_inputs_are_not_written():
    inputs = problem(9, 7, 5, 2, 130, "float32")
    before = [array.copy() for array in inputs]
    everything(*inputs)
    for array, was in zip(inputs, before, strict=True):
        np.testing.assert_array_equal(array, was)


@pytest.mark.parametrize("contiguous", [True, False])
def test_out_receives_the_result(contiguous):
    x, *layer, _, _ = problem(9, 7, 5, 2, 12, "float32")
    room = np.full((3, 4, 14), np.nan, np.float32)
    out = room[:, :, :7].copy() if contiguous else room[:, :, ::2]
    y = fffnb.flat_forward(x.reshape(3, 4, 9), *layer, out=out)
    assert y is out
    np.testing.assert_array_equal(out.reshape(12, 7), fffnb.flat_forward(x, *layer))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_stay_in_their_sample(value):
    x, *layer, _, grad_y = problem(9, 7, 5, 2, 7, "float32")
    clean = fffnb.flat_forward(x, *layer)
    x[3, 2] = value
    y, trace = fffnb.flat_forward(x, *layer, return_trace=True)
    others = np.arange(7) != 3
    np.testing.assert_array_equal(y[others], clean[others])
    assert not np.isfinite(y[3]).any()
    if np.isnan(value):
        assert (trace.leaves[3] == 0).all()  # a NaN score goes left
    grads = fffnb.flat_backward(grad_y, x, *layer, trace)
    assert np.isfinite(grads.x[others]).all()


@pytest.mark.parametrize("make", [lambda p: nn.SGD(p, 0.1, momentum=0.9), nn.AdamW])
@pytest.mark.parametrize(("dtype", "rows"), [("float32", "nodes"), ("float64", "patterns")])
def test_fused_update_is_backward_and_steps(dtype, rows, make, form):
    names = ("planes", "y_vectors", "bias")
    _, *arrays, _ = problem(33, 20, 5, 2, 1, dtype, rows=rows)
    parameters = dict(zip(names, arrays, strict=True))
    fused = {name: array.copy() for name, array in parameters.items()}
    plain, optimizer = make(parameters), make(fused)
    for seed, batch in enumerate((40, 1, 300)):
        x, *_, grad_y = problem(33, 20, 5, 2, batch, dtype, seed=seed)
        layer, (*own, bias) = list(parameters.values())[:2], fused.values()
        options = {"activation": "silu", "return_trace": True}
        _, trace = fffnb.flat_forward(x, *layer, bias=parameters["bias"], **options)
        grads = fffnb.flat_backward(grad_y, x, *layer, trace, sparse=True)
        plain.step(dict(zip(names, grads[1:], strict=True)))
        *rules, bias_rule = (optimizer.rule(name) for name in names)
        grad_x = fffnb.flat_backward_update(
            grad_y, x, *own, trace, *rules, bias=bias, bias_rule=bias_rule
        )
        np.testing.assert_array_equal(grad_x, grads.x)  # from the parameters as they were
        tolerance = 1e-5 if dtype == "float32" else 1e-13
        for name in names:
            np.testing.assert_allclose(fused[name], parameters[name], rtol=0, atol=tolerance)
            fused[name][...] = parameters[name]


def test_an_empty_batch_steps_nothing():
    x, planes, y_vectors, bias, grad_y = problem(9, 7, 3, 2, 0, "float32")
    parameters = {"planes": planes, "y_vectors": y_vectors, "bias": bias}
    before = {name: array.copy() for name, array in parameters.items()}
    optimizer = nn.AdamW(parameters, weight_decay=0.1)
    _, trace = fffnb.flat_forward(x, planes, y_vectors, bias=bias, return_trace=True)
    *rules, bias_rule = (optimizer.rule(name) for name in parameters)
    fffnb.flat_backward_update(
        grad_y, x, planes, y_vectors, trace, *rules, bias=bias, bias_rule=bias_rule
    )
    for name, array in parameters.items():
        np.testing.assert_array_equal(array, before[name])


def test_without_a_bias_rule_the_bias_stays():
    x, planes, y_vectors, bias, grad_y = problem(9, 7, 3, 2, 12, "float32")
    _, trace = fffnb.flat_forward(x, planes, y_vectors, bias=bias, return_trace=True)
    optimizer, before = nn.SGD({"planes": planes, "y_vectors": y_vectors}, lr=0.1), bias.copy()
    rules = optimizer.rule("planes"), optimizer.rule("y_vectors")
    fffnb.flat_backward_update(grad_y, x, planes, y_vectors, trace, *rules)
    np.testing.assert_array_equal(bias, before)


@pytest.mark.parametrize("dtype", BOUND)
def test_init_flat_draws_unit_vectors_or_within_bounds(dtype):
    planes, y_vectors = fffnb.init_flat(30, 20, depth=6, n_trees=2, dtype=dtype)
    assert (planes.shape, y_vectors.shape) == ((2, 6, 30), (2, 63, 20))
    for vectors in (planes, y_vectors):
        assert vectors.dtype == dtype and vectors.flags.c_contiguous
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=2), 1, rtol=1e-5)
    again = fffnb.init_flat(30, 20, 6, 2, rng=np.random.default_rng(0), dtype=dtype)
    np.testing.assert_array_equal(planes, again[0])
    np.testing.assert_array_equal(y_vectors, again[1])
    planes, y_vectors = fffnb.init_flat(25, 20, depth=9, scheme="uniform", dtype=dtype)
    assert 0.18 < np.abs(planes).max() <= 1 / 5
    assert 0.32 < np.abs(y_vectors).max() <= 1 / 3


def teacher(n):
    """Return samples and the class of each, the signs of their first three numbers."""
    x = np.random.default_rng(8).standard_normal((n, 12)).astype(np.float32)
    return x, (x[:, :3] > 0) @ np.array([4, 2, 1])


@pytest.mark.parametrize("make", [nn.SGD, nn.AdamW])
def test_a_short_training_run_learns(make):
    x, labels = teacher(3000)
    layer = nn.FlatFFF(12, 8, depth=5, n_trees=6, bias=True, activation="gelu")
    optimizer = make(layer.parameters, lr=0.5 if make is nn.SGD else 1e-2)
    before = nn.accuracy(layer, x[2000:], labels[2000:])
    nn.fit(layer, x[:2000], labels[:2000], optimizer=optimizer, batch_size=50, epochs=10)
    after = nn.accuracy(layer, x[2000:], labels[2000:])
    assert before < 0.3 and after > 0.7, (before, after)


def test_a_fused_step_leaves_unvisited_y_vectors_alone():
    layer = nn.FlatFFF(5, 4, depth=4, bias=True)
    optimizer = nn.AdamW(layer.parameters, lr=0.1)
    before = layer.y_vectors.copy()
    y, trace = layer.forward(np.ones((1, 5), np.float32))
    layer.backward_update(y, trace, optimizer)
    changed = (layer.y_vectors != before).any(axis=2)
    assert changed.sum() == layer.neurons_read == 4
    assert layer.bias.all()
