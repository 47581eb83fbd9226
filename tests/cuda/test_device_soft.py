"""Soft training of the tree on device arrays against its dense reference."""

import kinds
import numpy as np
import pytest
from test_soft import by_tree, level_sums, problem, rms

import fffnb
from fffnb.reference import soft as reference

if kinds.MISSING:
    pytest.skip(kinds.MISSING, allow_module_level=True)

pytestmark = pytest.mark.usefixtures("tiles")

BOUND = {"float32": 1e-6, "float64": 1e-13}

# n_in, n_out, depth, n_trees, batch, activation, bias, temperature, leak, gate
SMALL = [
    (1, 1, 1, 1, 1, "identity", True, 1.0, 0.0, "sigmoid"),
    (6, 9, 3, 2, 11, "gelu", True, 0.5, 0.3, "smooth_step"),
    (12, 4, 4, 1, 5, "relu", False, 2.0, 0.0, "sigmoid"),
]
LARGE = [
    (784, 500, 8, 1, 128, "relu", False, 1.0, 0.0, "sigmoid"),
    (63, 77, 6, 3, 1030, "silu", True, 0.5, 0.1, "smooth_step"),
    (256, 257, 11, 1, 70, "tanh", True, 0.5, 0.0, "sigmoid"),
]


def cases(tiles):
    return LARGE if tiles == "default" else SMALL


def put(kind, arrays):
    return [None if array is None else kind.put(array) for array in arrays]


def got(kind, arrays):
    return [None if array is None else kind.get(array) for array in arrays]


@pytest.mark.parametrize("dtype", BOUND)
def test_equals_the_reference(dtype, kind, tiles):
    for seed, (*sizes, activation, with_bias, temperature, leak, gate) in enumerate(cases(tiles)):
        host = problem(*sizes, dtype, bias=with_bias, seed=seed)
        x, nodes, bias, grad_y, grad_scores = put(kind, host)
        options = {"temperature": temperature, "gate": gate, "leak": leak, "rng": seed}
        options |= {"bias": bias, "activation": activation}
        y, trace = fffnb.fff_forward_soft(x, nodes, **options, return_trace=True)
        more = {"grad_scores": grad_scores} if with_bias else {}
        grads = fffnb.fff_backward_soft(grad_y, x, nodes, trace, **more)
        loss, slopes = fffnb.hardening_loss(trace, reduction="sum")
        assert isinstance(y, kind.type) and (trace.leaks is None) == (leak == 0)
        assert (grads.bias is None) == (bias is None)
        leaks = None if trace.leaks is None else kind.get(trace.leaks)
        same = reference.Options(host[2], activation, gate, temperature, by_tree(leaks))
        truth = reference.forward(*host[:2], same)
        back = host[3], *host[:2], same, by_tree(host[4]) if with_bias else None
        weights, one = kind.get(trace.weights), np.ones(())
        entropy, rise = reference.hardening(truth.scores, gate, temperature)
        pairs = reference.backward(*back), reference.backward(*back, absolute=True)
        triples = [
            (kind.get(y), truth.y, truth.size),
            (by_tree(weights), truth.weights, one),
            (level_sums(weights), one, one),
            (kind.get(loss), entropy, entropy),
            (by_tree(kind.get(slopes)), rise, 1 / temperature),
            *zip(got(kind, grads), *pairs, strict=True),
        ]
        for found, right, size in triples:
            if found is not None:
                assert found.dtype == dtype
                assert rms(found - right) <= BOUND[dtype] * rms(size), (seed, size)


def test_the_cold_limit_is_the_hard_tree_with_the_same_bits_every_time(kind, monkeypatch):
    x, nodes, bias, grad_y, _ = put(kind, problem(12, 7, 3, 2, 5, "float32"))
    options = {"bias": bias, "activation": "gelu", "return_trace": True}
    y, trace = fffnb.fff_forward_soft(x, nodes, temperature=1e-60, **options)
    right, path = fffnb.fff_forward(x, nodes, **options)
    np.testing.assert_allclose(kind.get(y), kind.get(right), atol=1e-5)
    assert set(np.unique(kind.get(trace.weights))) == {0, 1}
    grads = fffnb.fff_backward_soft(grad_y, x, nodes, trace)
    hard = fffnb.fff_backward(grad_y, x, nodes, path)
    if kinds.SIMULATED:  # which can let the threads go in another order
        monkeypatch.setattr("simulator.backwards", True)
    again = fffnb.fff_backward_soft(grad_y, x, nodes, trace)
    for found, wanted, same in zip(grads, hard, again, strict=True):
        np.testing.assert_allclose(kind.get(found), kind.get(wanted), atol=1e-4)
        np.testing.assert_array_equal(kind.get(found), kind.get(same))


def test_leaks_come_as_often_as_asked_and_from_their_seed(kind):
    x, nodes = put(kind, problem(1, 1, 5, 1, 20, "float32")[:2])

    def leaks(seed):
        options = {"leak": 0.2, "rng": seed, "return_trace": True}
        return kind.get(fffnb.fff_forward_soft(x, nodes, **options)[1].leaks)

    first = leaks(0)
    assert abs(first.mean() - 0.2) < 0.06  # of 620, with a deviation of 0.016
    assert (np.abs(first.mean(axis=(0, 1)) - 0.2) < 0.4).all()
    np.testing.assert_array_equal(leaks(0), first)
    assert (leaks(1) != first).any()


@pytest.mark.parametrize("lead", [(), (2, 3), (2, 0)])
def test_any_leading_axes(lead, kind):
    x, nodes, bias, grad_y, _ = problem(5, 4, 3, 2, int(np.prod(lead)), "float32")
    nodes, bias = put(kind, (nodes, bias))

    def results(x, grad_y):
        x, grad_y = put(kind, (x, grad_y))
        y, trace = fffnb.fff_forward_soft(x, nodes, bias=bias, return_trace=True)
        grads = fffnb.fff_backward_soft(grad_y, x, nodes, trace)
        return got(kind, (y, trace.scores, trace.weights, *grads))

    ends = (4,), (2, 7), (2, 7), (5,)
    found, flat = results(x.reshape(*lead, 5), grad_y.reshape(*lead, 4)), results(x, grad_y)
    for array, wanted, end in zip(found, flat, ends, strict=False):
        assert array.shape == (*lead, *end)
        np.testing.assert_array_equal(array.ravel(), wanted.ravel())
    for array, wanted in zip(found[4:], flat[4:], strict=True):
        np.testing.assert_array_equal(array, wanted)
        assert array.any() == (0 not in lead)


X, NODES = np.ones((5, 3), np.float32), fffnb.init_nodes(3, 2, depth=3)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda put: {"x": X}, TypeError, "x must be a .* got numpy.ndarray"),
        (
            lambda put: {"x": put(X, "float16"), "nodes": put(NODES, "float16")},
            TypeError,
            "nodes must be float32 or float64",
        ),
        (lambda put: {"temperature": 0}, ValueError, "temperature must be a finite number above 0"),
        (lambda put: {"leak": 0.6}, ValueError, "leak must be a probability"),
        (lambda put: {"gate": "hard"}, ValueError, "gate must be one of"),
        (lambda put: {"n_out": 3}, ValueError, "x must have 2 columns"),
    ],
)
def test_forward_refuses(change, error, words, kind):
    given = {"x": kind.put(X), "nodes": kind.put(NODES), **change(kind.put)}
    with pytest.raises(error, match=words):
        fffnb.fff_forward_soft(**given)


def test_backward_and_a_device_without_room_refuse(kind, monkeypatch):
    x, nodes = put(kind, (X, NODES))
    y, trace = fffnb.fff_forward_soft(x, nodes, return_trace=True)
    _, host_trace = fffnb.fff_forward_soft(X, NODES, return_trace=True)
    for wrong, error, words in (
        (None, TypeError, "trace must be the SoftTrace of fff_forward_soft, got NoneType"),
        (host_trace, TypeError, "trace.scores must be a .* got numpy.ndarray"),
        (trace._replace(weights=trace.weights[:4]), ValueError, "trace.weights must have shape"),
        (trace._replace(gate="soft"), ValueError, "gate must be one of"),
    ):
        with pytest.raises(error, match=words):
            fffnb.fff_backward_soft(y, x, nodes, wrong)
    with pytest.raises(TypeError, match="grad_scores must be float32"):
        more = kind.put(np.zeros((5, 1, 7)))
        fffnb.fff_backward_soft(y, x, nodes, trace, grad_scores=more)
    monkeypatch.setattr("fffnb.cuda.launch.memory_of", lambda device: 279)
    with pytest.raises(MemoryError, match="would take 280 bytes, device 0 has 279"):
        fffnb.fff_forward_soft(x, nodes)
