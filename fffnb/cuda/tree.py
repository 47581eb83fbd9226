"""The tree on the GPU: the kernels of `tree_walk`, `tree_mix` and `tree_backward` put to work.

Arguments are checked by the caller. Arrays are addresses of contiguous memory (flat arrays in the
simulator) with one batch axis; a `Call` says where kernels run and gives them scratch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from .launch import Call, zero
from .layer import SHARE, SMALL_SHARE, Layer
from .order import sort_by_leaf
from .rows import BLOCK as RUN_BLOCK
from .rows import count_visits, list_rows, number_runs
from .simt import BYTES, real_of, vector_length
from .tree_backward import (
    chunk_columns,
    fitting_chunk,
    fitting_group,
    n_columns,
    slopes,
    step_chunks,
    step_parts,
)
from .tree_mix import mix, slices
from .tree_walk import PLACED, place, scout, walk
from .update import ADAMW, BLOCK, MOMENTUM, NUMBERS, SGD, STORE, count_rows, update_rows

__all__ = [
    "ADAMW",
    "MOMENTUM",
    "SGD",
    "Call",
    "Layer",
    "Rule",
    "backward",
    "forward",
    "gather",
    "list_visits",
    "n_places",
    "real_of",
    "step_rows",
    "update",
    "update_bias",
    "vector_length",
]

#: Samples, and bytes of a tree that does not stay in the second-level cache, from which the forward
#: pass has two stages.
SWEEP_FROM, SWEEP_BYTES = 4096, 64_000_000

#: Samples from which a batch fills the device.
LARGE_BATCH = 4096

#: Samples whose grad_x, and whose slopes, one team takes: few where the batch is small and would
#: not fill the device, many where they share rows.
MIX_GROUPS = {1: 1, 2048: 2, 8192: 4}
SLOPE_GROUPS = {1: 1, 8192: 4}

#: Samples of a chunk whose rows one block sums.
CHUNKS = {1: 4, 512: 8, 2048: 16, 8192: 64, 16384: 128}

#: Threads of a block that lists rows.
LIST_BLOCK = 256

#: Chosen form of the forward pass, for tests and benchmarks; None leaves it to `choose`.
forced: Literal["walk", "sweep"] | None = None

Operand = Any  # an address; a flat array in the simulator


class Rule(NamedTuple):
    """An optimiser step: its kind, numbers, and state arrays."""

    kind: int
    first: Operand
    second: Operand
    steps: Operand
    numbers: tuple[float, ...]

    def arguments(self) -> tuple[Any, ...]:
        """Return what kernels take."""
        missing = NUMBERS - len(self.numbers)
        return self.first, self.second, self.steps, *self.numbers, *[0.0] * missing


class Visits(NamedTuple):
    """Who visited which node, with which weight in the gradient: see `tree_backward`."""

    keys: Operand
    slopes: Operand
    scores: Operand
    x: Operand
    grad_y: Operand
    batch: int
    n_trees: int


def by_batch(table: dict[int, int], batch: int) -> int:
    """Return the entry of a table for the largest of its batches that is not above `batch`."""
    return table[max(least for least in table if least <= batch)]


def held(batch: int) -> int:
    """Return how many numbers of a row a thread of a walk holds, at most."""
    return SMALL_SHARE if batch < LARGE_BATCH else SHARE


def choose(layer: Layer, batch: int, n_trees: int) -> Literal["walk", "sweep"]:
    """Return the form of the forward pass; both give the same bits."""
    if forced not in (None, "walk", "sweep"):
        raise ValueError(f"forced must be None, 'walk' or 'sweep', got {forced!r}")
    if n_trees > 1 or layer.depth < 2:
        return "walk"
    large = layer.n_nodes * layer.width * BYTES[layer.kind] >= SWEEP_BYTES
    return forced or ("sweep" if batch >= SWEEP_FROM and large else "walk")


def forward(
    layer: Layer, batch: int, n_trees: int, device: int, *, traces: bool
) -> tuple[Callable[..., None], bool]:
    """Return run(...), a forward pass made ready, and whether it needs a trace.

    ``run(call, x, nodes, bias, scores, leaves, y)`` writes y (batch, n_out) and, if it traces,
    scores (batch, n_trees, depth) and leaves (batch, n_trees).
    """
    if choose(layer, batch, n_trees) == "sweep":
        return functools.partial(_sweep, layer, batch), True
    kernel, threads, teams = walk(layer, held(batch), 0, traces)
    start = kernel.bind(device, (-(-batch // teams), 1, 1), threads)

    def run(call: Call, x: Operand, nodes: Operand, bias: Operand, *found: Operand) -> None:
        scores, leaves, y = found
        start(call.stream, x, nodes, bias, leaves, scores, leaves, y, batch, n_trees)

    return run, traces


def _sweep(
    layer: Layer,
    batch: int,
    call: Call,
    x: Operand,
    nodes: Operand,
    bias: Operand,
    scores: Operand,
    leaves: Operand,
    y: Operand,
) -> None:
    """Go down one tree in two stages."""
    top = layer.depth // 2
    ranks, counts = call.take(batch, "int32"), call.take(1 << top, "int32")
    order = call.take(batch, "int32")
    zero(call.stream, counts, 4 << top)
    kernel, threads, teams = scout(layer, held(batch), top)
    grid = (-(-batch // teams), 1, 1)
    call(kernel, grid, threads, x, nodes, bias, scores, leaves, ranks, counts, batch)
    grid = (-(-batch // PLACED), 1, 1)
    call(place(top, PLACED), grid, PLACED, leaves, ranks, counts, order, batch)
    kernel, threads, teams = walk(layer, held(batch), top, True)
    grid = (-(-batch // teams), 1, 1)
    call(kernel, grid, threads, x, nodes, bias, order, scores, leaves, y, batch, 1)


def backward(
    call: Call,
    layer: Layer,
    batch: int,
    n_trees: int,
    grad_y: Operand,
    x: Operand,
    nodes: Operand,
    scores: Operand,
    leaves: Operand,
    grad_x: Operand,
) -> Visits:
    """Write grad_x (batch, n_in) and return the visits that `gather` and `update` take."""
    keys = sort_by_leaf(call, leaves, batch, n_trees, layer.n_nodes)
    found = call.take(batch * n_trees * layer.depth, real_of(layer.kind))
    kernel, threads, samples = slopes(layer, fitting_group(layer, by_batch(SLOPE_GROUPS, batch)))
    grid = (-(-batch // samples), n_trees, 1)
    call(kernel, grid, threads, keys, scores, grad_y, nodes, found, batch, n_trees)
    group = by_batch(MIX_GROUPS, batch)
    kernel, threads, samples = mix(layer, group)
    grid = (-(-batch // samples), slices(layer.n_in, layer.length, group)[0], 1)
    call(kernel, grid, threads, keys, leaves, found, nodes, grad_x, batch, n_trees)
    return Visits(keys, found, scores, x, grad_y, batch, n_trees)


def n_places(depth: int, batch: int, n_trees: int) -> int:
    """Return how many rows a batch may visit."""
    return n_trees * sum(min(1 << level, batch) for level in range(depth))


def list_visits(call: Call, layer: Layer, visits: Visits, rows: Operand, count: Operand) -> Operand:
    """List the visited rows, and return the place of each sample's rows among them."""
    batch, n_trees = visits.batch, visits.n_trees
    slots = call.take(n_trees * layer.depth * batch, "int64")
    counts = call.take(n_trees * layer.depth, "int64")
    grid = (layer.depth, n_trees, 1)
    call(number_runs(RUN_BLOCK), grid, RUN_BLOCK, visits.keys, slots, counts, batch, layer.depth)
    places = n_places(layer.depth, batch, n_trees)
    call(
        list_rows(LIST_BLOCK),
        (-(-batch // LIST_BLOCK), layer.depth, n_trees),
        LIST_BLOCK,
        visits.keys,
        slots,
        counts,
        rows,
        count,
        batch,
        layer.depth,
        places,
    )
    return slots


def gather(
    call: Call,
    layer: Layer,
    visits: Visits,
    table: Operand,
    bias: Operand,
    slots: Operand = None,
) -> None:
    """Write the gradients of the visited rows to those of `table`, or, by `slots`, one by one."""
    unused = visits.keys
    rule = Rule(STORE, unused, unused, unused, ())
    _step(call, layer, visits, table, bias, rule, slots)


def update(
    call: Call, layer: Layer, visits: Visits, nodes: Operand, bias: Operand, rule: Rule
) -> None:
    """Take one optimiser step on each visited row of `nodes`; `bias` receives its gradient."""
    if rule.kind == ADAMW:
        call(
            count_visits(LIST_BLOCK),
            (-(-visits.batch // LIST_BLOCK), layer.depth, visits.n_trees),
            LIST_BLOCK,
            visits.keys,
            rule.steps,
            visits.batch,
            layer.depth,
        )
    _step(call, layer, visits, nodes, bias, rule, None)


def _step(
    call: Call,
    layer: Layer,
    visits: Visits,
    table: Operand,
    bias: Operand,
    rule: Rule,
    slots: Operand,
) -> None:
    """Step the visited rows of `table` by their gradients."""
    batch, n_trees = visits.batch, visits.n_trees
    chunk, sparse = fitting_chunk(layer, by_batch(CHUNKS, batch)), slots is not None
    n_chunks = -(-batch // chunk)
    bias = visits.keys if bias is None else bias
    parts = call.take(2 * n_trees * n_chunks * layer.depth * n_columns(layer), real_of(layer.kind))
    slots = slots if sparse else visits.keys
    kernel, threads = step_chunks(layer, rule.kind, chunk, sparse)
    call(
        kernel,
        (n_chunks, chunk_columns(layer, chunk)[0], n_trees),
        threads,
        visits.keys,
        visits.slopes,
        visits.scores,
        visits.x,
        visits.grad_y,
        slots,
        parts,
        table,
        bias,
        batch,
        n_trees,
        *rule.arguments(),
    )
    if n_chunks == 1:
        return
    kernel, threads, blocks = step_parts(layer, rule.kind, chunk, sparse)
    call(
        kernel,
        (n_chunks, n_trees * layer.depth, blocks),
        threads,
        visits.keys,
        slots,
        parts,
        table,
        bias,
        batch,
        n_chunks,
        *rule.arguments(),
    )


def update_bias(
    call: Call, layer: Layer, visits: Visits, bias: Operand, gradient: Operand, rule: Rule
) -> None:
    """Take one optimiser step on the bias of each visited node; `gradient` has one for each."""
    n_rows = n_places(layer.depth, visits.batch, visits.n_trees)
    rows, count = call.take(n_rows, "int64"), call.take(1, "int64")
    list_visits(call, layer, visits, rows, count)
    step_rows(call, rule, layer.kind, 1, bias, rows, gradient, n_rows, 1, by_place=False)


def step_rows(
    call: Call,
    rule: Rule,
    kind: str,
    length: int,
    table: Operand,
    rows: Operand,
    gradients: Operand,
    n_rows: int,
    width: int,
    *,
    by_place: bool = True,
) -> None:
    """Take one optimiser step on each table[rows[r]] with gradients[r].

    Unless they go `by_place`, its gradient is gradients[rows[r]].
    """
    if rule.kind == ADAMW:
        grid = (-(-n_rows // BLOCK), 1, 1)
        call(count_rows(), grid, BLOCK, rows, rule.steps, n_rows)
    kernel, grid = update_rows(rule.kind, kind, length, by_place), (n_rows, 1, 1)
    call(kernel, grid, BLOCK, table, rows, gradients, width, *rule.arguments())
