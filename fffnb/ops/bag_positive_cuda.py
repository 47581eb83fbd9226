"""The bag of all positive nodes on device arrays: what `ops.bag_cuda` does with ``k=None``."""

from __future__ import annotations

from typing import Any

from .. import cuda
from .device import Kind
from .rules import RowGradient
from .running import Running
from .soft_cuda import clear, refuse_beyond_device
from .trace import Gradients
from .views import Plan, offset_of, vector_length


class PositivePlan(Plan):
    """A call with ``k=None`` of which the arguments are checked; its depth is n_nodes."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.found = (0,), "int64"  # no rows: all nodes have scores
        shape, device = (2, *self.lead, *self.table.shape[:2]), self.table.device
        refuse_beyond_device("scores and coefficients", shape, self.real, device)

    def sizes_of(self, *addresses: Any) -> Any:
        """Return what kernels must know to move arrays that start at these addresses."""
        table = self.table
        length = vector_length(table.dtype, (), offset_of(*addresses))
        sizes = self.n_in, self.n_out, table.n_rows, self.batch
        return cuda.bag_positive.Sizes(table.dtype, *sizes, length, table.device)

    def forward(self, inputs: dict[str, Any], out: Any, traces: bool) -> Any:
        """Return the forward pass for arrays at these addresses, which needs a trace."""
        sizes = self.sizes_of(inputs["x"], inputs["nodes"], out)
        run = cuda.bag_positive.forward(sizes, self.activation, self.has_bias, traces)
        return run, True


def backward(
    kind: Kind, plan: PositivePlan, grad_y: Any, x: Any, nodes: Any, scores: Any, sparse: bool
) -> Gradients:
    """Return the gradients of a call whose scores these are."""
    table, at = plan.table, kind.address
    grad_x = kind.empty((*plan.lead, plan.n_in), table.dtype, nodes)
    grad_nodes = kind.empty(table.shape, table.dtype, nodes)
    grad_bias = kind.empty(table.shape[:2], plan.real, nodes) if plan.has_bias else None
    marks = None
    with Running(kind, nodes, table.device) as call:
        if plan.batch > 0:
            given = [at(array) for array in (grad_y, x, nodes, scores, grad_x, grad_nodes)]
            run = cuda.bag_positive.backward(plan.sizes_of(*given), plan.activation, sparse)
            marks = run(call, *given, None if grad_bias is None else at(grad_bias))
        elif not sparse:
            clear(call, grad_nodes, grad_bias)
        if sparse:
            grad_nodes, grad_bias = _keep_chosen(call, plan, marks, grad_nodes, grad_bias)
    return Gradients(grad_x, grad_nodes, grad_bias)


def _keep_chosen(
    call: Running, plan: PositivePlan, marks: Any, grad_nodes: Any, grad_bias: Any
) -> tuple[RowGradient, RowGradient | None]:
    """Return the row gradients of the marked nodes and of their biases, no marks being none."""
    kind, like, table, at = call.kind, call.like, plan.table, call.kind.address
    n_places, width = table.n_rows if plan.batch > 0 else 0, table.shape[2]
    rows, count = kind.empty((n_places,), "int64", like), kind.empty((1,), "int64", like)
    values = kind.empty((n_places, width), table.dtype, like)
    biases = kind.empty((n_places,), plan.real, like) if plan.has_bias else None
    if plan.batch == 0:
        clear(call, count)
    else:
        sizes = width, table.n_rows, plan.has_bias, table.device
        written = at(rows), at(count), at(values), None if biases is None else at(biases)
        dense = at(grad_nodes), None if grad_bias is None else at(grad_bias)
        cuda.bag_positive.keep_chosen(table.dtype, *sizes)(call, marks, *dense, *written)
    of_bias = None if biases is None else RowGradient(rows, biases, None, count)
    return RowGradient(rows, values, biases, count), of_bias
