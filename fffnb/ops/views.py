"""Checks of device arrays before any kernel runs, made from their facts alone.

So that a call on arrays like those of an earlier one need not be checked again, what is found is
kept: `forward_plan` and `backward_plan` are functions of hashable facts.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

from .. import cuda
from ..activations import ACTIVATIONS
from .arrays import check_nodes_shape, output_width
from .device import BYTES, Kind, View, view
from .rules import UpdateRule, check_rule
from .trace import activation_code

FLOATS = ("float32", "float64", "float16", "bfloat16")
MOMENTS = ("mean", "variance")

#: Kinds of calls of which the checks are kept.
KEPT = 1024


class Table(NamedTuple):
    """Nodes, checked."""

    shape: tuple[int, int, int]
    dtype: str
    depth: int
    device: int

    @property
    def n_rows(self) -> int:
        """Rows of all trees."""
        return self.shape[0] * self.shape[1]

    @property
    def n_bytes(self) -> int:
        """Bytes of the nodes."""
        return BYTES[self.dtype] * math.prod(self.shape)


class Plan:
    """A call of which the arguments are checked."""

    def __init__(
        self,
        table: Table,
        lead: tuple[int, ...],
        n_in: int,
        n_out: int,
        activation: int,
        has_bias: bool,
    ) -> None:
        self.table, self.lead, self.batch = table, lead, math.prod(lead)
        self.n_in, self.n_out, self.activation = n_in, n_out, activation
        self.has_bias = has_bias
        self.real = cuda.tree.real_of(table.dtype)
        size, of_bias = BYTES[table.dtype] * self.batch, table.n_rows * BYTES[self.real]
        self.sizes = size * n_out, size * n_in, table.n_bytes, of_bias * has_bias
        self.layers: dict[int, Any] = {}

    def layer(self, *addresses: Any) -> Any:
        """Return the constants of kernels that move arrays which start at these addresses."""
        offset = offset_of(*addresses)
        layer = self.layers.get(offset)
        if layer is None:
            dtype, sizes = self.table.dtype, (self.n_in, self.n_out, self.table.depth)
            length = vector_length(dtype, sizes[:2], offset)
            layer = cuda.tree.Layer(dtype, *sizes, self.activation, self.has_bias, length)
            self.layers[offset] = layer
        return layer

    def check_apart(self, out: Any, x: Any, nodes: Any, bias: Any) -> None:
        """Refuse an output that lies over an input, all given by their addresses."""
        if cuda.launch.SIMULATED:
            return
        size, of_x, of_nodes, of_bias = self.sizes
        stop = out + size
        for name, start, end in (
            ("x", x, x + of_x),
            ("nodes", nodes, nodes + of_nodes),
            ("bias", bias, bias + of_bias),
        ):
            if out < end and start < stop:
                raise ValueError(f"out must not overlap {name}, got arrays that share memory")


def offset_of(*addresses: Any) -> int:
    """Return how far from multiples of the bytes of the widest load the worst address may be."""
    offset = 0
    if not cuda.launch.SIMULATED:
        for address in addresses:
            offset |= address
    return offset & 15


def vector_length(dtype: str, sizes: tuple[int, ...], offset: int) -> int:
    """Return how many numbers kernels move at once in rows of these sizes."""
    length = int(cuda.tree.vector_length(dtype, *sizes))
    while offset % (length * BYTES[dtype]):
        length //= 2
    return length


@functools.lru_cache(KEPT, typed=True)  # n_out may be 2, but not 2.0
def forward_plan(
    kind: Kind, x: Any, nodes: Any, bias: Any, out: Any, activation: str, n_out: int | None
) -> Plan:
    """Return the plan of a forward pass on arrays with these facts; None is no array."""
    table = _table(kind, nodes)
    samples = _samples("x", x, kind, table)
    lead, n_in = samples.shape[:-1], samples.shape[-1]
    width, code = output_width(n_in, table.shape, n_out), activation_code(activation)
    if bias is not None:
        _bias(bias, kind, table)
    if out is not None:
        target = view("out", out, kind, table.device)
        if target.dtype != table.dtype:
            raise TypeError(f"out must have the dtype of nodes, {table.dtype}, got {target.dtype}")
        _shaped("out", target, (*lead, width), "that of the output")
    return Plan(table, lead, n_in, width, code, bias is not None)


@functools.lru_cache(KEPT)
def backward_plan(
    kind: Kind,
    grad_y: Any,
    x: Any,
    nodes: Any,
    scores: Any,
    leaves: Any,
    activation: str,
    has_bias: bool,
) -> Plan:
    """Return the plan of a backward pass on arrays with these facts."""
    table = _table(kind, nodes)
    samples = _samples("x", x, kind, table)
    lead, n_in = samples.shape[:-1], samples.shape[-1]
    width = output_width(n_in, table.shape, None)
    grads = _samples("grad_y", grad_y, kind, table)
    _shaped("grad_y", grads, (*lead, width), "that of the output of x and nodes")
    found = view("trace.scores", scores, kind, table.device)
    ends = view("trace.leaves", leaves, kind, table.device)
    real = cuda.tree.real_of(table.dtype)
    if found.dtype != real or ends.dtype != "int32":
        raise TypeError(
            f"trace must hold {real} scores and int32 leaves, got {found.dtype}, {ends.dtype}"
        )
    shape = (*lead, table.shape[0], table.depth)
    _shaped("trace.scores", found, shape, "leading axes of x, trees, depth")
    _shaped("trace.leaves", ends, shape[:-1], "leading axes of x, trees")
    code = ACTIVATIONS.index(activation)
    return Plan(table, lead, n_in, width, code, has_bias)


def check_updatable(name: str, dtype: str) -> None:
    """Refuse to update what is stored in 16 bits, or is no float."""
    if dtype not in ("float32", "float64"):
        raise TypeError(
            f"{name} must be float32 or float64 to be updated in place, got {dtype}: "
            "keep float32 weights, and convert them for the forward pass"
        )


def check_bias(bias: Any, kind: Kind, table: Table) -> Any:
    """Return the address of a bias that fits nodes."""
    _bias(kind.facts(bias), kind, table)
    return kind.address(bias)


def check_device_rule(
    rule: UpdateRule, name: str, parameter: Any, shape: tuple[int, ...], kind: Kind
) -> Any:
    """Return a rule as kernels take it, checked against a parameter of rows of this shape."""
    numbers = check_rule(rule, name)
    _, dtype, _, device, *_ = kind.facts(parameter)
    dtype = kind.dtype(dtype)

    def state(key: str, dtype: str, shape: tuple[int, ...]) -> Any:
        array, label = rule.state.get(key), f"{name}.state[{key!r}]"
        found = view(label, kind.facts(array), kind, device)
        if found.dtype != dtype:
            raise TypeError(f"{label} must be {dtype}, got {found.dtype}")
        _shaped(label, found, shape, "that of the parameter")
        return kind.address(array)

    unused, whole, steps = kind.address(parameter), tuple(parameter.shape), cuda.steps
    if rule.kind == "adamw":
        mean, variance = (state(key, dtype, whole) for key in MOMENTS)
        counts = state("steps", "int64", (math.prod(shape[:-1]),))
        return steps.Rule.of(steps.ADAMW, (mean, variance, counts), numbers)
    if rule.numbers["momentum"] != 0:
        velocity = state("momentum", dtype, whole)
        return steps.Rule.of(steps.MOMENTUM, (velocity, unused, unused), numbers)
    return steps.Rule.of(steps.SGD, (unused, unused, unused), numbers)


def _table(kind: Kind, nodes: Any) -> Table:
    """Return nodes with their depth and device."""
    depth = check_nodes_shape(tuple(nodes[0]))
    found = view("nodes", nodes, kind)
    if found.dtype not in FLOATS:
        raise TypeError(f"nodes must be one of {', '.join(FLOATS)}, got {found.dtype}")
    n_trees, n_nodes, width = found.shape
    return Table((n_trees, n_nodes, width), found.dtype, depth, nodes[3])


def _samples(name: str, array: Any, kind: Kind, table: Table) -> View:
    """Return an input (..., n) that has the dtype of the nodes."""
    rows = view(name, array, kind, table.device)
    if rows.dtype != table.dtype:
        raise TypeError(f"{name} must have the dtype of nodes, {table.dtype}, got {rows.dtype}")
    if not rows.shape or rows.shape[-1] == 0:
        raise ValueError(f"{name} must have shape (..., n) with n >= 1, got {rows.shape}")
    return rows


def _bias(bias: Any, kind: Kind, table: Table) -> None:
    """Refuse a bias that does not fit nodes."""
    found = view("bias", bias, kind, table.device)
    real = cuda.tree.real_of(table.dtype)
    if found.dtype != real:
        raise TypeError(f"bias must be {real} for nodes of {table.dtype}, got {found.dtype}")
    _shaped("bias", found, table.shape[:2], "n_trees and n_nodes of nodes")


def _shaped(name: str, found: View, shape: tuple[int, ...], why: str) -> None:
    """Refuse an array that has not the shape which something else implies."""
    if found.shape != shape:
        raise ValueError(f"{name} must have shape {shape} ({why}), got {found.shape}")
