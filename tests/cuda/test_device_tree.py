"""The tree op on device arrays against its dense reference."""

import kinds
import numpy as np
import problems
import pytest
from problems import (
    BOUND,
    HALF_UNIT,
    bits,
    cases_for,
    check,
    check_added,
    check_all,
    check_factors,
    check_leading_axes,
    check_rows,
)
from test_tree import problem

import fffnb
from fffnb import cuda
from fffnb.activations import ACTIVATIONS
from fffnb.ops import device
from fffnb.reference import tree as reference

if kinds.MISSING:
    pytest.skip(kinds.MISSING, allow_module_level=True)

pytestmark = pytest.mark.usefixtures("tiles")

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
    return cases_for(tiles, SMALL, SMALL_ON_GPU, LARGE)


def test_cases_hold_every_value_of_every_factor(tiles):
    if tiles == "default":
        pytest.skip("these cases are for small tiles")
    tables = cuda.tree.MIX_GROUPS, cuda.tree.SLOPE_GROUPS, cuda.steps.CHUNKS
    check_factors(SMALL, [slice(2)], tables)


class Problem(problems.Problem):
    """A problem of trees."""

    forward_op = staticmethod(fffnb.fff_forward)
    backward_op = staticmethod(fffnb.fff_backward)
    draw, reference, parameters = staticmethod(problem), reference, ("nodes",)


def settings():
    """Return the forms of the forward pass; that of the last is chosen."""
    return [("fffnb.cuda.tree.forced", form) for form in (*cuda.tree.FORMS, None)]


@pytest.mark.parametrize("dtype", BOUND)
def test_equals_the_reference(dtype, kind, tiles):
    check_all(
        (Problem(kind, case, dtype, seed) for seed, case in enumerate(cases(tiles))), settings()
    )


@pytest.mark.parametrize("dtype", HALF_UNIT)
def test_sixteen_bits_are_as_good_as_their_rounding(dtype, kind, tiles):
    if dtype not in kind.dtypes:
        pytest.skip(f"a {kind.name} holds no {dtype}")
    for seed, case in enumerate([cases(tiles)[k] for k in (1, 2, 3)]):
        check(Problem(kind, case, dtype, seed), settings())


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_each_activation_with_and_without_bias(activation, with_bias, kind):
    check(Problem(kind, (4, 8, 3, 1, activation, 9, with_bias), "float64", seed=3), settings())


@pytest.mark.parametrize("dtype", [*BOUND, "bfloat16"])
def test_a_gradient_of_scores_is_added(dtype, kind, tiles):
    if dtype not in kind.dtypes:
        pytest.skip(f"a {kind.name} holds no {dtype}")
    check_added(Problem(kind, few(tiles)[1], dtype))


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
    [("leap", 0), ("sweep", 0), ("walk", 1)],
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
    found, n_places = sparse.nodes, 3 * sum(min(2**level, batch) for level in range(4))
    visited = np.flatnonzero(given.truth()[0].mask.any(axis=1))
    np.testing.assert_array_equal(kind.get(sparse.x), kind.get(dense.x))
    check_rows(kind, found, kind.get(dense.nodes).reshape(45, 16), visited, n_places)
    if not bias:
        assert sparse.bias is found.bias is dense.bias is None
        return
    for values in (found.bias, sparse.bias.values):
        gradient = fffnb.RowGradient(found.rows, values, None, found.count)
        check_rows(kind, gradient, kind.get(dense.bias).ravel(), visited, n_places)


@pytest.mark.parametrize("lead", [(), (1,), (0,), (2, 3), (2, 0, 3)])
def test_any_leading_axes(lead, kind):
    check_leading_axes(Problem, kind, lead)


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
