"""Balance on the GPU: how samples turn at the rows that they visit, counted and evened out.

As in `tree`. Rows are those of nodes or, for the biases of planes, of levels: see `paths_of`. Each
has two counts, of the samples that go left and right; integers, so that the order in which threads
add to them does not matter.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

from numba import cuda, float64, int32, int64

from .dense import add_up
from .launch import KEPT, Call, Kernel, zero
from .paths import paths_of
from .simt import REAL, fetch_add
from .soft_paths import SIGMOID, gate_of
from .tree import Operand

__all__ = ["Forest", "bias", "loss"]

#: Threads of a block, and counts of a tree that a block adds up itself: those of the first levels,
#: where many samples meet.
BLOCK, OWN = 256, 512


class Forest(NamedTuple):
    """What is known of a call before its arrays; samples turn on the first `n_levels`."""

    kind: str
    rows: str
    depth: int
    n_levels: int
    n_trees: int
    batch: int
    device: int

    @property
    def n_rows(self) -> int:
        """Rows of a tree."""
        return self.depth if self.rows == "levels" else (1 << self.depth) - 1


@functools.lru_cache(KEPT)
def loss(forest: Forest) -> Callable[..., None]:
    """Return run(...), the balance loss made ready, for rows of nodes.

    ``run(call, scores, leaves, loss, slopes, weight)`` writes the loss, times its weight, and its
    gradient, slopes (batch, n_trees, depth).
    """
    kind, depth, n_levels, device = forest.kind, forest.depth, forest.n_levels, forest.device
    n_visits = forest.batch * forest.n_trees
    n, count = n_visits * depth, counting(forest)
    weigh = weigh_turns(kind, depth, n_levels, BLOCK).bind(device, (-(-n // BLOCK), 1, 1), BLOCK)
    by_level, whole = add_up(kind, n_visits, depth, device), add_up(kind, depth, 1, device)

    def run(call: Call, *arrays: Operand) -> None:
        scores, leaves, loss, slopes, weight = arrays
        counts, each, sums = count(call, leaves), call.take(n, kind), call.take(depth, kind)
        share = weight / (n_visits * n_levels)
        weigh(call.stream, scores, leaves, counts, each, slopes, n, forest.n_trees, share)
        by_level(call, each, sums)
        whole(call, sums, loss)

    return run


@functools.lru_cache(KEPT)
def bias(forest: Forest) -> Callable[..., None]:
    """Return run(call, leaves, bias, rate), which moves the bias of each row, made ready."""
    n, count = forest.n_trees * forest.n_rows, counting(forest)
    move = move_bias(forest.kind, BLOCK).bind(forest.device, (-(-n // BLOCK), 1, 1), BLOCK)

    def run(call: Call, leaves: Operand, bias: Operand, rate: float) -> None:
        move(call.stream, count(call, leaves), bias, n, rate)

    return run


def counting(forest: Forest) -> Callable[..., Operand]:
    """Return run(call, leaves), which returns the counts of all rows."""
    n_counts, n_own = 2 * forest.n_trees * forest.n_rows, min(OWN, 2 * forest.n_rows)
    kernel = count_turns(forest.rows, forest.depth, forest.n_levels, BLOCK, n_own)
    grid = (-(-forest.batch // BLOCK), forest.n_trees, 1)
    count = kernel.bind(forest.device, grid, BLOCK)

    def run(call: Call, leaves: Operand) -> Operand:
        counts = call.take(n_counts, "int32")
        zero(call.stream, counts, 4 * n_counts)
        count(call.stream, leaves, counts, forest.batch, forest.n_trees, 2 * forest.n_rows)
        return counts

    return run


@functools.cache
def count_turns(rows, depth, n_levels, block, n_own):
    """Return the kernel that adds to the counts of each tree, of which there are `n_counts`.

    A block keeps the first n_own of them to itself until its samples are through.
    """
    (shift_of, row_of), last_leaf = paths_of(rows), (1 << depth) - 1

    def body(leaves, counts, batch, n_trees, n_counts):
        own = cuda.shared.array(n_own, int32)
        thread, t = cuda.threadIdx.x, cuda.blockIdx.y
        sample = cuda.blockIdx.x * block + thread
        for k in range(thread, n_own, block):
            own[k] = 0
        cuda.syncthreads()
        if sample < batch:
            leaf = int64(leaves[sample * n_trees + t]) & last_leaf  # stays within the tree
            for level in range(n_levels):
                right = leaf >> (depth - 1 - level) & 1
                at = 2 * row_of(0, depth, level, leaf >> shift_of(depth, level)) + right
                if at < n_own:
                    cuda.atomic.add(own, at, int32(1))
                else:
                    fetch_add(counts, t * n_counts + at, int32(1))
        cuda.syncthreads()
        for k in range(thread, n_own, block):
            if own[k] > 0:
                fetch_add(counts, t * n_counts + k, own[k])

    return Kernel(body, "float32", ("int32", "int32", "int", "int", "int"))


@functools.cache
def weigh_turns(kind, depth, n_levels, block):
    """Return the kernel that writes what each turn adds to the loss, and its gradient.

    Both are multiplied by `share`, and zero below the levels on which samples turn.
    """
    (shift_of, row_of), last_leaf = paths_of("nodes"), (1 << depth) - 1
    (shares, slope), real = gate_of(kind, SIGMOID), REAL[kind]

    def body(scores, leaves, counts, found, slopes, n, n_trees, share):
        i = cuda.blockIdx.x * block + cuda.threadIdx.x
        if i < n:
            visit, level = i // depth, i % depth
            term, rise = real(0), real(0)
            if level < n_levels:
                leaf, score = int64(leaves[visit]) & last_leaf, scores[i]
                row = row_of(visit % n_trees, depth, level, leaf >> shift_of(depth, level))
                lefts, rights = counts[2 * row], counts[2 * row + 1]
                tilt = real(share) * real(rights - lefts) / real(rights + lefts)
                left, right = shares(score)
                term = real(share) + tilt * (right - left)
                rise = real(2) * tilt * slope(score, left, right)
            found[i] = term
            slopes[i] = rise

    signature = ("real", "int32", "int32", "real", "real", "int", "int", "float")
    return Kernel(body, kind, signature)


@functools.cache
def move_bias(kind, block):
    """Return the kernel that moves the bias of each row by `rate`, away from the fuller side."""
    real = REAL[kind]

    def body(counts, bias, n, rate):
        row = cuda.blockIdx.x * block + cuda.threadIdx.x
        if row < n:
            lefts, rights = counts[2 * row], counts[2 * row + 1]
            if lefts < rights:
                bias[row] = real(float64(bias[row]) - rate)
            elif lefts > rights:
                bias[row] = real(float64(bias[row]) + rate)

    return Kernel(body, kind, ("int32", "real", "int", "float"))
