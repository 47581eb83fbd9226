"""What soft training refuses, and in which words."""

import numpy as np
import pytest

import fffnb

X = np.ones((5, 3), np.float32)
NODES = fffnb.init_nodes(3, 2, depth=4)
BIAS = np.zeros((1, 15), np.float32)
Y, TRACE = fffnb.fff_forward_soft(X, NODES, bias=BIAS, leak=0.1, rng=0, return_trace=True)
HARD = fffnb.fff_forward(X, NODES, return_trace=True)[1]

FORWARD = [
    ({"x": X.astype(float)}, TypeError, "x must have the dtype of nodes, float32, got float64"),
    ({"nodes": NODES[0]}, ValueError, r"nodes must be 3-D .* nodes\[None\] makes one tree of it"),
    ({"bias": BIAS[0]}, ValueError, r"bias must have shape \(1, 15\) .* got \(15,\)"),
    ({"n_out": 3}, ValueError, "x must have 2 columns for n_out = 3"),
    ({"activation": "swish"}, ValueError, "activation must be one of identity, .* got 'swish'"),
    ({"gate": "softmax"}, ValueError, "gate must be one of sigmoid, smooth_step, got 'softmax'"),
    ({"temperature": 0}, ValueError, "temperature must be a finite number above 0, got 0"),
    ({"temperature": -1.0}, ValueError, "temperature must be a finite number above 0, got -1.0"),
    ({"temperature": np.nan}, ValueError, "temperature must be a finite number above 0, got nan"),
    ({"temperature": "low"}, TypeError, "temperature must be a number, got str"),
    ({"leak": -0.1}, ValueError, "leak must be a probability from 0 to 0.5, got -0.1"),
    ({"leak": 0.6}, ValueError, "leak must be a probability from 0 to 0.5, got 0.6"),
    ({"leak": np.nan}, ValueError, "leak must be a probability from 0 to 0.5, got nan"),
    ({"leak": True}, TypeError, "leak must be a number, got bool"),
]


@pytest.mark.parametrize(("change", "error", "words"), FORWARD)
def test_forward_refuses(change, error, words):
    with pytest.raises(error, match=words):
        fffnb.fff_forward_soft(**{"x": X, "nodes": NODES, "bias": BIAS, **change})


def test_a_forest_whose_weights_fit_no_memory_is_refused_before_they_are_made():
    nodes = fffnb.init_nodes(1, 1, depth=20)
    x = np.broadcast_to(np.float32(1), (2**31, 1))
    words = r"scores and weights of shape \(2, 2147483648, 1, 1048575\) .* 18,014,381,329,612,800 b"
    with pytest.raises(MemoryError, match=words):
        fffnb.fff_forward_soft(x, nodes)


BACKWARD = [
    ({"grad_y": Y[:4]}, ValueError, r"grad_y must have shape \(5, 2\) .* got \(4, 2\)"),
    ({"x": X[:4]}, ValueError, r"grad_y must have shape \(4, 2\)"),
    ({"trace": None}, TypeError, "trace must be the SoftTrace of fff_forward_soft, got NoneType"),
    ({"trace": HARD}, TypeError, "trace must be the SoftTrace of fff_forward_soft, got Trace"),
    ({"trace": TRACE._replace(n_in=4)}, ValueError, "trace must come from nodes .* and n_in = 3"),
    ({"trace": TRACE._replace(gate="step")}, ValueError, "gate must be one of"),
    ({"trace": TRACE._replace(temperature=0)}, ValueError, "temperature must be a finite number"),
    ({"trace": TRACE._replace(weights=TRACE.weights[:4])}, ValueError, "trace.weights must have"),
    ({"trace": TRACE._replace(leaks=TRACE.weights)}, TypeError, "trace.leaks must be bool, got"),
    ({"grad_scores": BIAS}, ValueError, r"grad_scores must have shape \(5, 1, 15\) .* got \(1, 15"),
    ({"grad_scores": TRACE.scores.astype(float)}, TypeError, "grad_scores must be float32, got"),
]


@pytest.mark.parametrize(("change", "error", "words"), BACKWARD)
def test_backward_refuses(change, error, words):
    arguments = {"grad_y": Y, "x": X, "nodes": NODES, "trace": TRACE}
    with pytest.raises(error, match=words):
        fffnb.fff_backward_soft(**{**arguments, **change})


def test_a_soft_trace_is_none_of_the_hard_tree():
    with pytest.raises(TypeError, match="trace must be the Trace of fff_forward, got SoftTrace"):
        fffnb.fff_backward(Y, X, NODES, TRACE)


EMPTY = fffnb.fff_forward_soft(X[:0], NODES, return_trace=True)[1]
HARDENING = [
    ({"trace": HARD}, TypeError, "trace must be the SoftTrace of fff_forward_soft.* got Trace"),
    ({"trace": EMPTY}, ValueError, r"trace must hold at least one sample, got scores of \(0, 1"),
    ({"reduction": "max"}, ValueError, "reduction must be 'mean' or 'sum', got 'max'"),
    ({"trace": TRACE._replace(scores=TRACE.scores[0])}, ValueError, "trace.weights must have"),
]


@pytest.mark.parametrize(("change", "error", "words"), HARDENING)
def test_hardening_loss_refuses(change, error, words):
    with pytest.raises(error, match=words):
        fffnb.hardening_loss(**{"trace": TRACE, **change})


def test_arrays_of_a_device_are_refused():
    torch = pytest.importorskip("torch", reason="asks for a tensor of PyTorch")
    with pytest.raises(TypeError, match="nodes is a tensor on the CPU"):
        fffnb.fff_forward_soft(X, torch.from_numpy(NODES))
