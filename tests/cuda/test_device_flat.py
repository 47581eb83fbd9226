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
    check_added,
    check_all,
    check_factors,
    check_leading_axes,
    check_rows,
    on_device,
    refusals,
    shifted,
)
from test_flat import problem
from test_update import Replay, rule_for

import fffnb
from fffnb import cuda
from fffnb.nodes import FLAT_ROWS
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
    check_factors(SMALL, rows, [cuda.flat.TILES, cuda.steps.CHUNKS])


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


#: Of y vectors for all patterns of signs.
PATTERNS = {
    "small": [(4, 6, 3, 2, "gelu", 7, True), (3, 5, 2, 1, "silu", 5, False)],
    "default": [(768, 768, 8, 1, "gelu", 3000, True), (64, 66, 5, 3, "silu", 300, False)],
}


STEPPED = {"small": (3, 4, 2, 2, "gelu", 5, True), "default": (264, 120, 6, 2, "gelu", 2500, True)}


@pytest.mark.parametrize("dtype", BOUND)
def test_patterns_equal_the_reference(dtype, kind, tiles):
    for case in PATTERNS[tiles]:
        check(Problem(kind, case, dtype, rows="patterns"), SETTINGS)


@pytest.mark.parametrize("rows", FLAT_ROWS)
def test_a_gradient_of_scores_is_added(rows, kind, tiles):
    check_added(Problem(kind, PATTERNS[tiles][1], "float64", rows=rows))


@pytest.mark.parametrize(
    ("name", "rows"), [("nesterov", "nodes"), ("sgd", "patterns"), ("adamw", "patterns")]
)
def test_fused_update_follows_the_replay(name, rows, kind, tiles):
    """Two steps with the gradients of `flat_backward`, to which gradients of scores are added."""
    given = Problem(kind, STEPPED[tiles], "float64", rows=rows)
    names, (x, *host, _) = ("planes", "y_vectors", "bias"), given.host
    widths = *(array.shape[2] for array in host[:2]), 1
    replays = [Replay(name, *pair) for pair in zip(host, widths, strict=True)]
    rules = [on_device(kind, rule_for(name, *pair)) for pair in zip(host, widths, strict=True)]
    added = kind.put(np.ones((len(x), *host[2].shape)))
    everyone = np.arange(host[2].size)
    for _ in range(2):
        _, trace = given.forward(return_trace=True)
        grads = given.backward(trace, grad_scores=added, sparse=True)
        grad_x = fffnb.flat_backward_update(
            *(given.grad_y, given.x, given.planes, given.y_vectors, trace, *rules[:2]),
            **{"bias": given.bias, "bias_rule": rules[2], "grad_scores": added},
        )
        np.testing.assert_array_equal(kind.get(grad_x), kind.get(grads.x))
        visited, n = kind.get(grads.y_vectors.rows), kind.get(grads.y_vectors.count)[0]
        replays[0].step(everyone, kind.get(grads.planes).reshape(-1, widths[0]))
        replays[1].step(visited[:n], kind.get(grads.y_vectors.values)[:n])
        replays[2].step(everyone, kind.get(grads.bias).ravel())
    for array, replay, rule in zip(names, replays, rules, strict=True):
        found = kind.get(getattr(given, array))
        np.testing.assert_allclose(found.reshape(replay.rows.shape), replay.rows, atol=1e-11)
        if name == "adamw":
            np.testing.assert_array_equal(kind.get(rule.state["steps"]), replay.steps)


def test_an_empty_batch_steps_nothing(kind):
    given = Problem(kind, (6, 7, 4, 3, "silu", 0, False), "float32")
    _, trace = given.forward(return_trace=True)
    rules = [on_device(kind, rule_for("adamw", a, a.shape[2])) for a in given.host[1:3]]
    layer = given.planes, given.y_vectors
    grad_x = fffnb.flat_backward_update(given.grad_y, given.x, *layer, trace, *rules)
    assert tuple(grad_x.shape) == (0, 6)
    for array, was, rule in zip(layer, given.host[1:3], rules, strict=True):
        np.testing.assert_array_equal(kind.get(array), was)
        assert not kind.get(rule.state["steps"]).any()


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


@pytest.mark.parametrize(
    ("batch", "bias", "rows"),
    [(0, True, "nodes"), (1, False, "nodes"), (7, True, "nodes"), (6, False, "patterns")],
)
def test_sparse_gradients_are_the_rows_of_the_dense_ones(batch, bias, rows, kind):
    given = Problem(kind, (6, 7, 4, 3, "silu", batch, bias), "float32", rows=rows)
    _, trace = given.forward(return_trace=True)
    dense, sparse = given.backward(trace), given.backward(trace, sparse=True)
    levels = range(4) if rows == "nodes" else [4] * 4
    found, n_places = sparse.y_vectors, 3 * sum(min(2**level, batch) for level in levels)
    visited = np.flatnonzero(given.truth()[0].mask.any(axis=1))
    check_rows(kind, found, kind.get(dense.y_vectors).reshape(-1, 7), visited, n_places)
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
    "2-D planes": (
        lambda put: {"planes": put(PLANES[0])},
        ValueError,
        r"planes must be 3-D .* got \(4, 3\)",
    ),
    "14 y vectors": (
        lambda put: {"y_vectors": put(VECTORS[:, :14])},
        ValueError,
        r"y_vectors must have shape \(1, 15, n_out\) .* or \(1, 64, n_out\) .* got \(1, 14, 2\)",
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
    good.refuses(*refusal, lambda: good.forward(**change(good.put)))


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
    "grad_scores shape": (
        lambda at: {"grad_scores": at.put(np.zeros((4, 1, 4), np.float32))},
        ValueError,
        r"grad_scores must have shape \(5, 1, 4\) .* got \(4, 1, 4\)",
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
    rules = {f"{name}_rule": rule_for("sgd", GOOD[name], 1) for name in ("planes", "y_vectors")}
    good.refuses(
        *refusal,
        lambda: fffnb.flat_backward(**given),
        lambda: fffnb.flat_backward_update(**given, **rules),
    )


STEPS = {
    "no rule": ({"planes_rule": "sgd"}, TypeError, "planes_rule must be an UpdateRule, got str"),
    "host state": (
        {"y_vectors_rule": rule_for("momentum", VECTORS, 2)},
        TypeError,
        r"y_vectors_rule.state\['momentum'\] must be a {} .* got numpy.ndarray",
    ),
    "bias without its rule": (
        {"bias_rule": None},
        ValueError,
        "bias and bias_rule must be given together",
    ),
}


@pytest.mark.parametrize("case", STEPS)
def test_the_fused_step_refuses(case, good):
    change, *refusal = STEPS[case]
    rules = {f"{n}_rule": rule_for("sgd", GOOD[n], 1) for n in ("planes", "y_vectors", "bias")}
    given = {"grad_y": good.put(Y), **good.given, "trace": good.trace, **rules, **change}
    good.refuses(*refusal, lambda: fffnb.flat_backward_update(**given))


native = pytest.mark.skipif(kinds.SIMULATED, reason="needs a GPU")


@native
def test_out_must_not_overlap_an_input(good):
    room = good.put(np.ones(100, np.float32))
    vectors, x = room[:30].reshape((1, 15, 2)), room[40:55].reshape((5, 3))
    for change, name in (({"y_vectors": vectors}, "y_vectors"), ({"x": x}, "x")):
        out = room[28:38] if name == "y_vectors" else room[54:64]
        change["out"] = out.reshape((5, 2))
        words = f"out must not overlap {name}"
        good.refuses(ValueError, words, lambda change=change: good.forward(**change))


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
