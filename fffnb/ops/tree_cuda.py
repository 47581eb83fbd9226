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
    check_bias_step,
    check_device_rule,
    check_grad_scores,
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
    inputs = {"x": kind.address(x), "nodes": kind.address(nodes)}
    inputs["bias"] = inputs["nodes"] if bias is None else kind.address(bias)
    y, scores, leaves = run_forward(kind, plan, inputs, nodes, out, return_trace)
    if not return_trace:
        return y
    shape = plan.table.shape
    return y, Trace(scores, leaves, activation, bias is not None, shape, plan.n_in)


def run_forward(
    kind: Kind, plan: Plan, inputs: dict[str, Any], like: Any, out: Any, traces: bool
) -> tuple[Any, Any, Any]:
    """Run the forward pass of a plan on inputs at addresses; return y, scores and what was found.

    New arrays are on the device of `like`. If it does not trace, there are no scores, and nothing
    was found: leaves, or rows.
    """
    table, batch, real = plan.table, plan.batch, plan.real
    n_trees, scores, leaves = table.shape[0], None, None
    axes, dtype = plan.found
    if out is None:
        out = kind.empty((*plan.lead, plan.n_out), table.dtype, like)
        out_at = kind.address(out)
    else:
        out_at = kind.address(out)
        plan.check_apart(out_at, inputs)
    if traces:
        scores = kind.empty((*plan.lead, n_trees, table.depth), real, like)
        leaves = kind.empty((*plan.lead, *axes), dtype, like)
    if batch > 0:
        run, needs_trace = plan.forward(inputs, out_at, traces)
        with Running(kind, like, table.device) as call:
            found = out_at, out_at
            if traces:
                found = kind.address(scores), kind.address(leaves)
            elif needs_trace:
                n_scores, n_found = n_trees * table.depth, math.prod(axes)
                found = call.take(batch * n_scores, real), call.take(batch * n_found, dtype)
            run(call, *inputs.values(), *found, out_at)
    return out, scores, leaves


def backward(
    kind: Kind, grad_y: Any, x: Any, nodes: Any, trace: Trace, grad_scores: Any, sparse: bool
) -> Gradients:
    """Do what `fff_backward` says."""
    plan = _planned(kind, grad_y, x, nodes, trace, grad_scores)
    grad_x = kind.empty((*plan.lead, plan.n_in), plan.table.dtype, nodes)
    with Running(kind, nodes, plan.table.device) as call:
        layer, visits = _visits(call, kind, plan, grad_y, x, nodes, trace, grad_scores, grad_x)
        return Gradients(grad_x, *gather(call, plan, layer, visits, sparse))


def gather(call: Running, plan: Plan, layer: Any, visits: Any, sparse: bool) -> tuple[Any, Any]:
    """Return the gradients of the rows of a layer and, if it has one, of its bias.

    If they are `sparse`, these are row gradients. There are no visits where the batch is empty.
    """
    kind, like, device, met = call.kind, call.like, call.device, plan.meeting(layer)
    lead = (met.n_places,) if sparse else met.shape
    if sparse:
        rows, count = kind.empty(lead, "int64", like), kind.empty((1,), "int64", like)
        fill_with_zeros(call, count, BYTES["int64"])
    values = kind.empty((*lead, layer.width), layer.kind, like)
    bias = kind.empty(lead, plan.real, like) if layer.has_bias else None
    if not sparse:
        n_rows = math.prod(lead)
        fill_with_zeros(call, values, n_rows * layer.width * BYTES[layer.kind])
        if bias is not None:
            fill_with_zeros(call, bias, n_rows * BYTES[plan.real])
    if plan.batch > 0:
        slots = None
        if sparse:
            sizes = met.batch, met.n_trees, met.n_places
            listed = cuda.steps.list_visits(layer.rows, layer.depth, *sizes, device)
            slots = listed(call, visits.keys, kind.address(rows), kind.address(count))
        store_rows(call, plan, layer, visits, values, bias, slots)
    if not sparse:
        return values, bias
    of_bias = None if bias is None else RowGradient(rows, bias, None, count)
    return RowGradient(rows, values, bias, count), of_bias


def store_rows(
    call: Running, plan: Plan, layer: Any, visits: Any, values: Any, bias: Any, slots: Any = None
) -> None:
    """Write the gradients of visited rows and of their biases, by slots where these are given."""
    target = call.kind.address(values)
    biases = target if bias is None else call.kind.address(bias)
    rule, met = cuda.steps.store(visits.keys), plan.meeting(layer)
    place = met.batch, met.n_trees, call.device
    step = cuda.steps.step_visited(layer, *place, rule.kind, slots is not None, met.per)
    step(call, visits, target, biases, rule, visits.keys if slots is None else slots)


def step_rows(
    call: Running,
    plan: Plan,
    layer: Any,
    visits: Any,
    table: Any,
    rule: Any,
    bias: Any = None,
    bias_rule: Any = None,
) -> None:
    """Step the visited rows of a table and, if there is a bias, theirs; both are addresses."""
    place = plan.batch, plan.table.shape[0], call.device
    gradient = visits.keys
    if bias is None:
        layer = layer._replace(has_bias=False)
    else:
        gradient = call.take(plan.table.n_rows, plan.table.dtype)
    step = cuda.steps.step_visited(layer, *place, rule.kind, False)
    step(call, visits, table, gradient, rule, visits.keys)
    if bias is not None:
        step = cuda.steps.step_bias(layer, *place, bias_rule.kind)
        step(call, visits.keys, bias, gradient, bias_rule)


def fill_with_zeros(call: Running, array: Any, n_bytes: int) -> None:
    """Fill an array of so many bytes with zeros."""
    cuda.launch.zero(call.stream, call.kind.address(array), n_bytes)


def backward_update(
    kind: Kind,
    grad_y: Any,
    x: Any,
    nodes: Any,
    trace: Trace,
    rule: UpdateRule,
    bias: Any,
    bias_rule: UpdateRule | None,
    grad_scores: Any,
) -> Any:
    """Do what `fff_backward_update` says."""
    plan = _planned(kind, grad_y, x, nodes, trace, grad_scores)
    table = plan.table
    check_updatable("nodes", table.dtype)
    nodes_rule = check_device_rule(rule, "rule", nodes, table.shape, kind)
    of_bias = check_bias_step(kind, table, trace.has_bias, bias, bias_rule)
    grad_x = kind.empty((*plan.lead, plan.n_in), table.dtype, nodes)
    if plan.batch == 0:
        return grad_x
    with Running(kind, nodes, table.device) as call:
        state = nodes_rule.first, nodes_rule.second
        found = _visits(call, kind, plan, grad_y, x, nodes, trace, grad_scores, grad_x, *state)
        step_rows(call, plan, *found, kind.address(nodes), nodes_rule, *of_bias)
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


def _planned(kind: Kind, grad_y: Any, x: Any, nodes: Any, trace: Trace, grad_scores: Any) -> Plan:
    """Return the plan of a backward pass."""
    if not isinstance(trace, Trace):
        raise TypeError(f"trace must be the Trace of fff_forward, got {type(trace).__name__}")
    facts = [kind.facts(part) for part in (grad_y, x, nodes, trace.scores, trace.leaves)]
    activation_code(trace.activation)
    plan = backward_plan(kind, *facts, trace.activation, trace.has_bias)
    check_origin(trace, plan.table.shape, plan.n_in)
    check_grad_scores(kind, plan, grad_scores)
    return plan


def _visits(
    call: Any,
    kind: Kind,
    plan: Plan,
    grad_y: Any,
    x: Any,
    nodes: Any,
    trace: Trace,
    grad_scores: Any,
    grad_x: Any,
    *state: Any,
) -> tuple[Any, Any]:
    """Write grad_x, and return the layer and the visits of its nodes, None of an empty batch.

    The layer's kernels also move what lies at the addresses of a rule's state.
    """
    adds = grad_scores is not None
    added = grad_scores if adds else trace.scores
    arrays = grad_y, x, nodes, trace.scores, trace.leaves, grad_x, nodes, added
    addresses = [kind.address(array) for array in arrays]
    layer = plan.layer(*addresses[:3], addresses[5], *state)
    if plan.batch == 0:
        return layer, None
    place = plan.batch, plan.table.shape[0], plan.table.device
    run = cuda.tree.backward(layer, *place, adds=adds)
    return layer, run(call, *addresses)
