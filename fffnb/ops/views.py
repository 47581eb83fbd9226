"""Checks of device arrays before any kernel runs: the arguments of `ops.tree_cuda`."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from .. import cuda
from .arrays import check_nodes_shape, output_width
from .device import BYTES, Kind, View, view
from .rules import UpdateRule, check_rule
from .trace import Trace, check_origin

MOMENTS = ("mean", "variance")

FLOATS = ("float32", "float64", "float16", "bfloat16")


def real_of(dtype: str) -> str:
    """Return the dtype in which kernels compute with stored numbers."""
    return "float64" if dtype == "float64" else "float32"


class Table(NamedTuple):
    """Nodes, checked."""

    view: View
    depth: int
    kind: Kind
    device: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """(n_trees, n_nodes, n_in + n_out)."""
        n_trees, n_nodes, width = self.view.shape
        return n_trees, n_nodes, width

    @property
    def dtype(self) -> str:
        """In which the numbers are stored."""
        return self.view.dtype

    @property
    def n_rows(self) -> int:
        """Rows of all trees."""
        return self.shape[0] * self.shape[1]


def check_table(kind: Kind, nodes: Any) -> Table:
    """Return nodes with their depth and device."""
    depth = check_nodes_shape(tuple(nodes.shape))
    found = view("nodes", nodes, kind)
    if found.dtype not in FLOATS:
        raise TypeError(f"nodes must be one of {', '.join(FLOATS)}, got {found.dtype}")
    return Table(found, depth, kind, kind.device(nodes))


def check_updatable(name: str, found: View) -> None:
    """Refuse to update what is stored in 16 bits, or is no float."""
    if found.dtype not in ("float32", "float64"):
        raise TypeError(
            f"{name} must be float32 or float64 to be updated in place, got {found.dtype}: "
            "keep float32 weights, and convert them for the forward pass"
        )


def check_samples(name: str, array: Any, table: Table) -> View:
    """Return an input (..., n) that has the dtype of the nodes."""
    rows = view(name, array, table.kind, table.device)
    if rows.dtype != table.dtype:
        raise TypeError(f"{name} must have the dtype of nodes, {table.dtype}, got {rows.dtype}")
    if not rows.shape or rows.shape[-1] == 0:
        raise ValueError(f"{name} must have shape (..., n) with n >= 1, got {rows.shape}")
    return rows


def check_bias(bias: Any, table: Table) -> View:
    """Return a bias that fits nodes."""
    found = view("bias", bias, table.kind, table.device)
    real = real_of(table.dtype)
    if found.dtype != real:
        raise TypeError(f"bias must be {real} for nodes of {table.dtype}, got {found.dtype}")
    return check_view("bias", found, table.shape[:2], "n_trees and n_nodes of nodes")


def check_view(name: str, found: View, shape: tuple[int, ...], why: str) -> View:
    """Return an array that has the shape which something else implies."""
    if found.shape != shape:
        raise ValueError(f"{name} must have shape {shape} ({why}), got {found.shape}")
    return found


def check_out(out: Any, shape: tuple[int, ...], table: Table, **inputs: View | None) -> View:
    """Return an output array that can take the result and lies over no input."""
    target = view("out", out, table.kind, table.device)
    if target.dtype != table.dtype:
        raise TypeError(f"out must have the dtype of nodes, {table.dtype}, got {target.dtype}")
    check_view("out", target, shape, "that of the output")
    if not cuda.launch.SIMULATED:
        for name, array in (*inputs.items(), ("nodes", table.view)):
            if array and target.address < array.stop and array.address < target.stop:
                raise ValueError(f"out must not overlap {name}, got arrays that share memory")
    return target


class Passed(NamedTuple):
    """What a forward pass took and left, and the gradient that comes back."""

    grad_y: View
    x: View
    scores: View
    leaves: View

    @property
    def batch(self) -> int:
        """Return the number of samples."""
        return math.prod(self.x.shape[:-1])


def check_passed(grad_y: Any, x: Any, trace: Trace, table: Table) -> Passed:
    """Return the arguments of a backward pass, checked against each other."""
    samples = check_samples("x", x, table)
    lead, n_in = samples.shape[:-1], samples.shape[-1]
    width = output_width(n_in, table.shape, None)
    grads = check_samples("grad_y", grad_y, table)
    check_view("grad_y", grads, (*lead, width), "that of the output of x and nodes")
    check_origin(trace, table.shape, n_in)
    scores = view("trace.scores", trace.scores, table.kind, table.device)
    leaves = view("trace.leaves", trace.leaves, table.kind, table.device)
    real = real_of(table.dtype)
    if scores.dtype != real or leaves.dtype != "int32":
        raise TypeError(
            f"trace must hold {real} scores and int32 leaves, got {scores.dtype}, {leaves.dtype}"
        )
    shape = (*lead, table.shape[0], table.depth)
    check_view("trace.scores", scores, shape, "leading axes of x, trees, depth")
    check_view("trace.leaves", leaves, shape[:-1], "leading axes of x, trees")
    return Passed(grads, samples, scores, leaves)


def check_device_rule(
    rule: UpdateRule, name: str, parameter: View, n_rows: int, kind: Kind, device: int
) -> Any:
    """Return a rule as kernels take it, checked against a parameter of so many rows."""
    numbers = check_rule(rule, name)

    def state(key: str, dtype: str, shape: tuple[int, ...]) -> Any:
        found = view(f"{name}.state[{key!r}]", rule.state.get(key), kind, device)
        if found.dtype != dtype:
            raise TypeError(f"{name}.state[{key!r}] must be {dtype}, got {found.dtype}")
        return check_view(f"{name}.state[{key!r}]", found, shape, "that of the parameter").address

    unused = parameter.address
    if rule.kind == "adamw":
        mean, variance = (state(key, parameter.dtype, parameter.shape) for key in MOMENTS)
        steps = state("steps", "int64", (n_rows,))
        return cuda.tree.Rule(cuda.tree.ADAMW, mean, variance, steps, numbers)
    if rule.numbers["momentum"] != 0:
        velocity = state("momentum", parameter.dtype, parameter.shape)
        return cuda.tree.Rule(cuda.tree.MOMENTUM, velocity, unused, unused, numbers)
    return cuda.tree.Rule(cuda.tree.SGD, unused, unused, unused, numbers)


def vector_length(dtype: str, sizes: tuple[int, ...], *moved: View) -> int:
    """Return how many numbers kernels move at once in rows of these sizes of these arrays."""
    length = int(cuda.tree.vector_length(dtype, *sizes))
    if not cuda.launch.SIMULATED:
        while any(array.address % (length * BYTES[dtype]) for array in moved):
            length //= 2
    return length
