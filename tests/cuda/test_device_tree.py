"""The tree op on device arrays against its dense reference."""

import kinds
import numpy as np
import pytest
from test_tree import problem, rms

import fffnb
from fffnb import cuda
from fffnb.activations import ACTIVATIONS
from fffnb.ops import device
from fffnb.reference import tree as reference

if kinds.MISSING:
    pytest.skip(kinds.MISSING, allow_module_level=True)

pytestmark = pytest.mark.usefixtures("tiles")

#: Of float32 and float64 for the size of the terms of a sum, else half a unit for the result.
BOUND = {"float32": 2e-6, "float64": 1e-13}
HALF_UNIT = {"float16": 2.0**-11, "bfloat16": 2.0**-8}

# n_in, n_out, depth, n_trees, activation, batch, bias
SMALL = [
    (12, 20, 4, 1, "gelu", 19, True),
    (6, 10, 3, 3, "identity", 5, False),
    (7, 9, 5, 3, "silu", 12, True),
    (40, 36, 2, 1, "relu2", 4, True),
    (1, 3, 1, 1, "tanh", 2, True),
    (3, 1, 6, 1, "relu", 13, False),
    (16, 41, 3, 2, "tanh", 1, True),
    (72, 8, 3, 1, "gelu", 7, False),
    (8, 300, 2, 1, "silu", 3, True),
]
# With tiles that are small, chunks more than threads, and rows wider than all threads.
SMALL_ON_GPU = [(257, 100, 9, 3, "silu", 300, True), (2052, 2308, 3, 1, "identity", 70, False)]
LARGE = [
    (768, 768, 12, 1, "gelu", 3000, True),
    (784, 500, 8, 1, "relu", 128, True),
    (257, 100, 9, 3, "silu", 2500, False),
    (63, 77, 6, 3, "relu2", 9000, True),
    (4096, 4096, 4, 1, "identity", 2100, False),
    (16384, 16384, 3, 1, "tanh", 3, False),
    (128, 64, 7, 2, "tanh", 1, True),
]


def cases(tiles):
    if tiles == "default":
        return LARGE
    return SMALL if kinds.SIMULATED else SMALL + SMALL_ON_GPU


def test_cases_hold_every_value_of_every_factor(tiles):
    if tiles == "default":
        pytest.skip("these cases are for small tiles")
    *_, n_trees, activation, batch, bias = map(set, zip(*SMALL, strict=True))
    assert activation == set(ACTIVATIONS)
    assert n_trees == {1, 2, 3}
    assert bias == {True, False}
    lengths = {cuda.tree.vector_length("float32", *case[:2]) for case in SMALL}
    assert lengths == {1, 2, 4}
    for groups in (cuda.tree.MIX_GROUPS, cuda.tree.SLOPE_GROUPS, cuda.steps.CHUNKS):
        assert {cuda.tree.by_batch(groups, size) for size in batch} == set(groups.values())


class Problem:
    """A layer and a batch of one kind of arrays, without samples that may go another way."""

    def __init__(self, kind, case, dtype, seed=0):
        n_in, n_out, depth, n_trees, self.activation, batch, with_bias = case
        real = "float64" if dtype == "float64" else "float32"
        host = problem(n_in, n_out, depth, n_trees, batch, real, bias=with_bias, seed=seed)
        x, nodes, bias, grad_y = host
        x, nodes, grad_y = (kinds.round_to(array, dtype) for array in (x, nodes, grad_y))
        truth = reference.forward(x, nodes, bias, self.activation)
        self.clear = ~truth.ambiguous(np.finfo(real).eps)
        x, grad_y = x[self.clear], grad_y[self.clear]
        self.host = x, nodes, bias, grad_y
        self.x, self.nodes, self.grad_y = (kind.put(a, dtype) for a in (x, nodes, grad_y))
        self.bias = kind.put(bias) if with_bias else None

    def forward(self, **options):
        return fffnb.fff_forward(
            self.x, self.nodes, bias=self.bias, activation=self.activation, **options
        )

    def backward(self, trace, **options):
        return fffnb.fff_backward(self.grad_y, self.x, self.nodes, trace, **options)

    def truth(self):
        """Return leaves, results, and the sizes of their terms."""
        x, nodes, bias, grad_y = self.host
        run = reference.forward(x, nodes, bias, self.activation)
        grads = reference.backward(grad_y, x, nodes, bias, self.activation)
        sizes = reference.backward(grad_y, x, nodes, bias, self.activation, absolute=True)
        size = reference.forward_size(x, nodes, bias, self.activation)
        return run, (run.y, *grads), (size, *sizes)


def check(kind, case, dtype, seed):
    """Compare forward and backward of one case; return counts of samples and unclear ones.

    Forward passes of each form are right, and backward passes of the trace that is chosen.
    """
    given = Problem(kind, case, dtype, seed)
    run, right, sizes = given.truth()
    for form in (*cuda.tree.FORMS, None):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("fffnb.cuda.tree.forced", form)
            y, trace = given.forward(return_trace=True)
        np.testing.assert_array_equal(kind.get(trace.leaves), run.leaves)
        if dtype in BOUND:
            assert rms(kind.get(y) - right[0]) <= BOUND[dtype] * rms(sizes[0]), (case, form)
    results = y, *given.backward(trace)
    for found, expected, size in zip(results, right, sizes, strict=True):
        if found is None:
            assert given.bias is None
            continue
        assert isinstance(found, kind.type)
        found = kind.get(found)
        assert found.shape == expected.shape
        if dtype in BOUND:
            assert found.dtype == dtype
            assert rms(found - expected) <= BOUND[dtype] * rms(size), case
        else:
            assert rms(found - expected) <= HALF_UNIT[dtype] * rms(expected) + 1e-9, case
    return len(given.clear), np.sum(~given.clear)


@pytest.mark.parametrize("dtype", BOUND)
def test_equals_the_reference(dtype, kind, tiles):
    counts = [check(kind, case, dtype, seed) for seed, case in enumerate(cases(tiles))]
    samples, unclear = np.sum(counts, axis=0)
    assert samples == sum(case[5] for case in cases(tiles))
    assert unclear <= 0.01 * samples


@pytest.mark.parametrize("dtype", HALF_UNIT)
def test_sixteen_bits_are_as_good_as_their_rounding(dtype, kind, tiles):
    if dtype not in kind.dtypes:
        pytest.skip(f"a {kind.name} holds no {dtype}")
    for seed, case in enumerate([cases(tiles)[k] for k in (1, 2, 3)]):
        check(kind, case, dtype, seed)


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_each_activation_with_and_without_bias(activation, with_bias, kind):
    check(kind, (4, 8, 3, 1, activation, 9, with_bias), "float64", seed=3)


def everything(kind, given):
    """Return all results of all ops as bytes."""
    y, trace = given.forward(return_trace=True)
    grads = given.backward(trace)
    sparse = given.backward(trace, sparse=True)
    updated = kind.put(kind.get(given.nodes))
    numbers = {"lr": 0.1, "momentum": 0.0, "weight_decay": 0.01, "nesterov": 0.0}
    rule = fffnb.UpdateRule("sgd", numbers, {})
    grad_x = fffnb.fff_backward_update(given.grad_y, given.x, updated, trace, rule)
    results = [y, given.forward(), trace.scores, trace.leaves, *grads, updated, grad_x]
    rows = sparse.nodes
    results += [sparse.x, rows.rows, rows.count, *trimmed(kind, rows)]
    return [np.asarray(kind.get(a) if isinstance(a, kind.type) else a).tobytes() for a in results]


def trimmed(kind, rows):
    """Return the valid values of a row gradient."""
    count = kind.get(rows.count)[0]
    parts = [rows.values] if rows.bias is None else [rows.values, rows.bias]
    return [kind.get(part)[:count] for part in parts]


FEW = [(12, 20, 4, 1, "gelu", 16, True), (7, 9, 3, 3, "silu", 6, False)]
MANY = [(768, 1536, 12, 1, "gelu", 5000, True), (2052, 1000, 7, 3, "silu", 2500, False)]
ONE_TREE = [
    (20, 70, 4, 1, "relu", 5, True),
    (20, 70, 2, 1, "gelu", 1, True),
    (7, 9, 5, 1, "silu", 9, False),
]


def few(tiles):
    return FEW if tiles == "small" else MANY


def bits(array):
    """Return the bits of an array, those of any NaN being the same."""
    array = np.array(array)
    if array.dtype.kind == "f":
        array[np.isnan(array)] = np.nan
    return array.view(f"i{array.itemsize}")


@pytest.mark.parametrize("dtype", BOUND)
def test_walk_and_sweep_give_the_same_bits(dtype, kind, tiles, monkeypatch):
    for case in (*ONE_TREE, few(tiles)[0]):
        given, found = Problem(kind, case, dtype), []
        given.host[0][0, 0] = np.nan
        given.x = kind.put(given.host[0])
        for path in ("walk", "sweep"):
            monkeypatch.setattr("fffnb.cuda.tree.forced", path)
            y, trace = given.forward(return_trace=True)
            results = y, given.forward(), trace.scores, trace.leaves
            found.append([bits(kind.get(array)) for array in results])
        for one, other in zip(*found, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.skipif(kinds.SIMULATED, reason="the simulator does the same every time")
def test_two_runs_give_the_same_bits(kind, tiles, path):
    for case in few(tiles):
        given = Problem(kind, case, "float32")
        expected = everything(kind, given)
        for _ in range(3):
            assert everything(kind, given) == expected


@pytest.mark.skipif(not kinds.SIMULATED, reason="a GPU chooses the order by itself")
@pytest.mark.parametrize(
    ("path", "case"),
    [("leap", 0), ("walk", 0), ("sweep", 0), ("leap", 1), ("walk", 1)],
    indirect=["path"],
)
def test_any_order_of_the_threads_gives_the_same_bits(kind, path, case, monkeypatch):
    given = Problem(kind, FEW[case], "float32")
    expected = everything(kind, given)
    monkeypatch.setattr("simulator.backwards", True)
    assert everything(kind, given) == expected


@pytest.mark.parametrize(("batch", "bias"), [(0, True), (1, False), (6, False), (15, True)])
def test_sparse_gradients_are_the_rows_of_the_dense_ones(batch, bias, kind):
    given = Problem(kind, (9, 7, 4, 3, "silu", batch, bias), "float32")
    _, trace = given.forward(return_trace=True)
    dense, sparse = given.backward(trace), given.backward(trace, sparse=True)
    found = sparse.nodes
    rows, count = kind.get(found.rows), kind.get(found.count)
    visited = np.flatnonzero(given.truth()[0].mask.any(axis=1))
    assert rows.shape == (3 * sum(min(2**level, batch) for level in range(4)),)
    np.testing.assert_array_equal(count, [len(visited)])
    np.testing.assert_array_equal(rows[: len(visited)], visited)
    assert (rows[len(visited) :] == -1).all()
    np.testing.assert_array_equal(kind.get(sparse.x), kind.get(dense.x))
    pairs = [(found.values, kind.get(dense.nodes).reshape(45, 16))]
    if bias:
        pairs += [(part, kind.get(dense.bias).ravel()) for part in (found.bias, sparse.bias.values)]
    else:
        assert sparse.bias is found.bias is dense.bias is None
    for values, whole in pairs:
        assert isinstance(values, kind.type)
        np.testing.assert_array_equal(kind.get(values)[: len(visited)], whole[visited])
        assert not np.delete(whole, visited, axis=0).any()


@pytest.mark.parametrize("lead", [(), (1,), (0,), (2, 3), (2, 0, 3)])
def test_any_leading_axes(lead, kind):
    given = Problem(kind, (9, 7, 3, 2, "gelu", int(np.prod(lead)), True), "float32", seed=1)
    assert given.clear.all()
    flat, flat_trace = given.forward(return_trace=True)
    flat_grads = given.backward(flat_trace)
    given.x, given.grad_y = given.x.reshape((*lead, 9)), given.grad_y.reshape((*lead, 7))
    y, trace = given.forward(return_trace=True)
    grads = given.backward(trace)
    for found, expected, shape in (
        (y, flat, (7,)),
        (trace.scores, flat_trace.scores, (2, 3)),
        (trace.leaves, flat_trace.leaves, (2,)),
        (grads.x, flat_grads.x, (9,)),
    ):
        assert tuple(found.shape) == (*lead, *shape)
        np.testing.assert_array_equal(kind.get(found).ravel(), kind.get(expected).ravel())
    np.testing.assert_array_equal(kind.get(grads.nodes), kind.get(flat_grads.nodes))
    assert kind.get(grads.nodes).any() == bool(np.prod(lead))
    assert kind.get(trace.leaves).dtype == np.int32


def test_out_receives_the_result(kind, path):
    given = Problem(kind, (9, 7, 3, 1, "gelu", 6, True), "float32")
    out = kind.put(np.full((6, 7), np.nan, np.float32))
    assert given.forward(out=out) is out
    np.testing.assert_array_equal(kind.get(out), kind.get(given.forward()))
    y, _ = given.forward(out=kind.put(np.full((6, 7), np.nan, np.float32)), return_trace=True)
    np.testing.assert_array_equal(kind.get(out), kind.get(y))


def test_inputs_are_not_written(kind, path):
    given = Problem(kind, FEW[0], "float32")
    everything(kind, given)
    x, nodes, bias, grad_y = given.host
    pairs = [(given.x, x), (given.nodes, nodes), (given.bias, bias), (given.grad_y, grad_y)]
    for array, was in pairs:
        np.testing.assert_array_equal(kind.get(array), was)


@pytest.mark.filterwarnings("ignore:invalid value")  # of the simulator, which runs NumPy
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_stay_in_their_sample(value, kind, path):
    given = Problem(kind, (9, 7, 4, 1, "identity", 7, False), "float32")
    clean = kind.get(given.forward())
    given.host[0][3, 2] = value
    given.x = kind.put(given.host[0])
    y, trace = given.forward(return_trace=True)
    y, leaves, others = kind.get(y), kind.get(trace.leaves), np.arange(7) != 3
    np.testing.assert_array_equal(y[others], clean[others])
    assert not np.isfinite(y[3]).any()
    if np.isnan(value):
        assert (leaves[3] == 0).all()  # a NaN score goes left
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(leaves, reference.forward(*given.host[:2]).leaves)
    grad_x = kind.get(given.backward(trace).x)
    assert np.isfinite(grad_x[others]).all()


def test_an_unknown_path_is_refused(kind, monkeypatch):
    given = Problem(kind, (9, 7, 3, 1, "gelu", 6, True), "float32")
    monkeypatch.setattr("fffnb.cuda.tree.forced", "run")
    with pytest.raises(
        ValueError, match="forced must be None or one of leap, walk, sweep, got 'run'"
    ):
        given.forward()


@pytest.mark.skipif(kinds.SIMULATED, reason="the simulator has one form")
def test_both_forms_of_the_kernels_agree(kind, path, forget_kernels, monkeypatch):
    """That of pointers, and that of arrays, which is the simulator's."""
    if kind.name != "Numba device array":
        pytest.skip("arrays of Numba alone")
    given = Problem(kind, FEW[0], "float32")
    expected = everything(kind, given)
    caches = [f.cache_clear for f in vars(device).values() if hasattr(f, "cache_clear")]
    with monkeypatch.context() as patch:
        patch.setattr(cuda.launch, "SIMULATED", True)
        patch.setattr("numba.config.CUDA_LOW_OCCUPANCY_WARNINGS", 0)
        for forget in (forget_kernels, *caches):
            forget()
        try:
            found = everything(kind, given)
        finally:
            for forget in (forget_kernels, *caches):
                forget()
    for one, other in zip(found, expected, strict=True):
        one, other = np.frombuffer(one, np.float32), np.frombuffer(other, np.float32)
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)
