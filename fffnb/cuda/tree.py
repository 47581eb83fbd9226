"""The tree on the GPU: the kernels of `tree_walk`, `tree_backward` and `tree_mix` put to work.

Arguments are checked by the caller. A pass is made ready once for each layer and batch: what it
returns, ``run(call, ...)``, only starts kernels. Arrays are addresses of contiguous memory (flat
arrays in the simulator) with one batch axis; a `Call` has the stream and gives scratch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeVar

from .launch import KEPT, Call, has_clusters, zero
from .layer import SHARE, SMALL_SHARE, Layer
from .order import sort_by_leaf
from .simt import BYTES, real_of, vector_length
from .tree_backward import fitting_group, slopes
from .tree_leap import blocks_of, leap
from .tree_mix import mix, slices
from .tree_walk import PLACED, place, scout, walk

__all__ = ["Layer", "Visits", "backward", "by_batch", "forward", "real_of", "vector_length"]

#: Samples, and bytes of a tree that does not stay in the second-level cache, from which the forward
#: pass has two stages.
SWEEP_FROM, SWEEP_BYTES = 4096, 64_000_000

#: Samples up to which the forward pass leaps, where one block takes each; blocks, where several do.
LEAP_BATCH, LEAP_BLOCKS = 128, 64

#: Samples from which a batch fills the device.
LARGE_BATCH = 4096

#: Samples whose grad_x, and whose slopes, one team takes: few where the batch is small and would
#: not fill the device, many where they share rows.
MIX_GROUPS = {1: 1, 2048: 2, 8192: 4}
SLOPE_GROUPS = {1: 1, 8192: 4}

Form = Literal["leap", "walk", "sweep"]

FORMS: tuple[Form, ...] = ("leap", "walk", "sweep")

#: Chosen form of the forward pass, for tests and benchmarks; None leaves it to `choose`.
forced: Form | None = None

Operand = Any  # an address; a flat array in the simulator
T = TypeVar("T")


class Visits(NamedTuple):
    """Who visited which node, with which weight in the gradient: see `tree_steps`."""

    keys: Operand
    slopes: Operand
    scores: Operand
    x: Operand
    grad_y: Operand


def by_batch(table: dict[int, T], batch: int) -> T:
    """Return the entry of a table for the largest of its batches that is not above `batch`."""
    return table[max(least for least in table if least <= batch)]


def held(batch: int) -> int:
    """Return how many numbers of a row a thread of a walk holds, at most."""
    return SMALL_SHARE if batch < LARGE_BATCH else SHARE


def choose(layer: Layer, batch: int, n_trees: int, device: int) -> Form:
    """Return the form of the forward pass: as forced, where the layer and the device have it."""
    if forced not in (None, *FORMS):
        raise ValueError(f"forced must be None or one of {', '.join(FORMS)}, got {forced!r}")
    blocks = blocks_of(max(layer.n_in, layer.n_out))
    leaps = blocks == 1 or (blocks > 1 and has_clusters(device))
    sweeps = n_trees == 1 and layer.depth > 1
    if forced is not None:
        return forced if {"leap": leaps, "sweep": sweeps}.get(forced, True) else "walk"
    if leaps and batch <= (LEAP_BATCH if blocks == 1 else LEAP_BLOCKS // blocks):
        return "leap"
    large = layer.n_nodes * layer.width * BYTES[layer.kind] >= SWEEP_BYTES
    return "sweep" if sweeps and large and batch >= SWEEP_FROM else "walk"


def forward(
    layer: Layer, batch: int, n_trees: int, device: int, *, traces: bool
) -> tuple[Callable[..., None], bool]:
    """Return run(...), a forward pass made ready, and whether it needs a trace.

    ``run(call, x, nodes, bias, scores, leaves, y)`` writes y (batch, n_out) and, if it traces,
    scores (batch, n_trees, depth) and leaves (batch, n_trees).
    """
    return _forward(layer, batch, n_trees, device, traces, forced)


@functools.lru_cache(KEPT)
def _forward(
    layer: Layer, batch: int, n_trees: int, device: int, traces: bool, forced: str | None
) -> tuple[Callable[..., None], bool]:
    """Return what `forward` does, kept apart by what is `forced`."""
    form = choose(layer, batch, n_trees, device)
    if form == "sweep":
        return _sweep(layer, batch, device), True
    if form == "leap":
        return _leap(layer, batch, n_trees, device, traces), traces
    kernel, threads, teams = walk(layer, held(batch), 0, traces)
    start = kernel.bind(device, (-(-batch // teams), 1, 1), threads)

    def run(call: Call, x: Operand, nodes: Operand, bias: Operand, *found: Operand) -> None:
        scores, leaves, y = found
        start(call.stream, x, nodes, bias, leaves, scores, leaves, y, batch, n_trees)

    return run, traces


def _leap(layer: Layer, batch: int, n_trees: int, device: int, traces: bool) -> Callable[..., None]:
    """Return run(...), which goes down the trees several levels at once."""
    blocks = blocks_of(max(layer.n_in, layer.n_out))
    kernel, threads = leap(layer, blocks, traces)
    start = kernel.bind(device, (batch * blocks, 1, 1), threads)

    def run(call: Call, x: Operand, nodes: Operand, bias: Operand, *found: Operand) -> None:
        start(call.stream, x, nodes, bias, *found, n_trees)

    return run


def _sweep(layer: Layer, batch: int, device: int) -> Callable[..., None]:
    """Return run(...), which goes down one tree in two stages."""
    top = layer.depth // 2
    kernel, threads, teams = scout(layer, held(batch), top)
    down = kernel.bind(device, (-(-batch // teams), 1, 1), threads)
    arrange = place(top, PLACED).bind(device, (-(-batch // PLACED), 1, 1), PLACED)
    kernel, threads, teams = walk(layer, held(batch), top, True)
    on = kernel.bind(device, (-(-batch // teams), 1, 1), threads)

    def run(call: Call, x: Operand, nodes: Operand, bias: Operand, *found: Operand) -> None:
        scores, leaves, y = found
        ranks, counts = call.take(batch, "int32"), call.take(1 << top, "int32")
        order = call.take(batch, "int32")
        zero(call.stream, counts, 4 << top)
        down(call.stream, x, nodes, bias, scores, leaves, ranks, counts, batch)
        arrange(call.stream, leaves, ranks, counts, order, batch)
        on(call.stream, x, nodes, bias, order, scores, leaves, y, batch, 1)

    return run


@functools.lru_cache(KEPT)
def backward(
    layer: Layer,
    batch: int,
    n_trees: int,
    device: int,
    planes: Layer | None = None,
    *,
    adds: bool = False,
) -> Callable[..., Visits]:
    """Return run(...), the first half of a backward pass made ready.

    ``run(call, grad_y, x, nodes, scores, leaves, grad_x, table, added)`` writes grad_x
    (batch, n_in) and returns the visits of which `steps` takes the rows. Where a layer of `planes`
    has the x vectors, one for each level, `table` are these, else the nodes. If it `adds`, `added`,
    shaped like the scores, is part of their gradient.
    """
    sort = sort_by_leaf(batch, n_trees, layer.n_nodes, device)
    n_scores, real = batch * n_trees * layer.depth, real_of(layer.kind)
    group = fitting_group(layer, by_batch(SLOPE_GROUPS, batch))
    kernel, threads, samples = slopes(layer, group, adds)
    slope = kernel.bind(device, (-(-batch // samples), n_trees, 1), threads)
    own, group = planes or layer, by_batch(MIX_GROUPS, batch)
    kernel, threads, samples = mix(own, group)
    n_slices, _ = slices(own.n_in, own.length, group)
    mixed = kernel.bind(device, (-(-batch // samples), n_slices, 1), threads)

    def run(call: Call, *arrays: Operand) -> Visits:
        grad_y, x, nodes, scores, leaves, grad_x, table, added = arrays
        keys, found = sort(call, leaves), call.take(n_scores, real)
        slope(call.stream, keys, scores, grad_y, nodes, added, found, batch, n_trees)
        mixed(call.stream, keys, leaves, found, table, grad_x, batch, n_trees)
        return Visits(keys, found, scores, x, grad_y)

    return run
