"""The flat form on the GPU: the kernels of `flat_walk` score, those of the tree mix and sum.

As in `tree`. A layer comes in two halves: `planes`, with rows of levels, has no outputs, `vectors`,
with rows of nodes or of patterns, no inputs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from .flat_walk import Tile, descend, fitting_tile, walk
from .launch import KEPT, Call
from .layer import Layer
from .tree import Operand, Visits, by_batch
from .tree import backward as tree_backward
from .tree_mix import mix, slices

__all__ = ["backward", "forward"]

#: Samples from which the forward pass has two stages: first all scores, then all outputs.
SWEEP_FROM = 512

#: Tiles in which samples are scored: small ones where a batch would not fill the device.
TILES = {
    1: Tile(group=1, reads=2, teams=8, parts=4),
    1024: Tile(group=2, reads=2, teams=8, parts=2),
    4096: Tile(group=2, reads=1, teams=2, parts=1),
    8192: Tile(group=4, reads=1, teams=2, parts=1),
}


def forward(
    planes: Layer, vectors: Layer, batch: int, n_trees: int, device: int, *, traces: bool
) -> tuple[Callable[..., None], bool]:
    """Return run(...), a forward pass made ready, and whether it needs a trace.

    ``run(call, x, planes, y_vectors, bias, scores, leaves, y)`` writes y (batch, n_out) and, if it
    traces, scores (batch, n_trees, depth) and leaves (batch, n_trees).
    """
    if batch < SWEEP_FROM:
        return _walk(planes, vectors, batch, n_trees, device, traces), traces
    return _sweep(planes, vectors, batch, n_trees, device), True


def backward(
    planes: Layer, vectors: Layer, batch: int, n_trees: int, device: int, *, adds: bool
) -> Callable[..., Visits]:
    """Return run(...), the first half of a backward pass made ready.

    ``run(call, grad_y, x, y_vectors, scores, leaves, grad_x, planes, added)`` does what that of the
    tree does; `steps` takes the rows of both halves.
    """
    return tree_backward(vectors, batch, n_trees, device, planes, adds=adds)


@functools.lru_cache(KEPT)
def _walk(
    planes: Layer, vectors: Layer, batch: int, n_trees: int, device: int, traces: bool
) -> Callable[..., None]:
    """Return run(...), which takes one sample a block."""
    kernel, threads = walk(planes, vectors, traces)
    start = kernel.bind(device, (batch, 1, 1), threads)

    def run(call: Call, *arrays: Operand) -> None:
        start(call.stream, *arrays, n_trees)

    return run


@functools.lru_cache(KEPT)
def _sweep(
    planes: Layer, vectors: Layer, batch: int, n_trees: int, device: int
) -> Callable[..., None]:
    """Return run(...), which scores all samples, then mixes their outputs."""
    tile = fitting_tile(planes, by_batch(TILES, batch))
    kernel, threads, samples = descend(planes, tile)
    down = kernel.bind(device, (-(-batch // samples), n_trees, 1), threads)
    kernel, threads, samples = mix(vectors, 1, forward=True)
    n_slices, _ = slices(vectors.n_out, vectors.length, 1)
    mixed = kernel.bind(device, (-(-batch // samples), n_slices, 1), threads)

    def run(call: Call, *arrays: Operand) -> None:
        x, table, y_vectors, bias, scores, leaves, y = arrays
        down(call.stream, x, table, bias, scores, leaves, batch, n_trees)
        mixed(call.stream, leaves, leaves, scores, y_vectors, y, batch, n_trees)  # needs no keys

    return run
