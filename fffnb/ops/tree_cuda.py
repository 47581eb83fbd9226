"""The FFF layer on device arrays: what `ops.tree` and `ops.update` do for GPUs."""

from __future__ import annotations

import math
from typing import Any

from .. import cuda
from ..activations import ACTIVATIONS
from .arrays import output_width
from .device import BYTES, Kind, View, view
from .rules import RowGradient, UpdateRule
from .running import running
from .trace import Gradients, Trace, activation_code
from .views import (
    Passed,
    Table,
    check_bias,
    check_device_rule,
    check_out,
    check_passed,
    check_samples,
    check_table,
    check_updatable,
    real_of,
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
    table = check_table(kind, nodes)
    samples = check_samples("x", x, table)
    lead, n_in = samples.shape[:-1], samples.shape[-1]
    width, code = output_width(n_in, table.shape, n_out), activation_code(activation)
    biases = None if bias is None else check_bias(bias, table)
    if out is None:
        out = kind.empty((*lead, width), table.dtype, nodes)
        target = view("out", out, kind)
    else:
        target = check_out(out, (*lead, width), table, x=samples, bias=biases)
    batch, n_trees, real = math.prod(lead), table.shape[0], real_of(table.dtype)
    if return_trace:
        scores = kind.empty((*lead, n_trees, table.depth), real, nodes)
        leaves = kind.empty((*lead, n_trees), "int32", nodes)
    if batch > 0:
        layer = _layer(table, n_in, code, biases is not None, samples, target)
        with running(kind, nodes, table.device) as call:
            if return_trace:
                found = kind.address(scores), kind.address(leaves)
            else:
                n_visits = batch * n_trees
                found = call.take(n_visits * table.depth, real), call.take(n_visits, "int32")
            fixed = samples.address, table.view.address, (biases or table.view).address
            cuda.tree.forward(call, layer, *fixed, *found, target.address, batch, n_trees)
    if not return_trace:
        return out
    return out, Trace(scores, leaves, activation, bias is not None, table.shape, n_in)


def backward(kind: Kind, grad_y: Any, x: Any, nodes: Any, trace: Trace, sparse: bool) -> Gradients:
    """Do what `fff_backward` says."""
    table = check_table(kind, nodes)
    passed = check_passed(grad_y, x, trace, table)
    (n_trees, n_nodes, width), batch = table.shape, passed.batch
    lead: tuple[int, ...] = (n_trees, n_nodes)
    if sparse:
        lead = (cuda.tree.n_places(table.depth, batch, n_trees),)
        rows, count = kind.empty(lead, "int64", nodes), kind.empty((1,), "int64", nodes)
    values = kind.empty((*lead, width), table.dtype, nodes)
    bias = kind.empty(lead, real_of(table.dtype), nodes) if trace.has_bias else None
    grad_x = kind.empty(passed.x.shape, table.dtype, nodes)
    with running(kind, nodes, table.device) as call:
        target, slots = kind.address(values), None
        biases = target if bias is None else kind.address(bias)
        if sparse:
            cuda.launch.zero(call.stream, kind.address(count), BYTES["int64"])
        else:
            cuda.launch.zero(call.stream, target, table.n_rows * width * BYTES[table.dtype])
            if bias is not None:
                n_bytes = table.n_rows * BYTES[real_of(table.dtype)]
                cuda.launch.zero(call.stream, biases, n_bytes)
        if batch > 0:
            layer, visits = _visits(call, table, passed, trace, kind.address(grad_x))
            if sparse:
                listed = kind.address(rows), kind.address(count)
                slots = cuda.tree.list_visits(call, layer, visits, *listed)
            cuda.tree.gather(call, layer, visits, target, biases, slots)
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
    table = check_table(kind, nodes)
    check_updatable("nodes", table.view)
    place = kind, table.device
    nodes_rule = check_device_rule(rule, "rule", table.view, table.n_rows, *place)
    biases = None
    if bias is not None and bias_rule is not None:
        if not isinstance(trace, Trace) or not trace.has_bias:
            raise ValueError("bias must be None, as the forward pass of this trace had no bias")
        biases = check_bias(bias, table)
        step = check_device_rule(bias_rule, "bias_rule", biases, table.n_rows, *place)
    passed = check_passed(grad_y, x, trace, table)
    grad_x = kind.empty(passed.x.shape, table.dtype, nodes)
    if passed.batch == 0:
        return grad_x
    with running(kind, nodes, table.device) as call:
        layer, visits = _visits(call, table, passed, trace, kind.address(grad_x))
        if biases is None:
            layer = layer._replace(has_bias=False)
            cuda.tree.update(call, layer, visits, table.view.address, biases, nodes_rule)
        else:
            gradient = call.take(table.n_rows, table.dtype)
            cuda.tree.update(call, layer, visits, table.view.address, gradient, nodes_rule)
            cuda.tree.update_bias(call, layer, visits, biases.address, gradient, step)
    return grad_x


def update_rows(kind: Kind, parameter: Any, gradient: RowGradient, rule: UpdateRule) -> None:
    """Do what `fffnb.update_rows` says."""
    table = view("parameter", parameter, kind)
    check_updatable("parameter", table)
    device = kind.device(parameter)
    rows = view("gradient.rows", gradient.rows, kind, device)
    values = view("gradient.values", gradient.values, kind, device)
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
    step = check_device_rule(rule, "rule", table, n_rows, kind, device)
    if rows.shape[0] > 0:
        length = vector_length(table.dtype, (width,), table, values)
        arrays = table.address, rows.address, values.address
        with running(kind, parameter, device) as call:
            cuda.tree.step_rows(call, table.dtype, length, *arrays, rows.shape[0], width, step)


def _visits(call: Any, table: Table, passed: Passed, trace: Trace, grad_x: Any) -> tuple[Any, Any]:
    """Write grad_x, and return the layer and the visits of its nodes."""
    code = ACTIVATIONS.index(trace.activation)
    layer = _layer(table, trace.n_in, code, trace.has_bias, passed.x, passed.grad_y)
    visits = cuda.tree.backward(
        call,
        layer,
        passed.grad_y.address,
        passed.x.address,
        table.view.address,
        passed.scores.address,
        passed.leaves.address,
        grad_x,
        passed.batch,
        table.shape[0],
    )
    return layer, visits


def _layer(table: Table, n_in: int, code: int, has_bias: bool, *moved: View) -> Any:
    """Return the constants of a layer's kernels, which move the table and other arrays."""
    n_out = table.shape[2] - n_in
    length = vector_length(table.dtype, (n_in, n_out), table.view, *moved)
    return cuda.tree.Layer(table.dtype, n_in, n_out, table.depth, code, has_bias, length)
