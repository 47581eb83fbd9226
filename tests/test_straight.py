"""The straight-through gradient against its dense reference."""

import numpy as np
import pytest

import fffnb
from fffnb import nn
from fffnb.ops.paths import GATES
from fffnb.reference import soft as reference
from fffnb.reference import tree as hard_reference

BOUND = {"float32": 1e-6, "float64": 1e-13}


def problem(n_in, n_out, depth, n_trees, batch, dtype, *, bias=True, seed=0):
    """Return x, nodes, bias (or None) and grad_y."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((batch, n_in)).astype(dtype)
    nodes = fffnb.init_nodes(n_in, n_out, depth, n_trees, rng=rng, dtype=dtype)
    biases = (0.1 * rng.standard_normal(nodes.shape[:2])).astype(dtype)
    grad_y = rng.standard_normal((batch, n_out)).astype(dtype)
    return x, nodes, biases if bias else None, grad_y


def rms(array):
    return np.sqrt(np.mean(np.square(array, dtype=np.float64)))


def on_path(array, mask):
    """Return what (n_trees, batch, n_nodes) holds on the paths, level by level."""
    n_trees, batch, _ = array.shape
    return array[mask].reshape(n_trees, batch, -1).transpose(1, 0, 2)


@pytest.mark.parametrize(("dtype", "form"), [("float32", "parallel"), ("float64", "serial")])
def test_equals_the_reference(dtype, form, monkeypatch):
    monkeypatch.setattr("fffnb.cpu.jit.forced", form)
    for seed, (*sizes, activation, with_bias, gate, temperature) in enumerate(
        [
            (3, 5, 1, 2, 7, "identity", False, "sigmoid", 1.0),
            (63, 57, 6, 3, 130, "gelu", True, "sigmoid", 0.5),
            (257, 1, 5, 1, 33, "tanh", False, "smooth_step", 2.0),
            (5, 100, 4, 2, 2, "relu2", True, "smooth_step", 9.0),
        ]
    ):
        x, nodes, bias, grad_y = problem(*sizes, dtype, bias=with_bias, seed=seed)
        run = hard_reference.forward(x, nodes, bias)
        unclear = np.abs(run.scores) <= 16 * np.finfo(dtype).eps * run.size
        clear = ~unclear.any(axis=(0, 2))  # also side paths must be those of the reference
        assert clear.mean() > 0.9
        x, grad_y = x[clear], grad_y[clear]
        trace = fffnb.fff_forward(x, nodes, bias=bias, activation=activation, return_trace=True)[1]
        found = fffnb.straight_through(
            grad_y, x, nodes, trace, temperature=temperature, gate=gate, bias=bias
        )
        options = reference.Options(bias, activation, gate, temperature)
        right = reference.straight_through(grad_y, x, nodes, options)
        size = reference.straight_through(grad_y, x, nodes, options, absolute=True)
        mask = hard_reference.forward(x, nodes, bias).mask
        assert found.dtype == dtype and found.shape == trace.scores.shape
        assert rms(found - on_path(right, mask)) <= BOUND[dtype] * rms(on_path(size, mask))
        assert not right[~mask].any() and found.any() == (sizes[2] > 1)


@pytest.mark.parametrize("gate", GATES)
def test_is_the_gradient_of_decisions_that_move_with_the_gate(gate):
    x, nodes, bias, grad_y = problem(4, 3, 3, 2, 5, "float64", seed=2)
    options = {"temperature": 1.5, "gate": gate}
    trace = fffnb.fff_forward(x, nodes, bias=bias, activation="gelu", return_trace=True)[1]
    found = fffnb.straight_through(grad_y, x, nodes, trace, bias=bias, **options)
    run = hard_reference.forward(x, nodes, bias)
    gains = grad_y @ nodes[:, :, 4:].transpose(0, 2, 1)
    worths = gains * hard_reference.ACTIVATIONS["gelu"][0](run.scores)
    share = reference.GATES[gate][0]

    def objective(scores):
        """Return what weights say that are products of b + c(scores) - c(scores as they are)."""
        moved = (run.scores > 0) + share(scores / 1.5) - share(run.scores / 1.5)
        total = 0.0
        for node in range(7):
            weight = np.ones(moved.shape[:2])
            for parent, right in reference.path_to(node):
                weight = weight * (moved[:, :, parent] if right else 1 - moved[:, :, parent])
            total += (weight * worths[:, :, node]).sum()
        return total

    step, slopes = 1e-6, np.zeros(run.scores.shape)
    for at in np.ndindex(run.scores.shape):
        move = np.zeros(run.scores.shape)
        move[at] = step
        slopes[at] = (objective(run.scores + move) - objective(run.scores - move)) / (2 * step)
    np.testing.assert_allclose(found, on_path(slopes, run.mask), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(slopes[~run.mask], 0, atol=1e-7)


def test_serial_and_parallel_give_the_same_bits(monkeypatch):
    x, nodes, bias, grad_y = problem(64, 33, 6, 2, 130, "float32")
    found = []
    for form in ("serial", "parallel"):
        monkeypatch.setattr("fffnb.cpu.jit.forced", form)
        trace = fffnb.fff_forward(x, nodes, bias=bias, return_trace=True)[1]
        found.append(fffnb.straight_through(grad_y, x, nodes, trace, bias=bias).tobytes())
    assert found[0] == found[1]


@pytest.mark.parametrize("lead", [(), (0,), (2, 3)])
def test_any_leading_axes_and_layouts(lead):
    _, nodes, bias, _ = problem(9, 7, 5, 2, 1, "float32")
    x = np.random.default_rng(0).standard_normal((*lead, 9)).astype("float32")
    y, trace = fffnb.fff_forward(x, nodes, bias=bias, return_trace=True)
    found = fffnb.straight_through(y, x, nodes, trace, bias=bias)
    assert found.shape == (*lead, 2, 5)
    swapped = [array.astype(array.dtype.newbyteorder()) for array in (y, x)]
    again = fffnb.straight_through(*swapped, nodes, trace, bias=bias)
    np.testing.assert_array_equal(found, again)


def test_a_layer_adds_the_gradient_of_the_op_and_survives_its_file(tmp_path):
    pytest.importorskip("safetensors", reason="files are safetensors")
    x, nodes, bias, grad_y = problem(4, 3, 4, 2, 9, "float64")
    made = nn.FFF(4, 3, depth=4, n_trees=2, bias=True, straight_through=0.5, dtype=float)
    made.score_loss = fffnb.balance_loss
    layer = made.with_parameters({"nodes": nodes, "bias": bias})
    trace = layer.forward(x)[1]
    grad_scores = fffnb.straight_through(grad_y, x, nodes, trace[1], temperature=0.5, bias=bias)
    assert grad_scores.any()
    grad_scores += fffnb.balance_loss(trace[1])[1]
    wanted = fffnb.fff_backward(grad_y, x, nodes, trace[1], grad_scores=grad_scores)
    grad_x, gradients = layer.backward(grad_y, trace)
    for found, right in zip((grad_x, *gradients.values()), wanted, strict=True):
        np.testing.assert_array_equal(found, right)
    nn.save_model(tmp_path / "m.safetensors", layer)
    assert nn.load_model(tmp_path / "m.safetensors").straight_through == 0.5
    with pytest.raises(ValueError, match="temperature must be a finite number above 0, got 0"):
        nn.FFF(4, 3, straight_through=0)


def test_a_layer_learns_where_samples_should_go():  # seeds 0 to 3: 0.91 to 0.97, else to 0.85
    x = np.random.default_rng(0).standard_normal((600, 8)).astype(np.float32)
    labels = ((x[:, 0] > 0) ^ (x[:, 1] > 0)).astype(int)
    accuracy = {}
    for temperature in (None, 1.0):
        layer = nn.FFF(8, 2, depth=4, bias=True, straight_through=temperature)
        optimizer = nn.AdamW(layer.parameters, lr=1e-2)
        nn.fit(layer, x, labels, optimizer=optimizer, epochs=20, batch_size=50)
        accuracy[temperature] = nn.accuracy(layer, x, labels)
    assert accuracy[1.0] > 0.88 > accuracy[None], accuracy


X, NODES, BIAS = np.ones((5, 3), "f4"), fffnb.init_nodes(3, 2, depth=4), np.zeros((1, 15), "f4")
Y, TRACE = fffnb.fff_forward(X, NODES, bias=BIAS, return_trace=True)
SOFT = fffnb.fff_forward_soft(X, NODES, bias=BIAS, return_trace=True)[1]
REFUSED = [
    ({"trace": SOFT}, TypeError, "trace must be the Trace of fff_forward, got SoftTrace"),
    ({"bias": None}, ValueError, "bias must be given, as the forward pass of this trace had one"),
    ({"trace": TRACE._replace(has_bias=False)}, ValueError, "bias must be None, as the forward"),
    ({"bias": BIAS[0]}, ValueError, r"bias must have shape \(1, 15\) .* got \(15,\)"),
    ({"temperature": 0.0}, ValueError, "temperature must be a finite number above 0, got 0.0"),
    ({"gate": "step"}, ValueError, "gate must be one of sigmoid, smooth_step, got 'step'"),
    ({"grad_y": Y[:4]}, ValueError, r"grad_y must have shape \(5, 2\) .* got \(4, 2\)"),
]


@pytest.mark.parametrize(("change", "error", "words"), REFUSED)
def test_refuses(change, error, words):
    arguments = {"grad_y": Y, "x": X, "nodes": NODES, "trace": TRACE, "bias": BIAS, **change}
    with pytest.raises(error, match=words):
        fffnb.straight_through(**arguments)
