"""Product keys on device arrays: what `ops.keys` does for GPUs."""

from __future__ import annotations

import functools
import math
from typing import Any

from .. import cuda
from .bag_cuda import check_choices, check_device_choice, choices
from .bag_trace import last_axis
from .device import BYTES, Kind, View, view
from .keys_trace import (
    KeysGradients,
    KeysTrace,
    check_keys_origin,
    check_keys_shapes,
    check_keys_width,
)
from .running import Running
from .trace import activation_code
from .tree_cuda import fill_with_zeros, gather, run_forward, store_rows
from .views import (
    KEPT,
    Meeting,
    Plan,
    Table,
    check_floats,
    check_out,
    check_samples,
    check_shaped,
)


class KeysPlan(Plan):
    """A call of product keys of which the arguments are checked.

    Its table are the keys (n_trees, 2 * n_keys, n_in / 2), its depth is k.
    """

    def __init__(
        self, keys: Table, lead: tuple[int, ...], y_vectors: tuple[int, ...], activation: int
    ) -> None:
        super().__init__(keys, lead, 2 * keys.shape[2], y_vectors[1], activation, False)
        self.n_keys, self.y_vectors_shape = keys.shape[1] // 2, y_vectors
        self.keys_shape = keys.shape[0], 2, self.n_keys, keys.shape[2]
        self.found = (keys.shape[0], keys.depth), "int64"  # rows
        self.sizes["y_vectors"] = BYTES[keys.dtype] * math.prod(y_vectors)

    def split(self, offset_x: int, offset_y: int) -> tuple[Any, Any]:
        """Return the constants of kernels that move keys, and y vectors."""
        return self.constants(self.n_in // 2, 0, offset_x), self.constants(0, self.n_out, offset_y)

    def meeting(self, layer: Any) -> Meeting:
        """Return which choices meet the y vectors, or the keys, once by each half of a sample."""
        if layer.n_in == 0:
            return choices(self, self.y_vectors_shape[:1])
        met = choices(self, self.keys_shape[:3])
        return met._replace(batch=2 * met.batch)

    def forward(self, inputs: dict[str, Any], out: Any, traces: bool) -> Any:
        """Return the forward pass for arrays at these addresses, which needs a trace."""
        halves = self.halves((inputs["x"], inputs["keys"]), (inputs["y_vectors"], out))
        n_trees, device = self.table.shape[0], self.table.device
        return cuda.keys.forward(*halves, self.n_keys, self.batch, n_trees, device), True


def forward(
    kind: Kind,
    x: Any,
    keys: Any,
    y_vectors: Any,
    k: int,
    activation: str,
    out: Any,
    return_trace: bool,
) -> Any:
    """Do what `keys_forward` says."""
    activation_code(activation)
    facts = kind.facts
    of_out = None if out is None else facts(out)
    plan = forward_plan(kind, facts(x), facts(keys), facts(y_vectors), of_out, k, activation)
    inputs = {"x": kind.address(x), "keys": kind.address(keys)}
    inputs["y_vectors"] = kind.address(y_vectors)
    y, scores, rows = run_forward(kind, plan, inputs, keys, out, return_trace)
    if not return_trace:
        return y
    return y, KeysTrace(scores, rows, activation, plan.keys_shape, plan.y_vectors_shape)


def backward(
    kind: Kind, grad_y: Any, x: Any, keys: Any, y_vectors: Any, trace: KeysTrace, sparse: bool
) -> KeysGradients:
    """Do what `keys_backward` says."""
    if not isinstance(trace, KeysTrace):
        raise TypeError(f"trace must be the KeysTrace of keys_forward, got {type(trace).__name__}")
    given = grad_y, x, keys, y_vectors, trace.scores, trace.rows
    activation_code(trace.activation)
    plan = backward_plan(kind, *map(kind.facts, given), trace.activation)
    check_keys_origin(trace, plan.keys_shape, plan.y_vectors_shape)
    table, at = plan.table, kind.address
    grad_x = kind.empty((*plan.lead, plan.n_in), table.dtype, keys)
    grad_keys = kind.empty(plan.keys_shape, table.dtype, keys)
    layer, vectors = plan.halves((at(x), at(keys), at(grad_x)), (at(y_vectors), at(grad_y)))
    with Running(kind, keys, table.device) as call:
        fill_with_zeros(call, grad_keys, table.n_bytes)
        visits = None
        if plan.batch > 0:
            place = plan.n_keys, plan.batch, table.shape[0], table.device
            run = cuda.keys.backward(layer, vectors, *place)
            of_keys, visits = run(call, *map(at, given), at(grad_x))
            one_level = layer._replace(depth=1)
            store_rows(call, plan, one_level, of_keys, grad_keys, None)
        grad_vectors, _ = gather(call, plan, vectors._replace(depth=1), visits, sparse)
    return KeysGradients(grad_x, grad_keys, grad_vectors)


@functools.lru_cache(KEPT, typed=True)  # k may be 2, but not 2.0
def forward_plan(
    kind: Kind, x: Any, keys: Any, y_vectors: Any, out: Any, k: int, activation: str
) -> KeysPlan:
    """Return the plan of a forward pass on arrays with these facts; None is no array."""
    table, vectors = _tables(kind, keys, y_vectors, k)
    lead = _lead(kind, x, table)
    if out is not None:
        check_out(out, kind, table, (*lead, vectors.shape[1]))
    return KeysPlan(table, lead, vectors.shape, activation_code(activation))


@functools.lru_cache(KEPT)
def backward_plan(
    kind: Kind,
    grad_y: Any,
    x: Any,
    keys: Any,
    y_vectors: Any,
    scores: Any,
    rows: Any,
    activation: str,
) -> KeysPlan:
    """Return the plan of a backward pass on arrays with these facts."""
    k = last_axis(view("trace.rows", rows, kind).shape)
    table, vectors = _tables(kind, keys, y_vectors, k)
    lead = _lead(kind, x, table)
    grads = check_samples("grad_y", grad_y, kind, table)
    shape = (*lead, vectors.shape[1])
    check_shaped("grad_y", grads, shape, "that of the output of x and y_vectors")
    check_choices(scores, rows, kind, table, lead)
    return KeysPlan(table, lead, vectors.shape, activation_code(activation))


def _tables(kind: Kind, keys: Any, y_vectors: Any, k: int) -> tuple[Table, View]:
    """Return keys, and y vectors that make nodes with them, of which samples choose k."""
    found = check_floats("keys", keys, kind)
    vectors = view("y_vectors", y_vectors, kind, keys[3])
    if vectors.dtype != found.dtype:
        raise TypeError(
            f"y_vectors must have the dtype of keys, {found.dtype}, got {vectors.dtype}"
        )
    n_keys = check_keys_shapes(found.shape, vectors.shape)
    n_trees, half = found.shape[0], found.shape[3]
    k = check_device_choice(k, vectors.shape[0], "y vectors")
    return Table("keys", (n_trees, 2 * n_keys, half), found.dtype, k, keys[3]), vectors


def _lead(kind: Kind, x: Any, table: Table) -> tuple[int, ...]:
    """Return the leading axes of samples that fit keys."""
    samples, (n_trees, n, half) = check_samples("x", x, kind, table), table.shape
    check_keys_width(samples.shape, (n_trees, 2, n // 2, half))
    return samples.shape[:-1]
