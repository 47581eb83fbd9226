"""The FFF layer on device arrays: what `ops.tree` and `ops.update` do for GPUs."""

from __future__ import annotations

import math
from typing import Any

from .. import cuda
from .device import BYTES, Kind, view
from .rules import RowGradient, UpdateRule
from .running import Running
from .trace import Gradients, Trace, activation_code, check_origin
from .views import (
    Plan,
    backward_plan,
    check_bias,
    check_device_rule,
    check_updatable,
    forward_plan,
    offset_of,
    vector_length,
)


def forward(
    kind: Kind,
    x: Any,
    nodes: Any,
    bias: Any,
    activation: str,
    n_out: int | None,
    out: Any,
    return_trace: bool,
) -> Any:
    """Do what `fff_forward` says."""
    if type(activation) is not str:
        activation_code(activation)
    facts = kind.facts
    of_bias = None if bias is None else facts(bias)
    of_out = None if out is None else facts(out)
    plan = forward_plan(kind, facts(x), facts(nodes), of_bias, of_out, activation, n_out)
    table, batch = plan.table, plan.batch
    x_at, nodes_at = kind.address(x), kind.address(nodes)
    bias_at = nodes_at if bias is None else kind.address(bias)
    if out is None:
        out = kind.empty((*plan.lead, plan.n_out), table.dtype, nodes)
        out_at = kind.address(out)
    else:
        out_at = kind.address(out)
        plan.check_apart(out_at, x_at, nodes_at, bias_at)
    n_trees, real = table.shape[0], plan.real
    if return_trace:
        scores = kind.empty((*plan.lead, n_trees, table.depth), real, nodes)
        leaves = kind.empty((*plan.lead, n_trees), "int32", nodes)
    if batch > 0:
        layer = plan.layer(x_at, nodes_at, out_at)
        run, needs_trace = cuda.tree.forward(
            layer, batch, n_trees, table.device, traces=return_trace
        )
        with Running(kind, nodes, table.device) as call:
            found = out_at, out_at
            if return_trace:
                found = kind.address(scores), kind.address(leaves)
            elif needs_trace:
                n_visits = batch * n_trees
                found = call.take(n_visits * table.depth, real), call.take(n_visits, "int32")
            run(call, x_at, nodes_at, bias_at, *found, out_at)
    if not return_trace:
        return out
    return out, Trace(scores, leaves, activation, bias is not None, table.shape, plan.n_in)


def backward(kind: Kind, grad_y: Any, x: Any, nodes: Any, trace: Trace, sparse: bool) -> Gradients:
    """Do what `fff_backward` says."""
    plan = _planned(kind, grad_y, x, nodes, trace)
    table, batch = plan.table, plan.batch
    (n_trees, n_nodes, width), real = table.shape, plan.real
    lead: tuple[int, ...] = (n_trees, n_nodes)
    if sparse:
        lead = (cuda.steps.n_places(table.depth, batch, n_trees),)
        rows, count = kind.empty(lead, "int64", nodes), kind.empty((1,), "int64", nodes)
    values = kind.empty((*lead, width), table.dtype, nodes)
    bias = kind.empty(lead, real, nodes) if trace.has_bias else None
    grad_x = kind.empty((*plan.lead, plan.n_in), table.dtype, nodes)
    with Running(kind, nodes, table.device) as call:
        target = kind.address(values)
        biases = target if bias is None else kind.address(bias)
        if sparse:
            cuda.launch.zero(call.stream, kind.address(count), BYTES["int64"])
        else:
            cuda.launch.zero(call.stream, target, table.n_bytes)
            if bias is not None:
                cuda.launch.zero(call.stream, biases, table.n_rows * BYTES[real])
        if batch > 0:
            layer, visits = _visits(call, kind, plan, grad_y, x, nodes, trace, grad_x)
            slots = visits.keys
            if sparse:
                listed = cuda.steps.list_visits(table.depth, batch, n_trees, table.device)
                slots = listed(call, visits.keys, kind.address(rows), kind.address(count))
            rule = cuda.steps.store(visits.keys)
            step = cuda.steps.step_visited(layer, batch, n_trees, table.device, rule.kind, sparse)
            step(call, visits, target, biases, rule, slots)
    if not sparse:
        return Gradients(grad_x, values, bias)
    of_bias = None if bias is None else RowGradient(rows, bias, None, count)
    return Gradients(grad_x, RowGradient(rows, values, bias, count), of_bias)


def backward_update(
    kind: Kind,
    grad_y: Any,
    x: Any,
    nodes: Any,
    trace: Trace,
    rule: UpdateRule,
    bias: Any,
    bias_rule: UpdateRule | None,
) -> Any:
    """Do what `fff_backward_update` says."""
    plan = _planned(kind, grad_y, x, nodes, trace)
    table, biases = plan.table, None
    check_updatable("nodes", table.dtype)
    nodes_rule = check_device_rule(rule, "rule", nodes, table.shape, kind)
    if bias is not None and bias_rule is not None:
        if not trace.has_bias:
            raise ValueError("bias must be None, as the forward pass of this trace had no bias")
        biases = check_bias(bias, kind, table)
        biases_rule = check_device_rule(bias_rule, "bias_rule", bias, (*table.shape[:2], 1), kind)
    grad_x = kind.empty((*plan.lead, plan.n_in), table.dtype, nodes)
    if plan.batch == 0:
        return grad_x
    with Running(kind, nodes, table.device) as call:
        state = nodes_rule.first, nodes_rule.second
        layer, visits = _visits(call, kind, plan, grad_y, x, nodes, trace, grad_x, *state)
        place = plan.batch, table.shape[0], table.device
        gradient = visits.keys
        if biases is None:
            layer = layer._replace(has_bias=False)
        else:
            gradient = call.take(table.n_rows, table.dtype)
        step = cuda.steps.step_visited(layer, *place, nodes_rule.kind, False)
        step(call, visits, kind.address(nodes), gradient, nodes_rule, visits.keys)
        if biases is not None:
            step = cuda.steps.step_bias(layer, *place, biases_rule.kind)
            step(call, visits.keys, biases, gradient, biases_rule)
    return grad_x


def update_rows(kind: Kind, parameter: Any, gradient: RowGradient, rule: UpdateRule) -> None:
    """Do what `fffnb.update_rows` says."""
    facts = kind.facts
    table, device = view("parameter", facts(parameter), kind), kind.device(parameter)
    check_updatable("parameter", table.dtype)
    rows = view("gradient.rows", facts(gradient.rows), kind, device)
    values = view("gradient.values", facts(gradient.values), kind, device)
    if rows.dtype != "int64" or values.dtype != table.dtype:
        raise TypeError(
            f"gradient must hold int64 rows and {table.dtype} values, "
            f"got {rows.dtype} and {values.dtype}"
        )
    if len(values.shape) not in (1, 2) or rows.shape != values.shape[:1]:
        raise ValueError(
            "gradient must hold rows and as many values, "
            f"got rows {rows.shape}, values {values.shape}"
        )
    width = 1 if len(values.shape) == 1 else values.shape[1]
    if len(values.shape) == 2 and table.shape[-1:] != (width,):
        raise ValueError(
            f"gradient.values must have rows of {table.shape[-1:]} like parameter, "
            f"got {values.shape}"
        )
    n_rows = math.prod(table.shape) // width
    own = check_device_rule(rule, "rule", parameter, (n_rows, width), kind)
    if rows.shape[0] > 0:
        arrays = [kind.address(part) for part in (parameter, gradient.rows, gradient.values)]
        offset = offset_of(arrays[0], arrays[2], own.first, own.second)
        length = vector_length(table.dtype, (width,), offset)
        step = cuda.steps.step_rows(
            table.dtype, length, rows.shape[0], width, device, own.kind, True
        )
        with Running(kind, parameter, device) as call:
            step(call, *arrays, own)


def _planned(kind: Kind, grad_y: Any, x: Any, nodes: Any, trace: Trace) -> Plan:
    """Return the plan of a backward pass."""
    if not isinstance(trace, Trace):
        raise TypeError(f"trace must be the Trace of fff_forward, got {type(trace).__name__}")
    facts = [kind.facts(part) for part in (grad_y, x, nodes, trace.scores, trace.leaves)]
    activation_code(trace.activation)
    plan = backward_plan(kind, *facts, trace.activation, trace.has_bias)
    check_origin(trace, plan.table.shape, plan.n_in)
    return plan


def _visits(
    call: Any,
    kind: Kind,
    plan: Plan,
    grad_y: Any,
    x: Any,
    nodes: Any,
    trace: Trace,
    grad_x: Any,
    *state: Any,
) -> tuple[Any, Any]:
    """Write grad_x, and return the layer and the visits of its nodes.

    The layer's kernels also move what lies at the addresses of a rule's state.
    """
    arrays = grad_y, x, nodes, trace.scores, trace.leaves, grad_x
    addresses = [kind.address(array) for array in arrays]
    layer = plan.layer(*addresses[:3], addresses[5], *state)
    table = plan.table
    run = cuda.tree.backward(layer, plan.batch, table.shape[0], table.device)
    return layer, run(call, *addresses)
