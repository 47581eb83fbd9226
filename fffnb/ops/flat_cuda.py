"""The flat form on device arrays: what `ops.flat` does for GPUs, by what the tree does there."""

from __future__ import annotations

import functools
import math
from typing import Any

from .. import cuda
from .device import BYTES, Kind, view
from .flat_trace import (
    FlatGradients,
    FlatTrace,
    check_flat_origin,
    check_flat_shapes,
    check_flat_trace,
    check_flat_width,
)
from .rules import UpdateRule
from .running import Running
from .trace import activation_code
from .tree_cuda import fill_with_zeros, gather, run_forward, step_rows, store_rows
from .views import (
    KEPT,
    Plan,
    Table,
    check_bias,
    check_bias_step,
    check_device_rule,
    check_floats,
    check_grad_scores,
    check_out,
    check_paths,
    check_samples,
    check_shaped,
    check_updatable,
)


class FlatPlan(Plan):
    """A call of the flat form of which the arguments are checked; its table are the planes."""

    def __init__(
        self,
        planes: Table,
        lead: tuple[int, ...],
        y_vectors_shape: tuple[int, ...],
        activation: int,
        has_bias: bool,
    ) -> None:
        super().__init__(planes, lead, planes.shape[2], y_vectors_shape[2], activation, has_bias)
        self.y_vectors_shape = y_vectors_shape
        self.rows = "patterns" if y_vectors_shape[1] == planes.depth << planes.depth else "nodes"
        self.sizes["y_vectors"] = BYTES[planes.dtype] * math.prod(y_vectors_shape)

    def split(self, offset_x: int, offset_y: int) -> tuple[Any, Any]:
        """Return the constants of kernels that move planes, and y vectors."""
        planes = self.constants(self.n_in, 0, offset_x)._replace(rows="levels")
        vectors = self.constants(0, self.n_out, offset_y)
        return planes, vectors._replace(has_bias=False, rows=self.rows)

    def forward(self, inputs: dict[str, Any], out: Any, traces: bool) -> Any:
        """Return the forward pass for arrays at these addresses, and whether it needs a trace."""
        of_x, of_y = (inputs["x"], inputs["planes"]), (inputs["y_vectors"], out)
        n_trees, device = self.table.shape[0], self.table.device
        return cuda.flat.forward(
            *self.halves(of_x, of_y), self.batch, n_trees, device, traces=traces
        )


def forward(
    kind: Kind,
    x: Any,
    planes: Any,
    y_vectors: Any,
    bias: Any,
    activation: str,
    out: Any,
    return_trace: bool,
) -> Any:
    """Do what `flat_forward` says."""
    activation_code(activation)
    facts = kind.facts
    of_bias = None if bias is None else facts(bias)
    of_out = None if out is None else facts(out)
    plan = forward_plan(
        kind, facts(x), facts(planes), facts(y_vectors), of_bias, of_out, activation
    )
    inputs = {"x": kind.address(x), "planes": kind.address(planes)}
    inputs["y_vectors"] = kind.address(y_vectors)
    inputs["bias"] = inputs["planes"] if bias is None else kind.address(bias)
    y, scores, leaves = run_forward(kind, plan, inputs, planes, out, return_trace)
    if not return_trace:
        return y
    shapes = plan.table.shape, plan.y_vectors_shape
    return y, FlatTrace(scores, leaves, activation, bias is not None, *shapes)


def backward(
    kind: Kind,
    grad_y: Any,
    x: Any,
    planes: Any,
    y_vectors: Any,
    trace: FlatTrace,
    grad_scores: Any,
    sparse: bool,
) -> FlatGradients:
    """Do what `flat_backward` says."""
    given = grad_y, x, planes, y_vectors, trace, grad_scores
    plan = _planned(kind, *given)
    table = plan.table
    grad_x = kind.empty((*plan.lead, plan.n_in), table.dtype, planes)
    grad_planes = kind.empty(table.shape, table.dtype, planes)
    grad_bias = kind.empty(table.shape[:2], plan.real, planes) if trace.has_bias else None
    with Running(kind, planes, table.device) as call:
        layer, vectors, visits = _visits(call, kind, plan, *given, grad_x)
        if plan.batch > 0:
            store_rows(call, plan, layer, visits, grad_planes, grad_bias)
        else:
            fill_with_zeros(call, grad_planes, table.n_bytes)
            if grad_bias is not None:
                fill_with_zeros(call, grad_bias, table.n_rows * BYTES[plan.real])
        grad_vectors, _ = gather(call, plan, vectors, visits, sparse)
    return FlatGradients(grad_x, grad_planes, grad_vectors, grad_bias)


def backward_update(
    kind: Kind,
    grad_y: Any,
    x: Any,
    planes: Any,
    y_vectors: Any,
    trace: FlatTrace,
    planes_rule: UpdateRule,
    y_vectors_rule: UpdateRule,
    bias: Any,
    bias_rule: UpdateRule | None,
    grad_scores: Any,
) -> Any:
    """Do what `flat_backward_update` says."""
    given = grad_y, x, planes, y_vectors, trace, grad_scores
    plan = _planned(kind, *given)
    table, shape = plan.table, plan.y_vectors_shape
    check_updatable("planes", table.dtype)
    of_planes = check_device_rule(planes_rule, "planes_rule", planes, table.shape, kind)
    of_vectors = check_device_rule(y_vectors_rule, "y_vectors_rule", y_vectors, shape, kind)
    of_bias = check_bias_step(kind, table, trace.has_bias, bias, bias_rule)
    grad_x = kind.empty((*plan.lead, plan.n_in), table.dtype, planes)
    if plan.batch == 0:
        return grad_x
    states = (of_planes.first, of_planes.second), (of_vectors.first, of_vectors.second)
    with Running(kind, planes, table.device) as call:
        layer, vectors, visits = _visits(call, kind, plan, *given, grad_x, *states)
        step_rows(call, plan, vectors, visits, kind.address(y_vectors), of_vectors)
        step_rows(call, plan, layer, visits, kind.address(planes), of_planes, *of_bias)
    return grad_x


def _planned(
    kind: Kind,
    grad_y: Any,
    x: Any,
    planes: Any,
    y_vectors: Any,
    trace: FlatTrace,
    grad_scores: Any,
) -> FlatPlan:
    """Return the plan of a backward pass."""
    check_flat_trace(trace)
    given = grad_y, x, planes, y_vectors, trace.scores, trace.leaves
    plan = backward_plan(kind, *map(kind.facts, given), trace.activation, trace.has_bias)
    check_flat_origin(trace, plan.table.shape, plan.y_vectors_shape)
    check_grad_scores(kind, plan, grad_scores)
    return plan


def _visits(
    call: Running,
    kind: Kind,
    plan: FlatPlan,
    grad_y: Any,
    x: Any,
    planes: Any,
    y_vectors: Any,
    trace: FlatTrace,
    grad_scores: Any,
    grad_x: Any,
    of_planes: tuple[Any, ...] = (),
    of_vectors: tuple[Any, ...] = (),
) -> tuple[Any, Any, Any]:
    """Write grad_x, and return both halves of the layer and the visits, None of an empty batch.

    The kernels of a half also move what lies at the addresses of the state of its rule.
    """
    at, adds = kind.address, grad_scores is not None
    of_x = at(x), at(planes), at(grad_x), *of_planes
    layer, vectors = plan.halves(of_x, (at(y_vectors), at(grad_y), *of_vectors))
    if plan.batch == 0:
        return layer, vectors, None
    place = plan.batch, plan.table.shape[0], plan.table.device
    run = cuda.flat.backward(layer, vectors, *place, adds=adds)
    added = grad_scores if adds else trace.scores
    arrays = grad_y, x, y_vectors, trace.scores, trace.leaves, grad_x, planes, added
    return layer, vectors, run(call, *map(at, arrays))


@functools.lru_cache(KEPT)
def forward_plan(
    kind: Kind, x: Any, planes: Any, y_vectors: Any, bias: Any, out: Any, activation: str
) -> FlatPlan:
    """Return the plan of a forward pass on arrays with these facts; None is no array."""
    table, vectors = _tables(kind, planes, y_vectors)
    lead = _lead(kind, x, table)
    if bias is not None:
        check_bias(bias, kind, table)
    if out is not None:
        check_out(out, kind, table, (*lead, vectors[2]))
    return FlatPlan(table, lead, vectors, activation_code(activation), bias is not None)


@functools.lru_cache(KEPT)
def backward_plan(
    kind: Kind,
    grad_y: Any,
    x: Any,
    planes: Any,
    y_vectors: Any,
    scores: Any,
    leaves: Any,
    activation: str,
    has_bias: bool,
) -> FlatPlan:
    """Return the plan of a backward pass on arrays with these facts."""
    table, vectors = _tables(kind, planes, y_vectors)
    lead = _lead(kind, x, table)
    grads = check_samples("grad_y", grad_y, kind, table)
    check_shaped("grad_y", grads, (*lead, vectors[2]), "that of the output of x and y_vectors")
    check_paths(scores, leaves, kind, table, lead)
    return FlatPlan(table, lead, vectors, activation_code(activation), has_bias)


def _tables(kind: Kind, planes: Any, y_vectors: Any) -> tuple[Table, tuple[int, ...]]:
    """Return planes, and the shape of y vectors that make a forest with them."""
    found = check_floats("planes", planes, kind)
    device = planes[3]
    vectors = view("y_vectors", y_vectors, kind, device)
    if vectors.dtype != found.dtype:
        raise TypeError(
            f"y_vectors must have the dtype of planes, {found.dtype}, got {vectors.dtype}"
        )
    n_trees, depth, n_in = check_flat_shapes(found.shape, vectors.shape)
    return Table("planes", (n_trees, depth, n_in), found.dtype, depth, device), vectors.shape


def _lead(kind: Kind, x: Any, table: Table) -> tuple[int, ...]:
    """Return the leading axes of samples that fit planes."""
    samples, n_in = check_samples("x", x, kind, table), table.shape[2]
    check_flat_width(samples.shape, n_in)
    return samples.shape[:-1]
