"""The bag and product keys on device arrays against their dense references."""

import kinds
import numpy as np
import pytest
import test_bag
import test_keys
from test_bag import SCORES, in_order, rms
from test_device_input import shifted, strided
from test_device_tree import BOUND, HALF_UNIT, bits

import fffnb
from fffnb import cuda
from fffnb.reference import bag as bag_reference
from fffnb.reference import keys as keys_reference

if kinds.MISSING:
    pytest.skip(kinds.MISSING, allow_module_level=True)

pytestmark = pytest.mark.usefixtures("tiles")


class Bag:
    """Bags and a batch of one kind of arrays, without samples that may choose otherwise."""

    names, gradient = ("x", "nodes", "bias"), "nodes"
    functions = fffnb.bag_forward, fffnb.bag_backward
    reference = bag_reference

    # n_in, n_out, n_nodes, n_trees, k, activation, batch, bias
    SMALL = (
        (12, 20, 9, 1, 5, "gelu", 5, True),
        (1, 3, 17, 2, 1, "relu2", 3, False),
    )
    LARGE = (
        (768, 768, 4096, 1, 16, "gelu", 600, True),
        (784, 500, 64, 1, 8, "relu", 128, True),
        (63, 77, 3000, 3, 100, "silu", 300, False),
        (8, 2, 1100, 1, 1024, "tanh", 3, False),
    )

    def __init__(self, kind, case, dtype, seed=0, put=None):
        self.kind, put = kind, put or kind.put
        *sizes, self.k, self.activation, batch, bias = case
        real = "float64" if dtype == "float64" else "float32"
        host = [*self.draw(sizes, batch, real, bias, seed)]
        host = [kinds.round_to(part, dtype) if part is not None else None for part in host]
        if bias:
            host[2] = host[2].astype(real)
        truth = self.reference.forward(*self.arguments(host))
        self.unclear = truth.ambiguous(np.finfo(real).eps, self.k)
        self.n_nodes = truth.mask.shape[2]
        host[0], host[-1] = host[0][~self.unclear], host[-1][~self.unclear]
        self.host, self.given = host, {}
        for name, part in zip((*self.names, "grad_y"), host, strict=True):
            self.given[name] = None
            if part is not None:
                self.given[name] = kind.put(part) if name == "bias" else put(part, dtype)

    @staticmethod
    def draw(sizes, batch, real, bias, seed):
        return test_bag.problem(*sizes, batch, real, bias=bias, seed=seed)

    def arguments(self, host):
        """Return the arguments of the reference."""
        x, nodes, bias, _ = host
        return x, nodes, self.k, bias, self.activation

    def truth(self):
        """Return the mask of chosen nodes, results, and the sizes of their terms."""
        given, grad_y = self.arguments(self.host), self.host[-1]
        run = self.reference.forward(*given)
        grads = self.reference.backward(grad_y, *given)
        sizes = self.reference.backward(grad_y, *given, absolute=True)
        return run.mask, (run.y, *grads), (run.y_size, *sizes)

    def chosen(self, trace):
        """Return the mask (n_trees, batch, n_nodes) of what a trace says that samples chose."""
        rows = self.kind.get(trace.rows)
        rows = rows.reshape(-1, *rows.shape[-2:]).swapaxes(0, 1)
        first = 0 if self.names[1] == "keys" else self.n_nodes * np.arange(len(rows))[:, None, None]
        mask = np.zeros((*rows.shape[:2], self.n_nodes), bool)
        np.put_along_axis(mask, rows - first, True, axis=2)
        return mask

    def forward(self, **change):
        given = {name: self.given[name] for name in self.names}
        options = {"k": self.k, "activation": self.activation}
        return self.functions[0](**{**given, **options, **change})

    def backward(self, trace, **change):
        names = "grad_y", *(name for name in self.names if name != "bias")
        given = {name: self.given[name] for name in names}
        return self.functions[1](**{**given, "trace": trace, **change})


class Positive(Bag):
    """Bags of which every sample chooses all positive nodes."""

    SMALL = (
        (12, 20, 9, 1, None, "gelu", 5, True),
        (16, 8, 9, 2, None, "relu2", 3, False),
    )
    LARGE = (
        (768, 768, 256, 1, None, "identity", 600, True),
        (784, 500, 64, 1, None, "gelu", 128, True),
        (63, 77, 300, 3, None, "silu", 300, False),
        (8, 2, 1100, 1, None, "tanh", 3, False),
    )

    def chosen(self, trace):
        assert trace.rows is None and trace.starts is None
        scores = self.kind.get(trace.scores)
        return ~(scores.reshape(-1, *scores.shape[-2:]) <= 0).swapaxes(0, 1)


class Keys(Bag):
    """Product keys and a batch, likewise."""

    names, gradient = ("x", "keys", "y_vectors"), "y_vectors"
    functions = fffnb.keys_forward, fffnb.keys_backward
    reference = keys_reference

    # n_in, n_out, n_keys, n_trees, k, activation, batch, no bias
    SMALL = ((8, 20, 4, 2, 5, "gelu", 3, False), (2, 3, 5, 1, 3, "silu", 3, False))
    LARGE = (
        (256, 256, 30, 2, 16, "gelu", 200, False),
        (30, 33, 40, 1, 1000, "identity", 9, False),
    )

    @staticmethod
    def draw(sizes, batch, real, bias, seed):
        return test_keys.problem(*sizes, batch, real, seed=seed)

    def arguments(self, host):
        return *host[:3], self.k, self.activation


FORMS = {"bag": Bag, "positive": Positive, "keys": Keys}
form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


def check(kind, form, case, dtype, seed):
    """Compare forward and backward; return counts of samples and unclear ones."""
    given = form(kind, case, dtype, seed)
    mask, right, sizes = given.truth()
    y, trace = given.forward(return_trace=True)
    np.testing.assert_array_equal(kind.get(y), kind.get(given.forward()))
    np.testing.assert_array_equal(given.chosen(trace), mask)
    for found, expected, size in zip((y, *given.backward(trace)), right, sizes, strict=True):
        if found is None:
            assert form is not Keys and given.given["bias"] is None
            continue
        assert isinstance(found, kind.type)
        found = kind.get(found)
        assert found.shape == expected.shape
        if dtype in BOUND:
            assert found.dtype == dtype
            assert rms(found - expected) <= BOUND[dtype] * rms(size), case
        else:
            assert rms(found - expected) <= HALF_UNIT[dtype] * rms(expected) + 1e-9, case
    return len(given.unclear), np.sum(given.unclear)


@form
@pytest.mark.parametrize("dtype", BOUND)
def test_equals_the_reference(dtype, form, kind, tiles):
    cases = form.LARGE if tiles == "default" else form.SMALL
    counts = [check(kind, form, case, dtype, seed) for seed, case in enumerate(cases)]
    samples, unclear = np.sum(counts, axis=0)
    assert samples == sum(case[6] for case in cases)
    assert unclear <= 0.03 * samples


@pytest.mark.parametrize(
    ("form", "dtype"), [(Bag, "float16"), (Positive, "bfloat16"), (Keys, "bfloat16")]
)
def test_sixteen_bits_are_as_good_as_their_rounding(form, dtype, kind):
    if dtype not in kind.dtypes:
        pytest.skip(f"a {kind.name} holds no {dtype}")
    check(kind, form, form.SMALL[-1], dtype, seed=2)


def everything(kind, given):
    """Return all results of both ops as bytes."""
    y, trace = given.forward(return_trace=True)
    rows = getattr(given.backward(trace, sparse=True), given.gradient)
    count = kind.get(rows.count)[0]
    results = [y, trace.scores, trace.rows, *given.backward(trace), rows.rows]
    arrays = [kind.get(array) for array in results if array is not None]
    return [array.tobytes() for array in (*arrays, kind.get(rows.values)[:count])]


@form
def test_inputs_stay_and_results_are_the_same_bits_every_time(form, kind, monkeypatch):
    """Also where the threads go in another order, which only the simulator can tell."""
    given = form(kind, form.SMALL[-1], "float32")
    expected = everything(kind, given)
    if kinds.SIMULATED:
        monkeypatch.setattr("simulator.backwards", True)
    assert everything(kind, given) == expected
    for array, was in zip(given.given.values(), given.host, strict=True):
        if was is not None:
            np.testing.assert_array_equal(kind.get(array), was)


@form
@pytest.mark.parametrize("lead", [(), (0,), (2, 1)])
def test_any_leading_axes_and_sparse_gradients(lead, form, kind):
    *sizes, _, _ = form.SMALL[0]
    given = form(kind, (*sizes, int(np.prod(lead)), form is not Keys), "float32", seed=1)
    assert not given.unclear.any()
    flat, flat_trace = given.forward(return_trace=True)
    for name in ("x", "grad_y"):
        array = given.given[name]
        given.given[name] = array.reshape((*lead, array.shape[1]))
    out = kind.put(np.full((*lead, 20), np.nan, np.float32))
    y, trace = given.forward(out=out, return_trace=True)
    assert y is out and tuple(trace.scores.shape) == (*lead, *flat_trace.scores.shape[1:])
    if form is not Positive:
        assert trace.scores.shape == trace.rows.shape
    np.testing.assert_array_equal(kind.get(y).reshape(-1, 20), kind.get(flat))
    dense, sparse = given.backward(trace), given.backward(trace, sparse=True)
    assert tuple(dense.x.shape) == tuple(given.given["x"].shape)
    np.testing.assert_array_equal(kind.get(sparse.x), kind.get(dense.x))
    rows, whole = getattr(sparse, given.gradient), kind.get(getattr(dense, given.gradient))
    whole = whole.reshape(-1, whole.shape[-1])
    visited = np.flatnonzero(given.chosen(trace).any(axis=(0, 1) if form is Keys else 1))
    found, count = kind.get(rows.rows), len(visited)
    assert kind.get(rows.count)[0] == count
    assert len(found) == min(kind.get(trace.scores).size, len(whole))
    np.testing.assert_array_equal(found[:count], visited)
    assert (found[count:] == -1).all()
    np.testing.assert_array_equal(kind.get(rows.values)[:count], whole[visited])
    assert not np.delete(whole, visited, axis=0).any()
    if form is not Keys:
        biases = kind.get(dense.bias).ravel()
        np.testing.assert_array_equal(kind.get(rows.bias)[:count], biases[visited])
        assert not np.delete(biases, visited).any() and sparse.bias.values is rows.bias
    else:
        np.testing.assert_array_equal(kind.get(sparse.keys), kind.get(dense.keys))
        assert kind.get(dense.keys).any() == bool(count)


@pytest.mark.filterwarnings("ignore:invalid value")  # of the simulator, which runs NumPy
@pytest.mark.parametrize("k", [1, 4, 10])
def test_the_best_come_first_and_ties_go_to_the_lower_node(k, kind):
    nodes = np.stack([SCORES, np.ones_like(SCORES)], axis=1)[None]
    x = kind.put(np.ones((1, 1), np.float32))
    _, trace = fffnb.bag_forward(x, kind.put(nodes), k=k, return_trace=True)
    order = in_order(SCORES)[:k]
    np.testing.assert_array_equal(kind.get(trace.rows)[0, 0], order)
    np.testing.assert_array_equal(kind.get(trace.scores)[0, 0], SCORES[order])


@pytest.mark.parametrize("k", [4, 49])
def test_equal_sums_are_told_apart_as_on_the_cpu(k, kind):
    rng = np.random.default_rng(1)
    keys = rng.integers(-2, 3, (1, 2, 7, 3)).astype(np.float32)
    x = rng.integers(-1, 2, (3, 6)).astype(np.float32)
    given = x, keys, np.ones((49, 1), np.float32)
    _, right = fffnb.keys_forward(*given, k=k, return_trace=True)
    _, found = fffnb.keys_forward(*map(kind.put, given), k=k, return_trace=True)
    np.testing.assert_array_equal(kind.get(found.rows), right.rows)
    np.testing.assert_array_equal(kind.get(found.scores), right.scores)


@pytest.mark.filterwarnings("ignore:invalid value")
@form
def test_values_that_are_not_finite_stay_in_their_sample(form, kind):
    given = form(kind, (*form.SMALL[0][:6], 3, form is not Keys), "float32")
    clean, others = kind.get(given.forward()), np.arange(3) == 0
    given.host[0][1:3, 2] = np.nan, np.inf
    given.given["x"] = kind.put(given.host[0])
    y, trace = given.forward(return_trace=True)
    y = kind.get(y)
    np.testing.assert_array_equal(bits(y[others]), bits(clean[others]))
    assert not np.isfinite(y[1]).any()
    grad_x = kind.get(given.backward(trace).x)
    assert np.isfinite(grad_x[others]).all() and np.isnan(grad_x[1]).all()


X, Y = np.ones((5, 4), np.float32), np.ones((5, 2), np.float32)
NODES, BIAS = fffnb.init_bag(4, 2, 9), np.zeros((1, 9), np.float32)
KEYS, VECTORS = fffnb.init_keys(4, 2, n_keys=3)
HOSTS = {
    Bag: {"x": X, "nodes": NODES, "bias": BIAS},
    Keys: {"x": X, "keys": KEYS, "y_vectors": VECTORS},
}
WIDE = fffnb.init_bag(1, 1, 1100)

FORWARD = {
    "host x": (Bag, lambda put: {"x": X}, TypeError, "x must be a {} .* got numpy.ndarray"),
    "host bias": (Bag, lambda put: {"bias": BIAS}, TypeError, "bias must be a {} .* got"),
    "float64 x": (
        Bag,
        lambda put: {"x": put(X, "float64")},
        TypeError,
        "x must have the dtype of nodes, float32, got float64",
    ),
    "2-D nodes": (Bag, lambda put: {"nodes": put(NODES[0])}, ValueError, "nodes must be 3-D"),
    "strided nodes": (
        Bag,
        lambda put: {"nodes": strided(put, NODES)},
        ValueError,
        "nodes must be C-contiguous on the GPU",
    ),
    "float k": (Bag, lambda put: {"k": 3.0}, TypeError, "k must be an int, got float"),
    "k of 0": (Bag, lambda put: {"k": 0}, ValueError, "k must be at least 1, got 0"),
    "large k": (Bag, lambda put: {"k": 10}, ValueError, "k must be at most .* bag, 9, got 10"),
    "k without room": (
        Bag,
        lambda put: {"k": 1025, "x": put(X[:, :1]), "nodes": put(WIDE), "bias": None},
        ValueError,
        "k must be at most 1024 on a GPU, got 1025",
    ),
    "bias shape": (Bag, lambda put: {"bias": put(BIAS[0])}, ValueError, r"bias .* shape \(1, 9\)"),
    "out shape": (Bag, lambda put: {"out": put(X)}, ValueError, r"out must have shape \(5, 2\)"),
    "n_out": (Bag, lambda put: {"n_out": 3}, ValueError, "x must have 3 columns for n_out = 3"),
    "host y_vectors": (
        Keys,
        lambda put: {"y_vectors": VECTORS},
        TypeError,
        "y_vectors must be a {} .* got",
    ),
    "8 y vectors": (
        Keys,
        lambda put: {"y_vectors": put(VECTORS[:8])},
        ValueError,
        "the number of y_vectors must be a square",
    ),
    "keys shape": (
        Keys,
        lambda put: {"keys": put(KEYS[:, :, :2])},
        ValueError,
        r"keys must have shape \(n_trees, 2, 3, n_in / 2\)",
    ),
    "float64 y_vectors": (
        Keys,
        lambda put: {"y_vectors": put(VECTORS, "float64")},
        TypeError,
        "y_vectors must have the dtype of keys, float32, got float64",
    ),
    "wide x": (
        Keys,
        lambda put: {"x": put(np.ones((5, 6), np.float32))},
        ValueError,
        "x must have 4 columns, twice as many as keys",
    ),
    "too many": (Keys, lambda put: {"k": 10}, ValueError, "y vectors, 9, got 10"),
}


@pytest.mark.parametrize("case", FORWARD)
def test_forward_refuses(case, kind):
    form, change, error, words = FORWARD[case]
    given = {name: kind.put(array) for name, array in HOSTS[form].items()}
    with pytest.raises(error, match=words.format(kind.name)):
        form.functions[0](**{**given, "k": 3, **change(kind.put)})


BACKWARD = {
    "host grad_y": (lambda put, trace: {"grad_y": Y}, TypeError, "grad_y must be a {} .* got"),
    "grad_y shape": (
        lambda put, trace: {"grad_y": put(Y[:4])},
        ValueError,
        r"grad_y must have shape \(5, 2\) .* got \(4, 2\)",
    ),
    "no trace": (lambda put, trace: {"trace": None}, TypeError, "trace must be the .* NoneType"),
    "scores shape": (
        lambda put, trace: {"trace": trace._replace(scores=put(Y))},
        ValueError,
        r"trace.scores must have shape \(5, 1, 3\)",
    ),
    "rows dtype": (
        lambda put, trace: {"trace": trace._replace(rows=trace.scores)},
        TypeError,
        "trace.rows must be int64, got float32",
    ),
    "activation": (
        lambda put, trace: {"trace": trace._replace(activation="swish")},
        ValueError,
        "activation must be one of",
    ),
    "another layer": (
        lambda put, trace: {"trace": type(trace)(*trace[:-2], (1, 2, 3), 9)},
        ValueError,
        "trace must come from",
    ),
}


@pytest.mark.parametrize("form", [Bag, Keys])
@pytest.mark.parametrize("case", BACKWARD)
def test_backward_refuses(case, form, kind):
    change, error, words = BACKWARD[case]
    given = {name: kind.put(array) for name, array in HOSTS[form].items()}
    _, trace = form.functions[0](**given, k=3, return_trace=True)
    given.pop("bias", None)
    given |= {"grad_y": kind.put(Y), "trace": trace, **change(kind.put, trace)}
    with pytest.raises(error, match=words.format(kind.name)):
        form.functions[1](**given)


def test_all_positive_nodes_need_their_scores_and_room_for_them(kind, monkeypatch):
    x, nodes, grad_y = map(kind.put, (X, NODES, Y))
    _, trace = fffnb.bag_forward(x, nodes, k=None, return_trace=True)
    starts = kind.put(np.arange(6) * 9)
    for change, words in [
        ({"starts": starts}, "trace must come from arrays on a GPU, got one with starts"),
        ({"scores": grad_y}, r"trace.scores must have shape \(5, 1, 9\) .* got \(5, 2\)"),
    ]:
        with pytest.raises(ValueError, match=words):
            fffnb.bag_backward(grad_y, x, nodes, trace._replace(**change))
    monkeypatch.setattr("fffnb.cuda.launch.memory_of", lambda device: 215)
    with pytest.raises(MemoryError, match=r"shape \(2, 3, 1, 9\) .* take 216 bytes"):
        fffnb.bag_forward(kind.put(X[:3]), nodes, k=None)


def test_a_room_takes_what_a_round_may_append():
    from fffnb.cuda.bag_choose import room_of

    for k in range(1, cuda.bag.MOST_CHOSEN + 1):
        room, threads = room_of(k)
        assert k + threads <= room and room & (room - 1) == 0 and threads <= 1024
        assert room * (8 + 4) <= 40_000


native = pytest.mark.skipif(kinds.SIMULATED, reason="needs a GPU")


@native
@form
@pytest.mark.parametrize("offset", [1, 2])
def test_arrays_may_start_anywhere(offset, form, kind):
    """Loads of several numbers at once would go wrong there."""
    results = []
    for put in (kind.put, shifted(kind, offset)):
        given = form(kind, form.SMALL[0], "float32", put=lambda array, dtype, put=put: put(array))
        y, trace = given.forward(return_trace=True)
        results.append([kind.get(array) for array in (y, *given.backward(trace)[:3])])
    for found, right in zip(*results, strict=True):
        np.testing.assert_allclose(found, right, rtol=0, atol=1e-4 * np.abs(right).max())
