"""The straight-through gradient on device arrays against its dense reference."""

import kinds
import numpy as np
import pytest
from test_device_soft import put
from test_straight import on_path, problem, rms

import fffnb
from fffnb.reference import soft as reference
from fffnb.reference import tree as hard_reference

if kinds.MISSING:
    pytest.skip(kinds.MISSING, allow_module_level=True)

pytestmark = pytest.mark.usefixtures("tiles")

BOUND = {"float32": 1e-6, "float64": 1e-13}

# n_in, n_out, depth, n_trees, batch, activation, bias, gate, temperature
SMALL = [
    (3, 5, 1, 2, 3, "identity", False, "sigmoid", 1.0),
    (6, 9, 4, 2, 5, "gelu", True, "smooth_step", 3.0),
]
LARGE = [(768, 257, 8, 1, 300, "silu", True, "sigmoid", 0.5), *SMALL]


@pytest.mark.parametrize("dtype", BOUND)
def test_equals_the_reference(dtype, kind, tiles):
    for seed, (*sizes, activation, with_bias, gate, temperature) in enumerate(
        LARGE if tiles == "default" else SMALL
    ):
        x, nodes, bias, grad_y = problem(*sizes, dtype, bias=with_bias, seed=seed)
        run = hard_reference.forward(x, nodes, bias)
        unclear = np.abs(run.scores) <= 16 * np.finfo(dtype).eps * run.size
        clear = ~unclear.any(axis=(0, 2))  # also side paths must be those of the reference
        assert clear.mean() > 0.9
        x, grad_y = x[clear], grad_y[clear]
        on_device = put(kind, (grad_y, x, nodes))
        of_device = None if bias is None else kind.put(bias)
        given = {"bias": of_device, "activation": activation, "return_trace": True}
        trace = fffnb.fff_forward(*on_device[1:], **given)[1]
        gating = {"temperature": temperature, "gate": gate}
        found = fffnb.straight_through(*on_device, trace, **gating, bias=of_device)
        options = reference.Options(bias, activation, gate, temperature)
        right = reference.straight_through(grad_y, x, nodes, options)
        size = reference.straight_through(grad_y, x, nodes, options, absolute=True)
        mask = hard_reference.forward(x, nodes, bias).mask
        assert isinstance(found, kind.type) and found.dtype == trace.scores.dtype
        found = kind.get(found)
        assert rms(found - on_path(right, mask)) <= BOUND[dtype] * rms(on_path(size, mask))


def test_what_does_not_fit_is_refused(kind):
    x, nodes, bias, grad_y = put(kind, problem(3, 2, 3, 1, 5, "float32"))
    _, trace = fffnb.fff_forward(x, nodes, bias=bias, return_trace=True)
    _, soft = fffnb.fff_forward_soft(x, nodes, bias=bias, return_trace=True)
    for change, error, words in (
        ({"trace": soft}, TypeError, "trace must be the Trace of fff_forward, got SoftTrace"),
        ({"bias": None}, ValueError, "bias must be given, as the forward pass of this trace had"),
        ({"gate": "step"}, ValueError, "gate must be one of"),
        ({"grad_y": x}, ValueError, r"grad_y must have shape \(5, 2\)"),
    ):
        given = {"grad_y": grad_y, "x": x, "nodes": nodes, "trace": trace, "bias": bias, **change}
        with pytest.raises(error, match=words):
            fffnb.straight_through(**given)
