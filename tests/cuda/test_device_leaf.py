"""The leaf form on device arrays against its dense reference."""

import kinds
import numpy as np
import pytest
from test_device_soft import got, put
from test_leaf import assert_near, listed, problem
from test_soft import by_tree

import fffnb
from fffnb.reference import leaf as reference

if kinds.MISSING:
    pytest.skip(kinds.MISSING, allow_module_level=True)

pytestmark = pytest.mark.usefixtures("tiles")

BOUND = {"float32": 1e-6, "float64": 1e-13}

# n_in, n_out, depth, width, n_trees, batch, activation, bias
SMALL = [
    (1, 1, 1, 1, 1, 1, "identity", True),
    (6, 9, 2, 3, 2, 11, "gelu", True),
    (12, 4, 2, 4, 1, 5, "relu", False),
]
LARGE = [
    (784, 10, 4, 8, 1, 600, "relu", False),
    (768, 260, 5, 32, 1, 150, "silu", True),
    (63, 77, 3, 12, 3, 130, "tanh", True),
    (20, 36, 3, 12, 2, 5000, "gelu", True),
]


def cases(tiles):
    return LARGE if tiles == "default" else SMALL


def device_bias(kind, bias):
    return None if bias is None else fffnb.LeafBias(*put(kind, bias))


@pytest.mark.parametrize("dtype", BOUND)
def test_the_hard_form_equals_the_reference(dtype, kind, tiles):
    for seed, (*sizes, activation, with_bias) in enumerate(cases(tiles)):
        x, grad_y, *layer, bias = problem(*sizes, dtype, bias=with_bias, seed=seed)
        options = reference.Options(bias, activation)
        clear = ~reference.forward(x, *layer, options).ambiguous(np.finfo(dtype).eps)
        assert clear.mean() > 0.98
        x, grad_y = x[clear], grad_y[clear]  # the others may go another way, which is no error
        truth = reference.forward(x, *layer, options)
        on_device = put(kind, (x, *layer))
        given = {"bias": device_bias(kind, bias), "activation": activation}
        y, trace = fffnb.leaf_forward(*on_device, **given, return_trace=True)
        out = kind.put(np.full(truth.y.shape, np.nan, dtype))
        assert fffnb.leaf_forward(*on_device, **given, out=out) is out
        np.testing.assert_array_equal(kind.get(out), kind.get(y))
        np.testing.assert_array_equal(kind.get(trace.leaves), truth.leaves)
        grads = fffnb.leaf_backward(kind.put(grad_y), *on_device, trace)
        assert isinstance(y, kind.type) and grads.routers is None
        assert (grads.bias is None) == (bias is None)
        arguments = grad_y, x, *layer, options
        pairs = reference.backward(*arguments), reference.backward(*arguments, absolute=True)
        triples = [*zip(got(kind, listed(grads)), *pairs, strict=True)]
        triples = [triple for triple in triples if triple[0] is not None]
        assert_near([(kind.get(y), truth.y, truth.size), *triples], BOUND[dtype])
        assert all(found.dtype == dtype for found, *_ in triples)
        sparse = fffnb.leaf_backward(kind.put(grad_y), *on_device, trace, sparse=True)
        assert_same_rows(kind, sparse, grads, truth.leaves)


def assert_same_rows(kind, sparse, dense, ends):
    """Assert that row gradients are the rows of dense ones that samples visit."""
    np.testing.assert_array_equal(kind.get(sparse.x), kind.get(dense.x))
    n_trees, n_leaves, width, size = dense.leaves.shape
    visited = np.unique(ends + n_leaves * np.arange(n_trees))
    neurons = (visited[:, None] * width + np.arange(width)).ravel()
    pairs = [(sparse.leaves, kind.get(dense.leaves).reshape(-1, size), neurons)]
    for rows, whole in zip((sparse.bias or ())[1:], (dense.bias or ())[1:], strict=True):
        pairs += [(rows, kind.get(whole).reshape(n_trees * n_leaves, -1), visited)]
    for rows, whole, wanted in pairs:
        listed, n = kind.get(rows.rows), len(wanted)
        assert kind.get(rows.count).tolist() == [n]
        np.testing.assert_array_equal(listed[:n], wanted)
        assert (listed[n:] == -1).all() and len(listed) == len(rows.values)
        np.testing.assert_array_equal(kind.get(rows.values)[:n], whole[wanted])


def everything(kind, given, bias, grad_y):
    """Return all results of the hard and of the soft form."""
    y, trace = fffnb.leaf_forward(*given, bias=bias, return_trace=True)
    hard = listed(fffnb.leaf_backward(grad_y, *given, trace))
    z, path = fffnb.leaf_forward_soft(*given, bias=bias, return_trace=True)
    soft = listed(fffnb.leaf_backward_soft(grad_y, *given, path, bias=bias))
    return got(kind, (y, trace.scores, trace.leaves, *hard, z, *path[:3], *soft))


def test_inputs_stay_and_results_are_the_same_bits_every_time(kind, tiles, monkeypatch):
    """Also where the threads go in another order, which only the simulator can tell."""
    x, grad_y, *layer, bias = problem(6, 5, 2, 3, 2, 7, "float32")
    given, of_device, grad_of_y = put(kind, (x, *layer)), device_bias(kind, bias), kind.put(grad_y)
    expected = everything(kind, given, of_device, grad_of_y)
    if kinds.SIMULATED:
        monkeypatch.setattr("simulator.backwards", True)
    for found, same in zip(everything(kind, given, of_device, grad_of_y), expected, strict=True):
        np.testing.assert_array_equal(found, same)
    for array, was in zip((*given, *of_device), (x, *layer, *bias), strict=True):
        np.testing.assert_array_equal(kind.get(array), was)


@pytest.mark.filterwarnings("ignore:invalid value")  # of the simulator, which runs NumPy
def test_a_score_of_zero_goes_right_and_nan_left(kind):
    _, _, *layer, _ = problem(9, 7, 3, 2, 1, 0, "float32")
    x = np.zeros((7, 9), np.float32)
    x[2], x[5] = np.nan, -0.0
    y, trace = fffnb.leaf_forward(*put(kind, (x, *layer)), return_trace=True)
    assert kind.get(trace.leaves)[:, 0].tolist() == [7, 7, 0, 7, 7, 7, 7]
    y = kind.get(y)
    assert np.isnan(y[2]).all() and not y[[0, 1, 3, 4, 5, 6]].any()


@pytest.mark.parametrize("lead", [(), (2, 3), (2, 0)])
def test_any_leading_axes(lead, kind):
    x, grad_y, *layer, bias = problem(5, 4, 2, 3, 2, int(np.prod(lead)), "float32")
    bias = device_bias(kind, bias)

    def results(x, grad_y):
        given = put(kind, (x, *layer))
        y, trace = fffnb.leaf_forward(*given, bias=bias, return_trace=True)
        dense = fffnb.leaf_backward(kind.put(grad_y), *given, trace)
        sparse = fffnb.leaf_backward(kind.put(grad_y), *given, trace, sparse=True)
        assert_same_rows(kind, sparse, dense, kind.get(trace.leaves).reshape(-1, 2))
        grads = listed(dense)
        return [*got(kind, (y, trace.scores, trace.leaves, grads[0])), *got(kind, grads[2:])]

    ends = (4,), (2, 3), (2,), (5,)
    found, flat = results(x.reshape(*lead, 5), grad_y.reshape(*lead, 4)), results(x, grad_y)
    for array, wanted, end in zip(found, flat, ends, strict=False):
        assert array.shape == (*lead, *end)
        np.testing.assert_array_equal(array.ravel(), wanted.ravel())
    for array, wanted in zip(found[4:], flat[4:], strict=True):
        if wanted is not None:
            np.testing.assert_array_equal(array, wanted)
            assert array.any() == (0 not in lead)


X, Y = np.ones((5, 3), np.float32), np.ones((5, 2), np.float32)
ROUTERS, LEAVES, BIAS = fffnb.init_leaf(3, 2, depth=2, width=4)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda put: {"x": X}, TypeError, "x must be a .* got numpy.ndarray"),
        (lambda put: {"leaves": LEAVES}, TypeError, "leaves must be a .* got numpy.ndarray"),
        (lambda put: {"bias": BIAS}, TypeError, "bias.routers must be a .* got numpy.ndarray"),
        (lambda put: {"bias": put(Y)}, TypeError, "bias must be a LeafBias, got"),
        (lambda put: {"routers": put(ROUTERS, "float16")}, TypeError, "routers must be float32 or"),
        (lambda put: {"leaves": put(LEAVES, "float64")}, TypeError, "leaves must have the dtype"),
        (lambda put: {"routers": put(ROUTERS[0])}, ValueError, "routers must be 3-D"),
        (lambda put: {"leaves": put(LEAVES[:, :3])}, ValueError, r"leaves must have shape \(1, 4,"),
        (lambda put: {"x": put(Y)}, ValueError, "x must have 3 columns like routers, got 2"),
        (lambda put: {"out": put(X)}, ValueError, r"out must have shape \(5, 2\)"),
        (lambda put: {"activation": "swish"}, ValueError, "activation must be one of"),
    ],
)
def test_forward_refuses(change, error, words, kind):
    given = {"x": kind.put(X), "routers": kind.put(ROUTERS), "leaves": kind.put(LEAVES)}
    with pytest.raises(error, match=words):
        fffnb.leaf_forward(**{**given, **change(kind.put)})


def test_backward_refuses(kind):
    given = put(kind, (X, ROUTERS, LEAVES))
    y, trace = fffnb.leaf_forward(*given, return_trace=True)
    other = trace._replace(leaves_shape=(1, 4, 4, 6))
    for change, error, words in (
        ({"trace": None}, TypeError, "trace must be the LeafTrace of leaf_forward, got NoneType"),
        ({"trace": other}, ValueError, "trace must come from routers and leaves of shapes"),
        ({"trace": trace._replace(scores=y)}, ValueError, "trace.scores must have shape"),
        ({"grad_y": given[0]}, ValueError, r"grad_y must have shape \(5, 2\)"),
    ):
        names = "x", "routers", "leaves"
        arguments = {"grad_y": y, **dict(zip(names, given, strict=True)), "trace": trace, **change}
        with pytest.raises(error, match=words):
            fffnb.leaf_backward(**arguments)


# n_in, n_out, depth, width, n_trees, batch, activation, bias, temperature, leak, gate
SOFT = [
    (1, 1, 1, 1, 1, 1, "identity", True, 1.0, 0.0, "sigmoid"),
    (6, 9, 2, 3, 2, 9, "gelu", True, 0.5, 0.3, "smooth_step"),
    (12, 4, 2, 4, 1, 5, "relu", False, 2.0, 0.0, "sigmoid"),
]
SOFT_LARGE = [
    (784, 10, 4, 8, 1, 300, "relu", False, 1.0, 0.0, "sigmoid"),
    (63, 77, 5, 12, 3, 130, "silu", True, 0.5, 0.1, "smooth_step"),
]


@pytest.mark.parametrize("dtype", BOUND)
def test_the_soft_form_equals_the_reference(dtype, kind, tiles):
    for seed, (*sizes, activation, with_bias, temperature, leak, gate) in enumerate(
        SOFT_LARGE if tiles == "default" else SOFT
    ):
        x, grad_y, *layer, bias = problem(*sizes, dtype, bias=with_bias, seed=seed)
        more = np.random.default_rng(seed).standard_normal((len(x), *layer[0].shape[:2]))
        more = more.astype(dtype) if with_bias else None
        on_device, of_device = put(kind, (x, *layer)), device_bias(kind, bias)
        given = {"temperature": temperature, "gate": gate, "leak": leak, "rng": seed}
        given |= {"bias": of_device, "activation": activation, "return_trace": True}
        y, trace = fffnb.leaf_forward_soft(*on_device, **given)
        back = {"bias": of_device, "grad_scores": None if more is None else kind.put(more)}
        grads = fffnb.leaf_backward_soft(kind.put(grad_y), *on_device, trace, **back)
        leaks = None if trace.leaks is None else by_tree(kind.get(trace.leaks))
        options = reference.Options(bias, activation, gate, temperature, leaks)
        truth = reference.forward(x, *layer, options)
        weights = by_tree(kind.get(trace.weights))[:, :, layer[0].shape[1] :]
        arguments = grad_y, x, *layer, options, by_tree(more)
        pairs = reference.backward(*arguments), reference.backward(*arguments, absolute=True)
        triples = [*zip(got(kind, listed(grads)), *pairs, strict=True)]
        assert [found is None for found, *_ in triples] == [False] * 3 + [bias is None] * 3
        triples = [triple for triple in triples if triple[0] is not None]
        triples += [(kind.get(y), truth.y, truth.size), (weights, truth.weights, np.ones(()))]
        loss, slopes = got(kind, fffnb.hardening_loss(trace, reduction="sum"))
        entropy, rise = reference.hardening(truth.router_scores, gate, temperature)
        triples += [(loss, entropy, entropy), (by_tree(slopes), rise, 1 / temperature)]
        assert_near(triples, BOUND[dtype])


def test_soft_refuses_what_does_not_fit(kind, monkeypatch):
    given, grad_y = put(kind, (X, ROUTERS, LEAVES)), kind.put(Y)
    _, trace = fffnb.leaf_forward_soft(*given, return_trace=True)
    _, hard = fffnb.leaf_forward(*given, return_trace=True)
    wrong = trace._replace(scores=trace.router_scores)
    more = {"grad_scores": trace.weights}
    for path, change, error, words in (
        (hard, {}, TypeError, "be the LeafSoftTrace of leaf_forward_soft, got LeafTrace"),
        (wrong, {}, ValueError, "trace.scores must have shape"),
        (trace, {"bias": device_bias(kind, BIAS)}, ValueError, "bias must be that of the forward"),
        (trace, more, ValueError, "grad_scores must have shape"),
    ):
        with pytest.raises(error, match=words):
            fffnb.leaf_backward_soft(grad_y, *given, path, **change)
    monkeypatch.setattr("fffnb.cuda.launch.memory_of", lambda device: 959)
    with pytest.raises(MemoryError, match="would take 960 bytes, device 0 has 959"):
        fffnb.leaf_forward_soft(*given)
