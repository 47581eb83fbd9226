"""The bag on device arrays: what `ops.bag` does for GPUs."""

from __future__ import annotations

import functools
import math
from typing import Any

from .. import cuda
from . import bag_positive_cuda
from .arrays import check_axes, output_width
from .bag_positive_cuda import PositivePlan
from .bag_trace import BagTrace, check_choice, last_axis
from .device import Kind, view
from .running import Running
from .trace import Gradients, activation_code, check_origin
from .tree_cuda import gather, run_forward
from .views import (
    KEPT,
    Meeting,
    Plan,
    Table,
    check_bias,
    check_floats,
    check_out,
    check_samples,
    check_shaped,
)


class BagPlan(Plan):
    """A call of the bag of which the arguments are checked; its depth is k."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.found = (self.table.shape[0], self.table.depth), "int64"  # rows

    def meeting(self, layer: Any) -> Meeting:
        """Return which choices meet the nodes."""
        return choices(self, self.table.shape[:2])

    def forward(self, inputs: dict[str, Any], out: Any, traces: bool) -> Any:
        """Return the forward pass for arrays at these addresses, which needs a trace."""
        n_trees, n_nodes, _ = self.table.shape
        layer = self.layer(inputs["x"], inputs["nodes"], out)
        return cuda.bag.forward(layer, n_nodes, self.batch, n_trees, self.table.device), True


def choices(plan: Plan, shape: tuple[int, ...]) -> Meeting:
    """Return which choices of a plan meet the rows of a table whose first axes are `shape`."""
    per = plan.table.shape[0] * plan.table.depth
    n_choices = plan.batch * per
    return Meeting(shape, min(n_choices, math.prod(shape)), n_choices, 1, per)


def forward(
    kind: Kind,
    x: Any,
    nodes: Any,
    k: int | None,
    bias: Any,
    activation: str,
    n_out: int | None,
    out: Any,
    return_trace: bool,
) -> Any:
    """Do what `bag_forward` says."""
    activation_code(activation)
    facts = kind.facts
    of_bias = None if bias is None else facts(bias)
    of_out = None if out is None else facts(out)
    plan = forward_plan(kind, facts(x), facts(nodes), of_bias, of_out, k, activation, n_out)
    inputs = {"x": kind.address(x), "nodes": kind.address(nodes)}
    inputs["bias"] = inputs["nodes"] if bias is None else kind.address(bias)
    y, scores, rows = run_forward(kind, plan, inputs, nodes, out, return_trace)
    if not return_trace:
        return y
    origin = activation, bias is not None, plan.table.shape, plan.n_in
    return y, BagTrace(scores, None if k is None else rows, None, *origin)


def backward(
    kind: Kind, grad_y: Any, x: Any, nodes: Any, trace: BagTrace, sparse: bool
) -> Gradients:
    """Do what `bag_backward` says."""
    if not isinstance(trace, BagTrace):
        raise TypeError(f"trace must be the BagTrace of bag_forward, got {type(trace).__name__}")
    if trace.starts is not None:
        raise ValueError("trace must come from arrays on a GPU, got one with starts, of the CPU")
    given = grad_y, x, nodes, trace.scores
    activation_code(trace.activation)
    rows = None if trace.rows is None else kind.facts(trace.rows)
    facts = map(kind.facts, given)
    plan = backward_plan(kind, *facts, rows, trace.activation, trace.has_bias)
    check_origin(trace, plan.table.shape, plan.n_in, BagTrace, "bag_forward")
    if isinstance(plan, PositivePlan):
        return bag_positive_cuda.backward(kind, plan, *given, sparse)
    table, at = plan.table, kind.address
    grad_x, visits = kind.empty((*plan.lead, plan.n_in), table.dtype, nodes), None
    layer = plan.layer(at(grad_y), at(x), at(nodes), at(grad_x))
    with Running(kind, nodes, table.device) as call:
        if plan.batch > 0:
            n_trees, n_nodes, _ = table.shape
            run = cuda.bag.backward(layer, n_nodes, plan.batch, n_trees, table.device)
            visits = run(call, *map(at, given), at(trace.rows), at(grad_x))
        return Gradients(grad_x, *gather(call, plan, layer._replace(depth=1), visits, sparse))


@functools.lru_cache(KEPT, typed=True)  # k may be 2, but not 2.0
def forward_plan(
    kind: Kind,
    x: Any,
    nodes: Any,
    bias: Any,
    out: Any,
    k: int | None,
    activation: str,
    n_out: int | None,
) -> BagPlan | PositivePlan:
    """Return the plan of a forward pass on arrays with these facts; None is no array."""
    table = _table(kind, nodes, k)
    samples = check_samples("x", x, kind, table)
    lead, n_in = samples.shape[:-1], samples.shape[-1]
    width = output_width(n_in, table.shape, n_out)
    if bias is not None:
        check_bias(bias, kind, table)
    if out is not None:
        check_out(out, kind, table, (*lead, width))
    found = table, lead, n_in, width, activation_code(activation), bias is not None
    return PositivePlan(*found) if k is None else BagPlan(*found)


@functools.lru_cache(KEPT)
def backward_plan(
    kind: Kind,
    grad_y: Any,
    x: Any,
    nodes: Any,
    scores: Any,
    rows: Any,
    activation: str,
    has_bias: bool,
) -> BagPlan | PositivePlan:
    """Return the plan of a backward pass on arrays with these facts; no rows are all nodes."""
    k = None if rows is None else last_axis(view("trace.rows", rows, kind).shape)
    table = _table(kind, nodes, k)
    samples = check_samples("x", x, kind, table)
    lead, n_in = samples.shape[:-1], samples.shape[-1]
    width = output_width(n_in, table.shape, None)
    grads = check_samples("grad_y", grad_y, kind, table)
    check_shaped("grad_y", grads, (*lead, width), "that of the output of x and nodes")
    check_choices(scores, rows, kind, table, lead)
    found = table, lead, n_in, width, activation_code(activation), has_bias
    return PositivePlan(*found) if k is None else BagPlan(*found)


def check_choices(scores: Any, rows: Any, kind: Kind, table: Table, lead: tuple[int, ...]) -> None:
    """Refuse the scores and rows of a trace that do not fit a table and samples.

    No rows are those of all nodes.
    """
    shape, real = (*lead, table.shape[0], table.depth), cuda.tree.real_of(table.dtype)
    states = ("trace.scores", scores, real), ("trace.rows", rows, "int64")
    for name, facts, dtype in states if rows is not None else states[:1]:
        found = view(name, facts, kind, table.device)
        if found.dtype != dtype:
            raise TypeError(f"{name} must be {dtype}, got {found.dtype}")
        check_shaped(name, found, shape, "those of every sample and tree")


def check_device_choice(k: int, n: int, what: str) -> int:
    """Return how many of n to choose, as far as kernels can."""
    most = cuda.bag.MOST_CHOSEN
    if check_choice(k, n, what) > most:
        raise ValueError(f"k must be at most {most} on a GPU, got {k}")
    return int(k)


def _table(kind: Kind, nodes: Any, k: int | None) -> Table:
    """Return nodes that make bags, of which samples choose k each, or look at all."""
    found = check_floats("nodes", nodes, kind)
    check_axes(found.shape)
    n_trees, n_nodes, width = found.shape
    k = n_nodes if k is None else check_device_choice(k, n_nodes, "nodes of a bag")
    return Table("nodes", (n_trees, n_nodes, width), found.dtype, k, nodes[3])
