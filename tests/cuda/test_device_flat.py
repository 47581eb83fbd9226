"""The flat op on device arrays against its dense reference."""

import kinds
import numpy as np
import pytest
from test_device_input import shifted, strided
from test_device_tree import BOUND, HALF_UNIT, bits
from test_flat import problem, rms

import fffnb
from fffnb import cuda
from fffnb.activations import ACTIVATIONS
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
    for side in (0, 1):
        lengths = {cuda.tree.vector_length("float32", case[side]) for case in SMALL}
        assert lengths == {1, 2, 4}
    for groups in (cuda.flat.GROUPS, cuda.steps.CHUNKS):
        assert {cuda.tree.by_batch(groups, size) for size in batch} == set(groups.values())


class Problem:
    """A layer and a batch of one kind of arrays, without samples that may go another way."""

    def __init__(self, kind, case, dtype, seed=0, put=None):
        n_in, n_out, depth, n_trees, self.activation, batch, with_bias = case
        real, put = "float64" if dtype == "float64" else "float32", put or kind.put
        host = problem(n_in, n_out, depth, n_trees, batch, real, bias=with_bias, seed=seed)
        x, planes, y_vectors, bias, grad_y = host
        x, planes, y_vectors, grad_y = (
            kinds.round_to(array, dtype) for array in (x, planes, y_vectors, grad_y)
        )
        truth = reference.forward(x, planes, y_vectors, bias, self.activation)
        self.clear = ~truth.ambiguous(np.finfo(real).eps)
        x, grad_y = x[self.clear], grad_y[self.clear]
        self.host = x, planes, y_vectors, bias, grad_y
        given = (x, planes, y_vectors, grad_y)
        self.x, self.planes, self.y_vectors, self.grad_y = (put(array, dtype) for array in given)
        self.bias = kind.put(bias) if with_bias else None

    def forward(self, **change):
        given = {"x": self.x, "planes": self.planes, "y_vectors": self.y_vectors}
        options = {"bias": self.bias, "activation": self.activation}
        return fffnb.flat_forward(**{**given, **options, **change})

    def backward(self, trace, **change):
        given = {"grad_y": self.grad_y, "x": self.x, "planes": self.planes}
        given |= {"y_vectors": self.y_vectors, "trace": trace}
        return fffnb.flat_backward(**{**given, **change})

    def truth(self):
        """Return leaves, results, and the sizes of their terms."""
        *layer, grad_y = self.host
        run = reference.forward(*layer, self.activation)
        grads = reference.backward(grad_y, *layer, self.activation)
        sizes = reference.backward(grad_y, *layer, self.activation, absolute=True)
        size = reference.forward_size(*layer, self.activation)
        return run, (run.y, *grads), (size, *sizes)


def check(kind, case, dtype, seed):
    """Compare both forms of forward, and backward; return counts of samples and unclear ones."""
    given = Problem(kind, case, dtype, seed)
    run, right, sizes = given.truth()
    for form, sweep_from in FORMS.items():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("fffnb.cuda.flat.SWEEP_FROM", sweep_from)
            y, trace = given.forward(return_trace=True)
            same = kind.get(given.forward())
        np.testing.assert_array_equal(kind.get(trace.leaves), run.leaves, err_msg=form)
        np.testing.assert_array_equal(kind.get(y), same, err_msg=form)
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
    for case in cases(tiles)[1:3]:
        check(kind, case, dtype, seed=2)


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
    found = sparse.y_vectors
    rows, count = kind.get(found.rows), kind.get(found.count)
    visited = np.flatnonzero(given.truth()[0].mask.any(axis=1))
    assert rows.shape == (3 * sum(min(2**level, batch) for level in range(4)),)
    np.testing.assert_array_equal(count, [len(visited)])
    np.testing.assert_array_equal(rows[: len(visited)], visited)
    assert (rows[len(visited) :] == -1).all()
    whole = kind.get(dense.y_vectors).reshape(45, 7)
    np.testing.assert_array_equal(kind.get(found.values)[: len(visited)], whole[visited])
    assert not np.delete(whole, visited, axis=0).any() and found.bias is None
    assert (sparse.bias is None) == (dense.bias is None) == (not bias)
    for one, other in zip((sparse.x, *sparse[1::2]), (dense.x, *dense[1::2]), strict=True):
        if one is not None:
            np.testing.assert_array_equal(kind.get(one), kind.get(other))
            assert kind.get(one).any() == bool(batch)


@pytest.mark.parametrize("lead", [(), (0,), (2, 0, 3), (2, 3)])
def test_any_leading_axes(lead, kind):
    given = Problem(kind, (9, 7, 3, 2, "gelu", int(np.prod(lead)), True), "float32", seed=1)
    assert given.clear.all()
    flat, flat_trace = given.forward(return_trace=True)
    flat_grads = given.backward(flat_trace)
    given.x, given.grad_y = given.x.reshape((*lead, 9)), given.grad_y.reshape((*lead, 7))
    out = kind.put(np.full((*lead, 7), np.nan, np.float32))
    y, trace = given.forward(out=out, return_trace=True)
    assert y is out
    grads = given.backward(trace)
    for found, expected, shape in (
        (y, flat, (7,)),
        (trace.scores, flat_trace.scores, (2, 3)),
        (trace.leaves, flat_trace.leaves, (2,)),
        (grads.x, flat_grads.x, (9,)),
    ):
        assert tuple(found.shape) == (*lead, *shape)
        np.testing.assert_array_equal(kind.get(found).ravel(), kind.get(expected).ravel())
    np.testing.assert_array_equal(kind.get(grads.planes), kind.get(flat_grads.planes))


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


X, Y = np.ones((5, 3), np.float32), np.ones((5, 2), np.float32)
PLANES, VECTORS = fffnb.init_flat(3, 2, depth=4)
BIAS = np.zeros((1, 4), np.float32)
HOST_TRACE = fffnb.flat_forward(X, PLANES, VECTORS, bias=BIAS, return_trace=True)[1]


class Layer:
    """Good arguments of one kind."""

    def __init__(self, kind):
        self.kind, self.put = kind, kind.put
        arrays = {"x": X, "planes": PLANES, "y_vectors": VECTORS, "bias": BIAS}
        self.given = {name: kind.put(array) for name, array in arrays.items()}
        y, self.trace = fffnb.flat_forward(**self.given, return_trace=True)
        self.expected = kind.get(y)

    def refuses(self, function, arguments, error, words):
        with pytest.raises(error, match=words.format(self.kind.name)):
            function(**arguments)
        found = self.kind.get(fffnb.flat_forward(**self.given))
        np.testing.assert_array_equal(found, self.expected)


FORWARD = {
    "host x": (lambda put: {"x": X}, TypeError, "x must be a {} .* got numpy.ndarray"),
    "host planes": (lambda put: {"planes": PLANES}, TypeError, "y_vectors must be a numpy.ndarray"),
    "patterns": (
        lambda put: {"y_vectors": put(np.ones((1, 64, 2), np.float32))},
        ValueError,
        r"y_vectors must have shape \(1, 15, n_out\) with rows of nodes, .* got \(1, 64, 2\)",
    ),
    "host y_vectors": (
        lambda put: {"y_vectors": VECTORS},
        TypeError,
        "y_vectors must be a {} .* got",
    ),
    "host bias": (lambda put: {"bias": BIAS}, TypeError, "bias must be a {} .* got numpy.ndarray"),
    "host out": (lambda put: {"out": Y.copy()}, TypeError, "out must be a {} .* got numpy.ndarray"),
    "float64 x": (
        lambda put: {"x": put(X, "float64")},
        TypeError,
        "x must have the dtype of planes, float32, got float64",
    ),
    "int planes": (
        lambda put: {"planes": put(PLANES, "int32")},
        TypeError,
        "planes must be one of float32, float64, float16, bfloat16, got int32",
    ),
    "float64 y_vectors": (
        lambda put: {"y_vectors": put(VECTORS, "float64")},
        TypeError,
        "y_vectors must have the dtype of planes, float32, got float64",
    ),
    "float64 bias": (
        lambda put: {"bias": put(BIAS, "float64")},
        TypeError,
        "bias must be float32 for planes of float32, got float64",
    ),
    "strided planes": (
        lambda put: {"planes": strided(put, PLANES)},
        ValueError,
        "planes must be C-contiguous on the GPU",
    ),
    "strided y_vectors": (
        lambda put: {"y_vectors": strided(put, VECTORS)},
        ValueError,
        "y_vectors must be C-contiguous on the GPU",
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
    "bias shape": (
        lambda put: {"bias": put(BIAS[0])},
        ValueError,
        r"bias must have shape \(1, 4\) .* got \(4,\)",
    ),
    "out shape": (
        lambda put: {"out": put(X)},
        ValueError,
        r"out must have shape \(5, 2\) .* got \(5, 3\)",
    ),
    "activations": (lambda put: {"activation": ["relu"]}, ValueError, "activation must be one of"),
}


@pytest.mark.parametrize("case", FORWARD)
def test_forward_refuses(case, kind):
    change, *refusal = FORWARD[case]
    layer = Layer(kind)
    layer.refuses(fffnb.flat_forward, {**layer.given, **change(kind.put)}, *refusal)


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
def test_backward_refuses(case, kind):
    change, *refusal = BACKWARD[case]
    layer = Layer(kind)
    given = {name: layer.given[name] for name in ("x", "planes", "y_vectors")}
    given |= {"grad_y": kind.put(Y), "trace": layer.trace, **change(layer)}
    layer.refuses(fffnb.flat_backward, given, *refusal)


native = pytest.mark.skipif(kinds.SIMULATED, reason="needs a GPU")


@native
def test_out_must_not_overlap_an_input(kind):
    layer, room = Layer(kind), kind.put(np.ones(100, np.float32))
    vectors, x = room[:30].reshape((1, 15, 2)), room[40:55].reshape((5, 3))
    for change, name in (({"y_vectors": vectors}, "y_vectors"), ({"x": x}, "x")):
        out = room[28:38] if name == "y_vectors" else room[54:64]
        given = {**layer.given, **change, "out": out.reshape((5, 2))}
        layer.refuses(fffnb.flat_forward, given, ValueError, f"out must not overlap {name}")


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
