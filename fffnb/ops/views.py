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
    """Nodes, or what takes their place, checked."""

    name: str
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
        """Bytes of all rows."""
        return BYTES[self.dtype] * math.prod(self.shape)


class Meeting(NamedTuple):
    """Who meets the rows of a table whose gradient is asked for."""

    shape: tuple[int, ...]  # first axes of a dense gradient
    n_places: int  # rows that may be met
    batch: int
    n_trees: int
    per: int = 1  # of the batch so many have one row of x


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
        self.sizes = {"out": size * n_out, "x": size * n_in, "bias": of_bias * has_bias}
        self.sizes[table.name] = table.n_bytes
        self.layers: dict[Any, Any] = {}
        self.found: tuple[tuple[int, ...], str] = (table.shape[0],), "int32"  # leaves

    def layer(self, *addresses: Any) -> Any:
        """Return the constants of kernels that move arrays which start at these addresses."""
        offset = offset_of(*addresses)
        layer = self.layers.get(offset)
        if layer is None:
            layer = self.layers[offset] = self.constants(self.n_in, self.n_out, offset)
        return layer

    def constants(self, n_in: int, n_out: int, offset: int) -> Any:
        """Return the constants of kernels that move rows of these sizes."""
        length = vector_length(self.table.dtype, (n_in, n_out), offset)
        sizes = n_in, n_out, self.table.depth
        return cuda.tree.Layer(self.table.dtype, *sizes, self.activation, self.has_bias, length)

    def halves(self, of_x: tuple[Any, ...], of_y: tuple[Any, ...]) -> tuple[Any, Any]:
        """Return the constants of kernels that move x and its vectors, and y vectors and y.

        For forms that keep them apart; these arrays start at the addresses `of_x` and `of_y`.
        """
        offsets = offset_of(*of_x), offset_of(*of_y)
        halves: tuple[Any, Any] | None = self.layers.get(offsets)
        if halves is None:
            halves = self.layers[offsets] = self.split(*offsets)
        return halves

    def split(self, offset_x: int, offset_y: int) -> tuple[Any, Any]:
        """Return both halves of the constants of kernels."""
        raise NotImplementedError

    def forward(self, inputs: dict[str, Any], out: Any, traces: bool) -> Any:
        """Return the forward pass for arrays at these addresses, and whether it needs a trace."""
        layer, place = self.layer(inputs["x"], inputs["nodes"], out), self.table.device
        return cuda.tree.forward(layer, self.batch, self.table.shape[0], place, traces=traces)

    def meeting(self, layer: Any) -> Meeting:
        """Return who meets the rows of a layer."""
        n_trees, batch = self.table.shape[0], self.batch
        n_places = cuda.steps.n_places(layer, batch, n_trees)
        return Meeting((n_trees, layer.n_rows), n_places, batch, n_trees)

    def check_apart(self, out: Any, inputs: dict[str, Any]) -> None:
        """Refuse an output that lies over an input, all given by their addresses."""
        if cuda.launch.SIMULATED:
            return
        stop = out + self.sizes["out"]
        for name, start in inputs.items():
            if out < start + self.sizes[name] and start < stop:
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
    samples = check_samples("x", x, kind, table)
    lead, n_in = samples.shape[:-1], samples.shape[-1]
    width, code = output_width(n_in, table.shape, n_out), activation_code(activation)
    if bias is not None:
        check_bias(bias, kind, table)
    if out is not None:
        check_out(out, kind, table, (*lead, width))
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
    samples = check_samples("x", x, kind, table)
    lead, n_in = samples.shape[:-1], samples.shape[-1]
    width = output_width(n_in, table.shape, None)
    grads = check_samples("grad_y", grad_y, kind, table)
    check_shaped("grad_y", grads, (*lead, width), "that of the output of x and nodes")
    check_paths(scores, leaves, kind, table, lead)
    code = ACTIVATIONS.index(activation)
    return Plan(table, lead, n_in, width, code, has_bias)


def check_updatable(name: str, dtype: str) -> None:
    """Refuse to update what is stored in 16 bits, or is no float."""
    if dtype not in ("float32", "float64"):
        raise TypeError(
            f"{name} must be float32 or float64 to be updated in place, got {dtype}: "
            "keep float32 weights, and convert them for the forward pass"
        )


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
        check_shaped(label, found, shape, "that of the parameter")
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


def check_bias_step(
    kind: Kind, table: Table, has_bias: bool, bias: Any, rule: UpdateRule | None
) -> tuple[Any, Any]:
    """Return the address of a bias that is to be stepped and its rule, or None twice."""
    if bias is None or rule is None:
        return None, None
    if not has_bias:
        raise ValueError("bias must be None, as the forward pass of this trace had no bias")
    check_bias(kind.facts(bias), kind, table)
    own = check_device_rule(rule, "bias_rule", bias, (*table.shape[:2], 1), kind)
    return kind.address(bias), own


def check_grad_scores(kind: Kind, plan: Plan, grad_scores: Any) -> None:
    """Refuse a gradient of scores that does not fit those of a plan."""
    if grad_scores is None:
        return
    table = plan.table
    found = view("grad_scores", kind.facts(grad_scores), kind, table.device)
    if found.dtype != plan.real:
        raise TypeError(f"grad_scores must have dtype {plan.real}, got {found.dtype}")
    shape = (*plan.lead, table.shape[0], table.depth)
    check_shaped("grad_scores", found, shape, "that of trace.scores")


def _table(kind: Kind, nodes: Any) -> Table:
    """Return nodes with their depth and device."""
    depth = check_nodes_shape(tuple(nodes[0]))
    n_trees, n_nodes, width = nodes[0]
    dtype = check_floats("nodes", nodes, kind).dtype
    return Table("nodes", (n_trees, n_nodes, width), dtype, depth, nodes[3])


def check_floats(name: str, array: Any, kind: Kind) -> View:
    """Return a parameter that has a dtype which kernels know."""
    found = view(name, array, kind)
    if found.dtype not in FLOATS:
        raise TypeError(f"{name} must be one of {', '.join(FLOATS)}, got {found.dtype}")
    return found


def check_wide(name: str, dtype: str) -> None:
    """Refuse 16 bits, where no kernel takes them."""
    if dtype not in ("float32", "float64"):
        raise TypeError(f"{name} must be float32 or float64 in this form, got {dtype}")


def check_samples(name: str, array: Any, kind: Kind, table: Table) -> View:
    """Return an input (..., n) that has the dtype of a table."""
    rows = view(name, array, kind, table.device)
    if rows.dtype != table.dtype:
        raise TypeError(
            f"{name} must have the dtype of {table.name}, {table.dtype}, got {rows.dtype}"
        )
    if not rows.shape or rows.shape[-1] == 0:
        raise ValueError(f"{name} must have shape (..., n) with n >= 1, got {rows.shape}")
    return rows


def check_bias(bias: Any, kind: Kind, table: Table) -> None:
    """Refuse a bias that does not fit a table."""
    found = view("bias", bias, kind, table.device)
    real = cuda.tree.real_of(table.dtype)
    if found.dtype != real:
        raise TypeError(f"bias must be {real} for {table.name} of {table.dtype}, got {found.dtype}")
    check_shaped("bias", found, table.shape[:2], f"the first axes of {table.name}")


def check_out(out: Any, kind: Kind, table: Table, shape: tuple[int, ...]) -> None:
    """Refuse an output that cannot take the result."""
    target = view("out", out, kind, table.device)
    if target.dtype != table.dtype:
        raise TypeError(
            f"out must have the dtype of {table.name}, {table.dtype}, got {target.dtype}"
        )
    check_shaped("out", target, shape, "that of the output")


def check_paths(scores: Any, leaves: Any, kind: Kind, table: Table, lead: tuple[int, ...]) -> None:
    """Refuse the scores and leaves of a trace that do not fit a table and samples."""
    found = view("trace.scores", scores, kind, table.device)
    ends = view("trace.leaves", leaves, kind, table.device)
    real = cuda.tree.real_of(table.dtype)
    if found.dtype != real or ends.dtype != "int32":
        raise TypeError(
            f"trace must hold {real} scores and int32 leaves, got {found.dtype}, {ends.dtype}"
        )
    shape = (*lead, table.shape[0], table.depth)
    check_shaped("trace.scores", found, shape, "leading axes of x, trees, depth")
    check_shaped("trace.leaves", ends, shape[:-1], "leading axes of x, trees")


def check_shaped(name: str, found: View, shape: tuple[int, ...], why: str) -> None:
    """Refuse an array that has not the shape which something else implies."""
    if found.shape != shape:
        raise ValueError(f"{name} must have shape {shape} ({why}), got {found.shape}")
