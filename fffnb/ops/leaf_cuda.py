"""The leaf form on device arrays: what `ops.leaf` does for GPUs."""

from __future__ import annotations

import functools
import math
from typing import Any

from .. import cuda
from ..activations import ACTIVATIONS
from ..leaves import LeafBias
from .device import BYTES, Kind, view
from .leaf_trace import (
    LeafGradients,
    LeafTrace,
    bias_shapes,
    check_leaf_bias,
    check_leaf_origin,
    check_leaf_shape,
    check_leaf_width,
    check_router_shape,
)
from .rules import RowGradient
from .running import Running
from .soft_cuda import clear
from .trace import activation_code
from .tree_cuda import run_forward
from .views import (
    KEPT,
    Plan,
    Table,
    check_out,
    check_paths,
    check_samples,
    check_shaped,
    check_wide,
    offset_of,
    vector_length,
)


class LeafPlan(Plan):
    """A call of the leaf form of which the arguments are checked.

    Its table are the routers; the path of a sample is the neurons of its leaf.
    """

    def __init__(
        self,
        routers: Table,
        lead: tuple[int, ...],
        leaves_shape: tuple[int, ...],
        activation: int,
        has_bias: bool,
    ) -> None:
        n_in = routers.shape[2]
        super().__init__(routers, lead, n_in, leaves_shape[3] - n_in, activation, has_bias)
        self.leaves_shape = leaves_shape
        size = BYTES[routers.dtype]
        self.sizes["leaves"] = size * math.prod(leaves_shape)
        for name, shape in zip(
            LeafBias._fields, bias_shapes(routers.shape, leaves_shape), strict=True
        ):
            self.sizes[f"bias.{name}"] = size * math.prod(shape) * has_bias

    def leaf_layer(self, *addresses: Any) -> Any:
        """Return the constants of kernels that move arrays which start at these addresses."""
        (_, n_leaves, width, _), dtype = self.leaves_shape, self.table.dtype
        length = vector_length(dtype, (self.n_in, self.n_out), offset_of(*addresses))
        sizes = self.n_in, self.n_out, n_leaves.bit_length() - 1, width
        return cuda.leaf.Leaves(dtype, *sizes, self.activation, self.has_bias, length)

    def forward(self, inputs: dict[str, Any], out: Any, traces: bool) -> Any:
        """Return the forward pass for arrays at these addresses, and whether it needs a trace."""
        layer = self.leaf_layer(*inputs.values(), out)
        place = self.batch, self.table.shape[0], self.table.device
        return cuda.leaf.forward(layer, *place), True


#: A plan of what LeafPlan takes, which is kept.
plan_of = functools.lru_cache(KEPT)(LeafPlan)


def forward(
    kind: Kind,
    x: Any,
    routers: Any,
    leaves: Any,
    bias: Any,
    activation: str,
    out: Any,
    return_trace: bool,
) -> Any:
    """Do what `leaf_forward` says."""
    code, bias = activation_code(activation), check_leaf_bias(bias)
    plan = plan_of(*checked(kind, x, routers, leaves, bias), code, bias is not None)
    if out is not None:
        check_out(kind.facts(out), kind, plan.table, (*plan.lead, plan.n_out))
    given = {"x": x, "routers": routers, "leaves": leaves}
    biases = (routers,) * 3 if bias is None else bias
    given |= {f"bias.{name}": array for name, array in zip(LeafBias._fields, biases, strict=True)}
    inputs = {name: kind.address(array) for name, array in given.items()}
    y, scores, ends = run_forward(kind, plan, inputs, routers, out, return_trace)
    if not return_trace:
        return y
    shapes = plan.table.shape, plan.leaves_shape
    return y, LeafTrace(scores, ends, activation, bias is not None, *shapes)


def backward(
    kind: Kind, grad_y: Any, x: Any, routers: Any, leaves: Any, trace: LeafTrace, sparse: bool
) -> LeafGradients:
    """Do what `leaf_backward` says."""
    arrays = checked(kind, x, routers, leaves, None)
    check_leaf_origin(trace, arrays[0].shape, arrays[2])
    plan = plan_of(*arrays, ACTIVATIONS.index(trace.activation), trace.has_bias)
    table, at = plan.table, kind.address
    check_grad_y(grad_y, kind, plan)
    check_paths(kind.facts(trace.scores), kind.facts(trace.leaves), kind, table, plan.lead)
    grad_x = kind.empty((*plan.lead, plan.n_in), table.dtype, routers)
    grads, lists = new_gradients(kind, plan, routers, sparse)
    with Running(kind, routers, table.device) as call:
        if plan.batch == 0:
            clear(call, *(lists[1::2] if sparse else grads))  # the counts
        else:
            given = [at(array) for array in (grad_y, x, leaves)]
            results = [at(array) for array in (grad_x, *grads)]
            layer = plan.leaf_layer(*given, *results)
            if not trace.has_bias:
                results += 2 * results[:1]
            run = cuda.leaf.backward(layer, plan.batch, table.shape[0], table.device, sparse)
            run(call, *given, at(trace.scores), at(trace.leaves), *results, *map(at, lists))
    if sparse:
        ends, count, neurons, n_neurons = lists
        named = (neurons, n_neurons), (ends, count), (ends, count)
        grads = [
            RowGradient(rows, values, None, n)
            for (rows, n), values in zip(named, grads, strict=False)
        ]
    return LeafGradients(
        grad_x, None, grads[0], LeafBias(None, *grads[1:]) if trace.has_bias else None
    )


def new_gradients(
    kind: Kind, plan: LeafPlan, like: Any, sparse: bool
) -> tuple[list[Any], list[Any]]:
    """Return new gradients of leaves and their biases; if they are `sparse`, new lists of rows.

    These are leaves, their count, hidden neurons, and their count.
    """
    n_trees, n_leaves, width, size = plan.leaves_shape
    n = cuda.leaf.n_places(n_leaves, plan.batch, n_trees)
    forest = (n,) if sparse else (n_trees, n_leaves)
    neurons = (n * width,) if sparse else (n_trees, n_leaves, width)
    shapes = [(*neurons, size), (*forest, width), (*forest, plan.n_out)]
    grads = [
        kind.empty(shape, plan.table.dtype, like) for shape in shapes[: 3 if plan.has_bias else 1]
    ]
    lengths = (n, 1, n * width, 1) if sparse else ()
    return grads, [kind.empty((length,), "int64", like) for length in lengths]


def checked(
    kind: Kind, x: Any, routers: Any, leaves: Any, bias: LeafBias | None
) -> tuple[Table, tuple[int, ...], tuple[int, ...]]:
    """Return routers, leading axes of x and the shape of leaves that fit each other."""
    facts = kind.facts
    of_bias = None if bias is None else tuple(map(facts, bias))
    return _checked(kind, facts(x), facts(routers), facts(leaves), of_bias)


def check_grad_y(grad_y: Any, kind: Kind, plan: LeafPlan) -> None:
    """Refuse a gradient of the output that does not fit it."""
    grads = check_samples("grad_y", kind.facts(grad_y), kind, plan.table)
    check_shaped("grad_y", grads, (*plan.lead, plan.n_out), "that of the output of x and leaves")


@functools.lru_cache(KEPT)
def _checked(
    kind: Kind, x: Any, routers: Any, leaves: Any, bias: tuple[Any, ...] | None
) -> tuple[Table, tuple[int, ...], tuple[int, ...]]:
    """Return what `checked` does, from the facts of arrays."""
    found = view("routers", routers, kind)
    check_wide("routers", found.dtype)
    check_router_shape(found.shape)
    device, (n_trees, n_nodes, n_in) = routers[3], found.shape
    shape = _like("leaves", leaves, kind, found.dtype, device)
    check_leaf_shape(shape, found.shape)
    table = Table("routers", (n_trees, n_nodes, n_in), found.dtype, shape[2], device)
    samples = check_samples("x", x, kind, table)
    check_leaf_width(samples.shape, found.shape)
    if bias is not None:
        shapes = bias_shapes(found.shape, shape)
        for name, array, wanted in zip(LeafBias._fields, bias, shapes, strict=True):
            came = _like(f"bias.{name}", array, kind, found.dtype, device)
            if came != wanted:
                raise ValueError(
                    f"bias.{name} must have shape {wanted} (that of routers and leaves), got {came}"
                )
    return table, samples.shape[:-1], shape


def _like(name: str, array: Any, kind: Kind, dtype: str, device: int) -> tuple[int, ...]:
    """Return the shape of an array that has the dtype of the routers, and their device."""
    found = view(name, array, kind, device)
    if found.dtype != dtype:
        raise TypeError(f"{name} must have the dtype of routers, {dtype}, got {found.dtype}")
    return found.shape
