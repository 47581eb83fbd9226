"""Rows on the GPU: the kernels of `rows`, `tree_steps` and `update` put to work, as in `tree`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from .launch import KEPT, Call
from .layer import Layer
from .rows import BLOCK as RUN_BLOCK
from .rows import count_visits, list_rows, number_runs
from .simt import real_of
from .tree import Operand, Visits, by_batch
from .tree_steps import chunk_columns, fitting_chunk, n_columns, step_chunks, step_parts
from .update import ADAMW, BLOCK, MOMENTUM, NUMBERS, SGD, STORE, count_rows, update_rows

__all__ = ["ADAMW", "MOMENTUM", "SGD", "Rule", "list_visits", "n_places", "step_bias"]
__all__ += ["step_rows", "step_visited", "store"]

#: Samples of a chunk whose rows one block sums.
CHUNKS = {1: 4, 512: 8, 2048: 16, 8192: 64, 16384: 128}

#: Threads of a block that lists rows.
LIST_BLOCK = 256


class Rule(NamedTuple):
    """An optimiser step: its kind, its state arrays and its numbers, filled up with zeros."""

    kind: int
    first: Operand
    second: Operand
    steps: Operand
    numbers: tuple[float, ...]

    @classmethod
    def of(cls, kind: int, state: tuple[Operand, Operand, Operand], numbers: Any) -> Rule:
        """Return the rule with these numbers."""
        return cls(kind, *state, (*numbers, *[0.0] * (NUMBERS - len(numbers))))


def store(unused: Operand) -> Rule:
    """Return the rule that writes a gradient itself."""
    return Rule.of(STORE, (unused, unused, unused), ())


def n_places(layer: Layer, batch: int, n_trees: int) -> int:
    """Return how many rows a batch may visit."""
    return n_trees * sum(min(layer.rows_on(level), batch) for level in range(layer.depth))


@functools.lru_cache(KEPT)
def list_visits(
    rows: str | int, depth: int, batch: int, n_trees: int, places: int, device: int
) -> Callable[..., Operand]:
    """Return run(call, keys, listed, count), which lists the visited `rows` in so many `places`.

    It returns the place of each sample's rows among them.
    """
    number = number_runs(rows, RUN_BLOCK).bind(device, (depth, n_trees, 1), RUN_BLOCK)
    grid = (-(-batch // LIST_BLOCK), depth, n_trees)
    listing, n_runs = list_rows(rows, LIST_BLOCK).bind(device, grid, LIST_BLOCK), n_trees * depth

    def run(call: Call, keys: Operand, listed: Operand, count: Operand) -> Operand:
        slots, counts = call.take(n_runs * batch, "int64"), call.take(n_runs, "int64")
        number(call.stream, keys, slots, counts, batch, depth)
        listing(call.stream, keys, slots, counts, listed, count, batch, depth, places)
        return slots

    return run


@functools.lru_cache(KEPT)
def step_visited(
    layer: Layer, batch: int, n_trees: int, device: int, kind: int, by_slot: bool, per: int = 1
) -> Callable[..., None]:
    """Return run(call, visits, table, bias, rule, slots), which steps the visited rows of a table.

    `bias` receives its gradient. Rows may go `by_slot`, and `per` samples are one row of x: see
    `step_chunks`.
    """
    real, depth = real_of(layer.kind), layer.depth
    chunk = fitting_chunk(layer, by_batch(CHUNKS, batch))
    n_chunks = -(-batch // chunk)
    n_parts = 2 * n_trees * n_chunks * depth * n_columns(layer)
    kernel, threads = step_chunks(layer, kind, chunk, by_slot, per)
    grid = (n_chunks, chunk_columns(layer, chunk)[0], n_trees)
    chunks = kernel.bind(device, grid, threads)
    kernel, threads, blocks = step_parts(layer, kind, chunk, by_slot)
    parts = kernel.bind(device, (n_chunks, n_trees * depth, blocks), threads)
    grid = (-(-batch // LIST_BLOCK), depth, n_trees)
    count = count_visits(layer.rows, LIST_BLOCK).bind(device, grid, LIST_BLOCK)

    def run(
        call: Call, visits: Visits, table: Operand, bias: Operand, rule: Rule, slots: Operand
    ) -> None:
        keys, slopes, scores, x, grad_y = visits
        room, step = call.take(n_parts, real), (*rule[1:4], *rule.numbers)
        if kind == ADAMW:
            count(call.stream, keys, rule.steps, batch, depth)
        of_rows = slots, room, table, bias, batch
        chunks(call.stream, keys, slopes, scores, x, grad_y, *of_rows, n_trees, *step)
        if n_chunks > 1:
            parts(call.stream, keys, *of_rows, n_chunks, *step)

    return run


@functools.lru_cache(KEPT)
def step_bias(
    layer: Layer, batch: int, n_trees: int, device: int, kind: int
) -> Callable[..., None]:
    """Return run(call, keys, bias, gradient, rule), which steps the bias of each visited row.

    `gradient` has one number for each row.
    """
    n_rows = n_places(layer, batch, n_trees)
    listed = list_visits(layer.rows, layer.depth, batch, n_trees, n_rows, device)
    step = step_rows(layer.kind, 1, n_rows, 1, device, kind, False)

    def run(call: Call, keys: Operand, bias: Operand, gradient: Operand, rule: Rule) -> None:
        rows, count = call.take(n_rows, "int64"), call.take(1, "int64")
        listed(call, keys, rows, count)
        step(call, bias, rows, gradient, rule)

    return run


@functools.lru_cache(KEPT)
def step_rows(
    dtype: str, length: int, n_rows: int, width: int, device: int, kind: int, by_place: bool
) -> Callable[..., None]:
    """Return run(call, table, rows, gradients, rule), which steps each table[rows[r]].

    Its gradient is gradients[r] if they go `by_place`, else gradients[rows[r]].
    """
    kernel = update_rows(kind, dtype, length, by_place)
    update = kernel.bind(device, (n_rows, 1, 1), BLOCK)
    count = count_rows().bind(device, (-(-n_rows // BLOCK), 1, 1), BLOCK)

    def run(call: Call, table: Operand, rows: Operand, gradients: Operand, rule: Rule) -> None:
        if kind == ADAMW:
            count(call.stream, rows, rule.steps, n_rows)
        update(call.stream, table, rows, gradients, width, *rule[1:4], *rule.numbers)

    return run
