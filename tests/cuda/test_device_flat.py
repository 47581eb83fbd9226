"""The flat op on device arrays against its dense reference."""

import kinds
import numpy as np
import problems
import pytest
from problems import (
    BOUND,
    HALF_UNIT,
    Good,
    bits,
    cases_for,
    check,
    check_all,
    check_factors,
    check_leading_axes,
    check_rows,
    refusals,
    shifted,
)
from test_flat import problem

import fffnb
from fffnb import cuda
from fffnb.reference import flat as reference

if kinds.MISSING:
    pytest.skip(kinds.MISSING, allow_module_level=True)

pytestmark = pytest.mark.usefixtures("tiles")

#: Samples from which on there are two stages, by what all batches take then.
FORMS = {"walk": 10**9, "sweep": 0}

# n_in, n_out, depth, n_trees, activation, batch, bias
SMALL = [
    (12, 20, 4, 1, "gelu", 17, True),
    (6, 9, 3, 3, "identity", 5, False),
    (1, 3, 1, 1, "tanh", 2, True),
    (40, 4, 5, 2, "relu2", 7, True),
    (3, 1, 6, 1, "relu", 9, False),
    (72, 34, 2, 1, "silu", 1, True),
]
SMALL_ON_GPU = [(257, 100, 9, 3, "silu", 300, True), (2052, 2308, 3, 1, "identity", 70, False)]
LARGE = [
    (768, 768, 12, 1, "gelu", 3000, True),
    (784, 500, 8, 1, "relu", 128, True),
    (63, 77, 6, 3, "relu2", 9000, True),
    (4096, 64, 12, 1, "silu", 2100, False),
    (64, 4096, 20, 1, "identity", 600, True),
    (128, 64, 7, 2, "tanh", 1, True),
]


def cases(tiles):
    return cases_for(tiles, SMALL, SMALL_ON_GPU, LARGE)


def test_cases_hold_every_value_of_every_factor(tiles):
    if tiles == "default":
        pytest.skip("these cases are for small tiles")
    rows = slice(0, 1), slice(1, 2)
    check_factors(SMALL, rows, [cuda.flat.GROUPS, cuda.steps.CHUNKS])


class Problem(problems.Problem):
    """A problem of the flat form."""

    forward_op = staticmethod(fffnb.flat_forward)
    backward_op = staticmethod(fffnb.flat_backward)
    draw, reference, parameters = staticmethod(problem), reference, ("planes", "y_vectors")


SETTINGS = [("fffnb.cuda.flat.SWEEP_FROM", least) for least in FORMS.values()]


@pytest.mark.parametrize("dtype", BOUND)
def test_equals_the_reference(dtype, kind, tiles):
    check_all(
        (Problem(kind, case, dtype, seed) for seed, case in enumerate(cases(tiles))), SETTINGS
    )


@pytest.mark.parametrize("dtype", HALF_UNIT)
def test_sixteen_bits_are_as_good_as_their_rounding(dtype, kind, tiles):
    if dtype not in kind.dtypes:
        pytest.skip(f"a {kind.name} holds no {dtype}")
    for case in cases(tiles)[1:3]:
        check(Problem(kind, case, dtype, seed=2), SETTINGS)


def everything(kind, given):
    """Return all results of both ops as bytes."""
    y, trace = given.forward(return_trace=True)
    rows = given.backward(trace, sparse=True).y_vectors
    count = kind.get(rows.count)[0]
    results = [y, trace.scores, trace.leaves, *given.backward(trace), rows.rows]
    arrays = [kind.get(array) for array in results if array is not None]
    return [array.tobytes() for array in (*arrays, kind.get(rows.values)[:count])]


@pytest.mark.parametrize("form", FORMS)
def test_inputs_stay_and_results_are_the_same_bits_every_time(form, kind, tiles, monkeypatch):
    """Also where the threads go in another order, which only the simulator can tell."""
    monkeypatch.setattr("fffnb.cuda.flat.SWEEP_FROM", FORMS[form])
    given = Problem(kind, cases(tiles)[0], "float32")
    expected = everything(kind, given)
    if kinds.SIMULATED:
        monkeypatch.setattr("simulator.backwards", True)
    assert everything(kind, given) == expected
    arrays = given.x, given.planes, given.y_vectors, given.bias, given.grad_y
    for array, was in zip(arrays, given.host, strict=True):
        np.testing.assert_array_equal(kind.get(array), was)


@pytest.mark.parametrize(("batch", "bias"), [(0, True), (1, False), (7, True)])
def test_sparse_gradients_are_the_rows_of_the_dense_ones(batch, bias, kind):
    given = Problem(kind, (6, 7, 4, 3, "silu", batch, bias), "float32")
    _, trace = given.forward(return_trace=True)
    dense, sparse = given.backward(trace), given.backward(trace, sparse=True)
    found, n_places = sparse.y_vectors, 3 * sum(min(2**level, batch) for level in range(4))
    visited = np.flatnonzero(given.truth()[0].mask.any(axis=1))
    check_rows(kind, found, kind.get(dense.y_vectors).reshape(45, 7), visited, n_places)
    assert (sparse.bias is None) == (dense.bias is None) == (not bias) and found.bias is None
    for one, other in zip((sparse.x, *sparse[1::2]), (dense.x, *dense[1::2]), strict=True):
        if one is not None:
            np.testing.assert_array_equal(kind.get(one), kind.get(other))
            assert kind.get(one).any() == bool(batch)


@pytest.mark.parametrize("lead", [(), (0,), (2, 0, 3), (2, 3)])
def test_any_leading_axes(lead, kind):
    check_leading_axes(Problem, kind, lead)


@pytest.mark.filterwarnings("ignore:invalid value")  # of the simulator, which runs NumPy
@pytest.mark.parametrize("form", FORMS)
def test_values_that_are_not_finite_stay_in_their_sample(form, kind, monkeypatch):
    monkeypatch.setattr("fffnb.cuda.flat.SWEEP_FROM", FORMS[form])
    given = Problem(kind, (9, 7, 4, 1, "identity", 7, False), "float32")
    clean, others = kind.get(given.forward()), ~np.isin(np.arange(7), (2, 3))
    given.host[0][2:4, 2] = np.nan, np.inf
    given.x = kind.put(given.host[0])
    y, trace = given.forward(return_trace=True)
    y, leaves = kind.get(y), kind.get(trace.leaves)
    np.testing.assert_array_equal(bits(y[others]), bits(clean[others]))
    assert not np.isfinite(y[~others]).any()
    assert (leaves[2] == 0).all()  # a NaN score goes left
    assert np.isfinite(kind.get(given.backward(trace).x)[others]).all()


PLANES, VECTORS = fffnb.init_flat(3, 2, depth=4)
GOOD = {
    "x": np.ones((5, 3), np.float32),
    "planes": PLANES,
    "y_vectors": VECTORS,
    "bias": np.zeros((1, 4), np.float32),
}
Y = np.ones((5, 2), np.float32)
HOST_TRACE = fffnb.flat_forward(**GOOD, return_trace=True)[1]

FORWARD = {
    **refusals(GOOD, "planes"),
    "patterns": (
        lambda put: {"y_vectors": put(np.ones((1, 64, 2), np.float32))},
        ValueError,
        r"y_vectors must have shape \(1, 15, n_out\) with rows of nodes, .* got \(1, 64, 2\)",
    ),
    "2-D planes": (
        lambda put: {"planes": put(PLANES[0])},
        ValueError,
        r"planes must be 3-D .* got \(4, 3\)",
    ),
    "14 y vectors": (
        lambda put: {"y_vectors": put(VECTORS[:, :14])},
        ValueError,
        r"y_vectors must have shape \(1, 15, n_out\) .* got \(1, 14, 2\)",
    ),
    "wide x": (
        lambda put: {"x": put(np.ones((5, 4), np.float32))},
        ValueError,
        "x must have 3 columns like planes, got 4",
    ),
}


@pytest.fixture
def good(kind):
    return Good(kind, fffnb.flat_forward, GOOD)


@pytest.mark.parametrize("case", FORWARD)
def test_forward_refuses(case, good):
    change, *refusal = FORWARD[case]
    good.refuses(lambda: good.forward(**change(good.put)), *refusal)


BACKWARD = {
    "host grad_y": (
        lambda at: {"grad_y": Y},
        TypeError,
        "grad_y must be a {} .* got numpy.ndarray",
    ),
    "grad_y shape": (
        lambda at: {"grad_y": at.put(Y[:4])},
        ValueError,
        r"grad_y must have shape \(5, 2\) .* got \(4, 2\)",
    ),
    "no trace": (
        lambda at: {"trace": None},
        TypeError,
        "trace must be the FlatTrace of flat_forward, got NoneType",
    ),
    "host trace": (
        lambda at: {"trace": HOST_TRACE},
        TypeError,
        "trace.scores must be a {} .* got numpy.ndarray",
    ),
    "trace of other y vectors": (
        lambda at: {"trace": at.trace._replace(y_vectors_shape=(1, 15, 3))},
        ValueError,
        r"trace must come from .* \(1, 4, 3\) and \(1, 15, 2\), got one of .* \(1, 15, 3\)",
    ),
    "leaves shape": (
        lambda at: {"trace": at.trace._replace(leaves=at.put(HOST_TRACE.leaves[:4]))},
        ValueError,
        r"trace.leaves must have shape \(5, 1\)",
    ),
    "activation": (
        lambda at: {"trace": at.trace._replace(activation="swish")},
        ValueError,
        "activation must be one of",
    ),
}


@pytest.mark.parametrize("case", BACKWARD)
def test_backward_refuses(case, good):
    change, *refusal = BACKWARD[case]
    given = {name: good.given[name] for name in ("x", "planes", "y_vectors")}
    given |= {"grad_y": good.put(Y), "trace": good.trace, **change(good)}
    good.refuses(lambda: fffnb.flat_backward(**given), *refusal)


native = pytest.mark.skipif(kinds.SIMULATED, reason="needs a GPU")


@native
def test_out_must_not_overlap_an_input(good):
    room = good.put(np.ones(100, np.float32))
    vectors, x = room[:30].reshape((1, 15, 2)), room[40:55].reshape((5, 3))
    for change, name in (({"y_vectors": vectors}, "y_vectors"), ({"x": x}, "x")):
        out = room[28:38] if name == "y_vectors" else room[54:64]
        change["out"] = out.reshape((5, 2))
        words = f"out must not overlap {name}"
        good.refuses(lambda change=change: good.forward(**change), ValueError, words)


@native
@pytest.mark.parametrize("offset", [1, 2])
def test_arrays_may_start_anywhere(offset, kind, tiles):
    """Loads of several numbers at once would go wrong there."""
    for case in cases(tiles)[:2]:
        results = []
        for put in (kind.put, shifted(kind, offset)):
            given = Problem(kind, case, "float32", put=lambda array, dtype, put=put: put(array))
            y, trace = given.forward(return_trace=True)
            results.append([kind.get(array) for array in (y, *given.backward(trace)[:3])])
        for found, right in zip(*results, strict=True):
            np.testing.assert_allclose(found, right, rtol=0, atol=1e-4 * np.abs(right).max())
