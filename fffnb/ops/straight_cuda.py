"""The straight-through gradient on device arrays: what `ops.straight` does for GPUs."""

from __future__ import annotations

from typing import Any

from .. import cuda
from .device import Kind
from .paths import check_temperature, gate_code
from .running import Running
from .trace import Trace, activation_code, check_had_bias, check_origin
from .views import backward_plan, check_bias, check_wide


def straight_through(
    kind: Kind,
    grad_y: Any,
    x: Any,
    nodes: Any,
    trace: Trace,
    temperature: float,
    gate: str,
    bias: Any,
) -> Any:
    """Do what `fffnb.straight_through` says."""
    if not isinstance(trace, Trace):
        raise TypeError(f"trace must be the Trace of fff_forward, got {type(trace).__name__}")
    check_had_bias(trace, bias)
    temperature, code = check_temperature(temperature), gate_code(gate)
    facts = [kind.facts(part) for part in (grad_y, x, nodes, trace.scores, trace.leaves)]
    activation_code(trace.activation)
    plan = backward_plan(kind, *facts, trace.activation, trace.has_bias)
    table, at = plan.table, kind.address
    check_origin(trace, table.shape, plan.n_in)
    check_wide("nodes", table.dtype)
    if bias is not None:
        check_bias(kind.facts(bias), kind, table)
    grad_scores = kind.empty((*plan.lead, table.shape[0], table.depth), table.dtype, nodes)
    if plan.batch > 0:
        inputs = [at(array) for array in (grad_y, x, nodes)]
        biases = inputs[2] if bias is None else at(bias)
        paths = at(trace.scores), at(trace.leaves), at(grad_scores)
        layer, place = plan.layer(*inputs), (plan.batch, table.shape[0], table.device)
        run = cuda.straight.through(layer, code, *place)
        with Running(kind, nodes, table.device) as call:
            run(call, *inputs, biases, *paths, temperature)
    return grad_scores
