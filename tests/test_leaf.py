"""The leaf form against its dense reference: hard inference, its gradients, soft training."""

import numpy as np
import pytest

import fffnb
from fffnb import nn
from fffnb.cpu import leaf_group, tree
from fffnb.ops.paths import GATES
from fffnb.reference import leaf as reference

BOUND = {"float32": 1e-6, "float64": 1e-13}
CASES = [  # n_in, n_out, depth, width, n_trees, batch, activation, bias, temperature, leak
    (1, 1, 1, 1, 1, 1, "identity", True, 1.0, 0.0),
    (3, 63, 2, 4, 3, 7, "silu", False, 0.5, 0.3),
    (100, 10, 4, 8, 1, 300, "relu", True, 2.0, 0.1),
    (257, 3, 6, 3, 2, 130, "gelu", True, 0.5, 0.0),
    (63, 100, 3, 9, 3, 131, "tanh", False, 1.0, 0.5),
    (9, 7, 5, 32, 1, 40, "relu2", True, 3.0, 0.05),
]


@pytest.fixture(autouse=True)
def one_form(monkeypatch):
    """Compile no parallel form where a test does not ask for it."""
    monkeypatch.setattr("fffnb.cpu.jit.forced", "serial")


def problem(n_in, n_out, depth, width, n_trees, batch, dtype, *, bias=True, seed=0):
    """Return x, grad_y, routers, leaves and biases (or None)."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((batch, n_in)).astype(dtype)
    grad_y = rng.standard_normal((batch, n_out)).astype(dtype)
    routers, leaves, biases = fffnb.init_leaf(
        n_in, n_out, depth, width, n_trees, rng=rng, dtype=dtype
    )
    return x, grad_y, routers, leaves, biases if bias else None


def rms(array):
    return np.sqrt(np.mean(np.square(array, dtype=np.float64)))


def assert_near(triples, bound):
    """Compare what was found with what is right, given the size of its terms."""
    for found, right, size in triples:
        assert found.shape == np.shape(right)
        assert rms(found - right) <= bound * rms(size)


def listed(grads):
    """Return the gradients that there are, in the order of the reference, None for the others."""
    biases = (None, None, None) if grads.bias is None else grads.bias
    return [grads.x, grads.routers, grads.leaves, *biases]


def triples_of(grads, arguments):
    """Return the gradients that there are beside those of the reference."""
    pairs = reference.backward(*arguments), reference.backward(*arguments, absolute=True)
    found = zip(listed(grads), *pairs, strict=True)
    return [triple for triple in found if triple[0] is not None]


@pytest.mark.parametrize("dtype", BOUND)
def test_equals_the_reference(dtype):
    for seed, (*sizes, activation, with_bias, _, _) in enumerate(CASES):
        x, grad_y, *layer, bias = problem(*sizes, dtype, bias=with_bias, seed=seed)
        options = reference.Options(bias, activation)
        clear = ~reference.forward(x, *layer, options).ambiguous(np.finfo(dtype).eps)
        assert clear.mean() > 0.98
        x, grad_y = x[clear], grad_y[clear]  # the others may go another way, which is no error
        truth = reference.forward(x, *layer, options)
        y, trace = fffnb.leaf_forward(
            x, *layer, bias=bias, activation=activation, return_trace=True
        )
        np.testing.assert_array_equal(trace.leaves, truth.leaves)
        grads = fffnb.leaf_backward(grad_y, x, *layer, trace)
        assert grads.routers is None and (grads.bias is None) == (bias is None)
        triples = triples_of(grads, (grad_y, x, *layer, options))
        assert_near([(y, truth.y, truth.size), *triples], BOUND[dtype])
        assert all(found.dtype == dtype for found, *_ in [[y], *triples])


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("batch", [0, 1, 7, 130])
def test_sparse_gradients_are_the_rows_of_the_dense_ones(batch, with_bias):
    x, grad_y, *layer, bias = problem(9, 7, 5, 6, 3, batch, "float32", bias=with_bias)
    _, trace = fffnb.leaf_forward(x, *layer, bias=bias, return_trace=True)
    dense = fffnb.leaf_backward(grad_y, x, *layer, trace)
    sparse = fffnb.leaf_backward(grad_y, x, *layer, trace, sparse=True)
    np.testing.assert_array_equal(sparse.x, dense.x)
    visited = np.unique(trace.leaves + 32 * np.arange(3))
    neurons = (6 * visited[:, None] + np.arange(6)).reshape(-1)
    pairs = [(sparse.leaves, dense.leaves, neurons)]
    if with_bias:
        pairs += [(sparse.bias[k], dense.bias[k], visited) for k in (1, 2)]
    for rows, whole, places in pairs:
        table = whole.reshape(-1, whole.shape[-1])
        np.testing.assert_array_equal(rows.rows, places)
        np.testing.assert_array_equal(rows.values, table[places])
        assert rows.count == len(places) and rows.bias is None
        assert not np.delete(table, places, axis=0).any()


def check_slopes(objective, arrays, gradients):
    """Compare gradients with finite differences of a function of the arrays."""
    step = 1e-6
    for array, gradient in zip(arrays, gradients, strict=True):
        for at in np.ndindex(array.shape):
            before = array[at]
            array[at] = before + step
            high = objective()
            array[at] = before - step
            low = objective()
            array[at] = before
            assert gradient[at] == pytest.approx((high - low) / (2 * step), rel=1e-5, abs=1e-7)


def test_gradients_equal_finite_differences():
    x, weights, *layer, bias = problem(4, 3, 2, 2, 2, 6, "float64", seed=2)
    options = {"bias": bias, "activation": "gelu", "return_trace": True}
    _, trace = fffnb.leaf_forward(x, *layer, **options)
    grads = fffnb.leaf_backward(weights, x, *layer, trace)

    def objective():
        y, again = fffnb.leaf_forward(x, *layer, **options)
        assert (again.leaves == trace.leaves).all()  # no step crosses a decision
        return float((y * weights).sum())

    arrays = x, layer[1], bias.hidden, bias.output
    check_slopes(objective, arrays, (grads.x, grads.leaves, *grads.bias[1:]))


def test_a_score_of_zero_goes_right_and_nan_left():
    _, _, *layer, _ = problem(9, 7, 5, 6, 1, 0, "float32")
    x = np.zeros((7, 9), np.float32)
    x[2], x[5] = np.nan, -0.0
    y, trace = fffnb.leaf_forward(x, *layer, return_trace=True)
    assert trace.leaves[:, 0].tolist() == [31, 31, 0, 31, 31, 31, 31]
    assert np.isnan(y[2]).all() and not y[[0, 1, 3, 4, 5, 6]].any()
    nodes = fffnb.pack_nodes(layer[0], np.ones((1, 31, 1), np.float32))
    path = fffnb.fff_forward(x, nodes, return_trace=True)[1]
    assert not path.leaves.any()  # in the tree, 0 goes left


def everything(x, grad_y, routers, leaves, bias):
    """Return all results of the hard ops as bytes."""
    layer = routers, leaves
    y, trace = fffnb.leaf_forward(x, *layer, bias=bias, activation="gelu", return_trace=True)
    dense = fffnb.leaf_backward(grad_y, x, *layer, trace)
    rows = fffnb.leaf_backward(grad_y, x, *layer, trace, sparse=True).leaves
    results = (y, trace.scores, trace.leaves, *listed(dense), rows.rows, rows.values)
    return [array.tobytes() for array in results if array is not None]


def test_forms_threads_and_chunks_give_the_same_bits(monkeypatch):
    numba = pytest.importorskip("numba")
    before = numba.get_num_threads()
    for sizes in ((64, 100, 4, 8, 1, 300), (9, 7, 6, 3, 2, 130), (257, 63, 1, 5, 3, 7)):
        arguments = problem(*sizes, "float32", seed=4)
        arguments[0][0, 0] = np.nan
        expected = everything(*arguments)
        for chunk in (1, 4, 12):
            with monkeypatch.context() as patch:
                patch.setattr(tree, "chunk_of", lambda batch, work, chunk=chunk: chunk)
                assert everything(*arguments) == expected
        with monkeypatch.context() as patch:
            patch.setattr("fffnb.cpu.jit.forced", "parallel")
            for threads in (1, min(2, before)):
                numba.set_num_threads(threads)
                parallel = everything(*arguments)
                numba.set_num_threads(before)
                assert parallel == expected


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


LAYOUTS = {
    "strided": lambda array: np.repeat(array, 2, axis=-1)[..., ::2],
    "transposed": np.asfortranarray,
    "byte-swapped": lambda array: array.astype(array.dtype.newbyteorder()),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_of_x_and_grad_y(layout):
    x, grad_y, *layer = problem(9, 7, 3, 6, 2, 30, "float32")
    change = LAYOUTS[layout]
    assert everything(change(x), change(grad_y), *layer) == everything(x, grad_y, *layer)


def test_read_only_inputs_are_taken_by_the_same_kernels_and_no_input_is_written():
    inputs = problem(9, 7, 3, 6, 2, 30, "float32")
    before = [array.copy() for array in (*inputs[:4], *inputs[4])]
    result = everything(*inputs)
    for array, was in zip((*inputs[:4], *inputs[4]), before, strict=True):
        np.testing.assert_array_equal(array, was)
    compiled = list(leaf_group.meet.serial.signatures)
    assert compiled
    bias = fffnb.LeafBias(*map(read_only, inputs[4]))
    assert everything(*map(read_only, inputs[:4]), bias) == result
    assert leaf_group.meet.serial.signatures == compiled


@pytest.mark.parametrize("lead", [(), (0,), (2, 3), (2, 0, 3)])
def test_any_leading_axes(lead):
    _, _, *layer, bias = problem(9, 7, 3, 6, 2, 0, "float32")
    x = np.random.default_rng(0).standard_normal((*lead, 9)).astype("float32")
    y, trace = fffnb.leaf_forward(x, *layer, bias=bias, return_trace=True)
    assert (y.shape, trace.scores.shape) == ((*lead, 7), (*lead, 2, 6))
    assert (trace.leaves.shape, trace.leaves.dtype) == ((*lead, 2), np.int32)
    grads = fffnb.leaf_backward(y, x, *layer, trace)
    rows = fffnb.leaf_forward(x.reshape(-1, 9), *layer, bias=bias)
    np.testing.assert_array_equal(y.reshape(-1, 7), rows)
    soft, trace = fffnb.leaf_forward_soft(x, *layer, bias=bias, leak=0.1, return_trace=True)
    assert (soft.shape, trace.scores.shape) == ((*lead, 7), (*lead, 2, 8, 6))
    assert (trace.router_scores.shape, trace.weights.shape) == ((*lead, 2, 7), (*lead, 2, 15))
    softly = fffnb.leaf_backward_soft(soft, x, *layer, trace, bias=bias)
    assert grads.x.shape == softly.x.shape == x.shape
    for gradient in (grads.leaves, *grads.bias[1:], softly.routers, softly.leaves, *softly.bias):
        assert np.isfinite(gradient).all() and gradient.any() == bool(x.size)


@pytest.mark.parametrize("contiguous", [True, False])
def test_out_receives_the_result(contiguous):
    x, _, *layer, bias = problem(9, 7, 3, 6, 2, 12, "float32")
    room = np.full((3, 4, 14), np.nan, np.float32)
    out = room[:, :, :7].copy() if contiguous else room[:, :, ::2]
    y = fffnb.leaf_forward(x.reshape(3, 4, 9), *layer, bias=bias, out=out)
    assert y is out
    np.testing.assert_array_equal(out.reshape(12, 7), fffnb.leaf_forward(x, *layer, bias=bias))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_stay_in_their_sample(value):
    x, grad_y, *layer, bias = problem(9, 7, 3, 6, 2, 7, "float32")
    others = np.arange(7) != 3
    passes = [
        (fffnb.leaf_forward, fffnb.leaf_backward, {}),
        (fffnb.leaf_forward_soft, fffnb.leaf_backward_soft, {"bias": bias}),
    ]
    for forward, backward, options in passes:
        x[3, 2] = 1
        clean = forward(x, *layer, bias=bias)
        x[3, 2] = value
        y, trace = forward(x, *layer, bias=bias, return_trace=True)
        np.testing.assert_array_equal(y[others], clean[others])
        assert not np.isfinite(y[3]).any()
        grads = backward(grad_y, x, *layer, trace, **options)
        assert np.isfinite(grads.x[others]).all()


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("dtype", BOUND)
def test_soft_training_equals_the_reference(dtype, gate):
    for seed, (*sizes, activation, with_bias, temperature, leak) in enumerate(CASES):
        x, grad_y, *layer, bias = problem(*sizes, dtype, bias=with_bias, seed=seed)
        how = {"temperature": temperature, "gate": gate, "leak": leak, "rng": seed}
        how |= {"bias": bias, "activation": activation}
        y, trace = fffnb.leaf_forward_soft(x, *layer, **how, return_trace=True)
        loss, slopes = fffnb.hardening_loss(trace, reduction="sum")
        grad_scores = np.random.default_rng(seed).standard_normal(slopes.shape).astype(dtype)
        grads = fffnb.leaf_backward_soft(
            grad_y, x, *layer, trace, bias=bias, grad_scores=grad_scores
        )
        scores = trace.router_scores.transpose(1, 0, 2)
        leaks = None if leak == 0 else trace.leaks.transpose(1, 0, 2)
        options = reference.Options(bias, activation, gate, temperature, leaks)
        truth = reference.forward(x, *layer, options)
        entropy, rise = reference.hardening(truth.router_scores, gate, temperature)
        leaf_weights = trace.weights[..., scores.shape[2] :]
        triples = [
            (y, truth.y, truth.size),
            (scores, truth.router_scores, truth.router_size),
            (leaf_weights.transpose(1, 0, 2), truth.weights, 1),
            (leaf_weights.sum(axis=2), np.ones(leaf_weights.shape[:2]), 1),
            (np.array(loss), entropy, entropy),
            (slopes.transpose(1, 0, 2), rise, (1 + truth.router_size / temperature) / temperature),
            *triples_of(grads, (grad_y, x, *layer, options, grad_scores.transpose(1, 0, 2))),
        ]
        assert_near(triples, BOUND[dtype])


def test_soft_gradients_equal_finite_differences():
    x, weights, *layer, bias = problem(3, 2, 2, 2, 2, 5, "float64", seed=2)
    options = {"temperature": 1.5, "leak": 0.3, "rng": 7, "bias": bias, "activation": "gelu"}

    def run():
        y, trace = fffnb.leaf_forward_soft(x, *layer, **options, return_trace=True)
        loss, grad_scores = fffnb.hardening_loss(trace)
        return float((y * weights).sum() + 0.7 * loss), trace, 0.7 * grad_scores

    _, trace, grad_scores = run()
    grads = fffnb.leaf_backward_soft(weights, x, *layer, trace, bias=bias, grad_scores=grad_scores)
    check_slopes(lambda: run()[0], (x, *layer, *bias), listed(grads))


@pytest.mark.parametrize("gate", GATES)
def test_the_cold_limit_is_the_hard_form(gate):
    x, grad_y, *layer, bias = problem(63, 57, 4, 6, 2, 130, "float32")
    clear = ~reference.forward(x, *layer, reference.Options(bias)).ambiguous(1e-7)
    assert clear.sum() > 120
    x, grad_y = x[clear], grad_y[clear]
    options = {"temperature": 1e-30, "gate": gate, "bias": bias, "return_trace": True}
    y, trace = fffnb.leaf_forward_soft(x, *layer, **options)
    right, path = fffnb.leaf_forward(x, *layer, bias=bias, return_trace=True)
    np.testing.assert_allclose(y, right, atol=1e-6)
    np.testing.assert_array_equal(trace.weights[..., 15:].argmax(axis=2), path.leaves)
    assert set(np.unique(trace.weights)) == {0, 1}
    assert fffnb.hardening_loss(trace)[0] == 0
    soft = listed(fffnb.leaf_backward_soft(grad_y, x, *layer, trace, bias=bias))
    hard = listed(fffnb.leaf_backward(grad_y, x, *layer, path))
    for found, wanted in zip(soft, hard, strict=True):
        if wanted is not None:
            np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert not soft[1].any() and not soft[3].any()  # a decision made for good has no slope


@pytest.mark.parametrize("dtype", BOUND)
def test_init_leaf_draws_within_bounds(dtype):
    routers, leaves, bias = fffnb.init_leaf(25, 20, depth=6, width=4, n_trees=2, dtype=dtype)
    assert (routers.shape, leaves.shape) == ((2, 63, 25), (2, 64, 4, 45))
    assert [each.shape for each in bias] == [(2, 63), (2, 64, 4), (2, 64, 20)]
    arrays = routers, leaves[..., :25], leaves[..., 25:], *bias
    for array, limit in zip(arrays, (1 / 5, 1 / 5, 1 / 2, 1 / 5, 1 / 5, 1 / 2), strict=True):
        assert array.dtype == dtype
        assert 0.95 * limit < array.max() <= limit and -limit <= array.min() < -0.95 * limit
    again = fffnb.init_leaf(25, 20, 6, 4, 2, rng=np.random.default_rng(0), dtype=dtype)
    np.testing.assert_array_equal(leaves, again[1])


def teacher(n):
    """Return samples and the class of each, the signs of their first three numbers."""
    x = np.random.default_rng(8).standard_normal((n, 12)).astype(np.float32)
    return x, (x[:, :3] > 0) @ np.array([4, 2, 1])


def test_soft_training_makes_hard_paths_good():
    x, labels = teacher(3000)
    layer = nn.LeafFFF(12, 8, depth=3, width=8, hardening=2.0)
    optimizer = nn.AdamW(layer.parameters, lr=2e-2)
    before = nn.accuracy(layer, x[2000:], labels[2000:])
    open_before = fffnb.hardening_loss(layer.forward(x)[1][1])[0]
    nn.fit(layer, x[:2000], labels[:2000], optimizer=optimizer, batch_size=50, epochs=15)
    hard = nn.accuracy(layer, x[2000:], labels[2000:])
    output, (_, trace) = layer.forward(x[2000:])
    soft = (output.argmax(axis=1) == labels[2000:]).mean()
    assert before < 0.3 and hard > 0.8 and soft - hard < 0.1, (before, hard, soft)
    assert fffnb.hardening_loss(trace)[0] < 0.25 < 0.6 < open_before


def test_a_layer_leaks_in_training_alone():
    x = teacher(100)[0]
    layer = nn.LeafFFF(12, 8, depth=3, width=4, leak=0.1)
    (one, (_, trace)), (two, _) = layer.forward(x), layer.forward(x)
    assert trace.leaks.any() and (one != two).any()
    np.testing.assert_array_equal(layer(x), layer(x))


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_survives_its_file(bias, tmp_path):
    pytest.importorskip("safetensors")
    layer = nn.LeafFFF(12, 8, 3, 4, n_trees=2, bias=bias, activation="gelu", dtype="float64")
    model = nn.Sequential(layer, nn.ReLU())
    nn.save_model(tmp_path / "model.safetensors", model)
    again = nn.load_model(tmp_path / "model.safetensors")
    x = np.random.default_rng(0).standard_normal((5, 12))
    assert again.config() == model.config()
    np.testing.assert_array_equal(again(x), model(x))
    doubled = {name: 2 * array for name, array in layer.parameters.items()}
    assert (layer.with_parameters(doubled)(x) != layer(x)).all()
