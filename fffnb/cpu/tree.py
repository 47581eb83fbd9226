"""The tree on the CPU: the kernels of `tree_walk`, `tree_sweep` and `tree_backward` put to work.

Arguments are checked, C-contiguous and flattened to one batch axis by the caller; `nodes` is
(n_trees, n_nodes, n_in + n_out), `bias` (n_trees, n_nodes) or None, `activation` a code.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .. import buffers
from . import jit, tree_backward, tree_sweep, tree_walk
from . import update as row_update

Array = NDArray[Any]

#: Bytes of x and y, and of nodes, from which the forward pass is a sweep.
SWEEP_FROM = 32_000_000, 16_000_000

#: Levels between two sorts of the batch: the rows of so many fit the second-level cache.
LEVELS = 6

#: Samples that a thread takes at a time, at most.
CHUNK = 128

#: Bytes of an output that is written past the caches, which it would only sweep clean.
STREAM_FROM = 8_000_000

#: Bytes of the inputs and gradients of samples whose rows one thread sums.
STEP_BYTES = 400_000

#: Chosen form of the forward pass, for tests and benchmarks; None leaves it to `choose`.
forced: Literal["walk", "sweep"] | None = None


class Visits:
    """Who visited which node, with which weight in the gradient.

    Attributes
    ----------
    order, ends : ndarray, int64 and int32, shape (n_trees, batch)
        The samples of each tree, sorted by leaf, and their leaves.
    slopes, coefs : ndarray, shape (batch, n_trees, depth)
        Gradient of each score, and act(score).
    patterns : bool
        Whether there is a row for each leaf and level, not for each node.
    chunk, n_chunks : int
        The number of samples whose rows one thread sums, and that of such chunks.
    """

    def __init__(
        self, leaves: Array, slopes: Array, coefs: Array, width: int, *, patterns: bool = False
    ) -> None:
        self.order = sort(leaves.T, slopes.shape[2])
        self.ends = leaves[self.order, np.arange(leaves.shape[1])[:, None]]
        self.slopes, self.coefs, self.patterns = slopes, coefs, patterns
        fit = STEP_BYTES // (width * slopes.itemsize)
        self.chunk = max(8, min(128, fit, len(leaves) // 32))
        self.n_chunks = -(-len(leaves) // self.chunk)

    @functools.cached_property
    def _listed(self) -> tuple[Array, Array]:
        batch, n_trees, depth = self.slopes.shape
        levels = [depth] * depth if self.patterns else range(depth)
        most = n_trees * sum(min(2**level, batch) for level in levels)
        rows = buffers.empty(most, np.int64)
        slots = buffers.empty((n_trees, self.n_chunks, depth), np.int64)
        n_rows = tree_backward.list_rows.serial(self.ends, self.chunk, self.patterns, rows, slots)
        return rows[:n_rows], slots

    @property
    def rows(self) -> Array:
        """The visited rows of the forest, ascending."""
        return self._listed[0]

    @property
    def slots(self) -> Array:
        """The place among `rows` of the first row of each chunk, (n_trees, n_chunks, depth)."""
        return self._listed[1]

    @functools.cached_property
    def bias_gradient(self) -> Array:
        """The gradient of the bias of each visited row."""
        bias = buffers.empty(len(self.rows), self.slopes.dtype)
        tree_backward.sum_bias.serial(self.ends, self.order, self.slopes, bias)
        return bias


def forward(
    x: Array,
    nodes: Array,
    bias: Array | None,
    activation: int,
    scores: Array,
    leaves: Array,
    y: Array,
) -> None:
    """Write scores (batch, n_trees, depth), leaves (batch, n_trees) and y (batch, n_out)."""
    if len(x) == 0:
        return
    run = walk if choose(x.nbytes + y.nbytes, nodes.nbytes) == "walk" else sweep
    table = nodes.reshape(-1, nodes.shape[2])
    work = work_of(scores, x, y)
    run(work, x, table, as_row(bias, nodes.dtype), activation, scores, leaves, y)


def as_row(bias: Array | None, dtype: np.dtype[Any]) -> Array:
    """Return a bias as kernels take it, on one axis, which is empty without a bias."""
    return _no_bias(dtype) if bias is None else bias.reshape(-1)


@functools.cache
def _no_bias(dtype: np.dtype[Any]) -> Array:
    return np.empty(0, dtype)


def choose(sample_bytes: int, node_bytes: int) -> Literal["walk", "sweep"]:
    """Return the form of a forward pass, given the bytes of x and y and those of the nodes.

    Both give the same bits.
    """
    if forced not in (None, "walk", "sweep"):
        raise ValueError(f"forced must be None, 'walk' or 'sweep', got {forced!r}")
    large = sample_bytes >= SWEEP_FROM[0] and node_bytes >= SWEEP_FROM[1]
    return forced or ("sweep" if large else "walk")


def walk(
    work: int,
    x: Array,
    table: Array,
    bias: Array,
    activation: int,
    scores: Array,
    leaves: Array,
    y: Array,
) -> None:
    """Send samples as they come; arguments as those of the kernel."""
    chunk, streamed, found, coefs, rows, room = scratch(work, scores, y)
    tree_walk.forward(
        work,
        x,
        table,
        bias,
        activation,
        chunk,
        scores,
        leaves,
        found,
        coefs,
        rows,
        room,
        streamed,
        y,
    )


def sweep(
    work: int,
    x: Array,
    table: Array,
    bias: Array,
    activation: int,
    scores: Array,
    leaves: Array,
    y: Array,
) -> None:
    """Send samples in the order of the nodes reached; arguments as those of `walk`."""
    batch, n_trees, depth = scores.shape
    chunk, streamed, found, coefs, rows, room = scratch(work, scores, y)
    leaves[...] = 0
    for t in range(n_trees):
        order = np.arange(batch)
        for first, stop in itertools.pairwise(stages(depth)):
            if first > 0:
                order = sort(leaves[:, t], first)
            tree_sweep.descend_in_order(
                work // 2,
                x,
                table,
                bias,
                t,
                first,
                stop,
                order,
                chunk,
                found,
                scores,
                leaves,
                False,
            )
    tree_sweep.mix_in_order(
        work // 2,
        sort(leaves[:, 0], depth),
        chunk,
        table,
        False,
        activation,
        scores,
        leaves,
        coefs,
        rows,
        x.shape[1],
        room,
        streamed,
        y,
    )


def sort(places: Array, level: int) -> Array:
    """Return the order of samples by their places on a level."""
    short = places.astype(np.min_scalar_type(2**level - 1))
    return np.argsort(short, axis=-1, kind="stable")  # a radix sort up to 16 bits


def scratch(work: int, scores: Array, out: Array) -> tuple[int, bool, Array, Array, Array, Array]:
    """Return how many samples a thread takes at a time, if it writes past the caches, and scratch.

    For each chunk that is room for sums, for weights and rows of four paths, for four outputs.
    """
    batch, n_trees, depth = scores.shape
    chunk = chunk_of(batch, work)
    n_paths = 4 * -(-batch // chunk)
    streamed = chunk > 1 and goes_past_caches(out)
    found = buffers.empty((n_paths // 4, 16), scores.dtype)
    weights = buffers.empty((n_paths, n_trees * depth), scores.dtype)
    rows = buffers.empty(weights.shape, np.int64)
    room = buffers.empty((n_paths if streamed else 0, out.shape[1]), out.dtype)
    return chunk, streamed, found, weights, rows, room


def chunk_of(batch: int, work: int) -> int:
    """Return how many samples a thread takes at a time: fours, or one if there are too few."""
    threads = jit.threads_for(work)
    if batch < 4 * threads:
        return 1
    return max(4, min(CHUNK, batch // max(32, 4 * threads)) // 4 * 4)


def goes_past_caches(out: Array) -> bool:
    """Return whether an output is written past the caches: it is large, and its rows are lines."""
    return out.nbytes >= STREAM_FROM and (out.ctypes.data | out.strides[0]) % buffers.LINE == 0


def stages(depth: int) -> list[int]:
    """Return the levels before which the batch is sorted, from 0 to `depth`; all others even."""
    n = -(-depth // LEVELS)
    return sorted({*(2 * (i * depth // (2 * n)) for i in range(n)), depth})


def backward(
    grad_y: Array,
    nodes: Array,
    activation: int,
    scores: Array,
    leaves: Array,
    grad_x: Array,
    *,
    patterns: bool = False,
    grad_scores: Array | None = None,
) -> Visits:
    """Write grad_x (batch, n_in) and return the visits that `gather` and `update` take.

    With `patterns`, there is a row for each leaf and level, not for each node. `grad_scores`,
    shaped like `scores`, is added to the gradient that the scores have through the output.
    """
    slopes, coefs = (buffers.empty(scores.shape, scores.dtype) for _ in range(2))
    table = nodes.reshape(-1, nodes.shape[2])
    visits = Visits(leaves, slopes, coefs, table.shape[1], patterns=patterns)
    if len(scores) > 0:
        work = work_of(scores, grad_x, grad_y)
        chunk, streamed, found, gradients, rows, room = scratch(work, scores, grad_x)
        added = scores[:0] if grad_scores is None else grad_scores
        tree_backward.backward_samples(
            work,
            visits.order[0],
            chunk,
            grad_y,
            table,
            patterns,
            activation,
            scores,
            leaves,
            added,
            slopes,
            coefs,
            rows,
            gradients,
            found,
            room,
            streamed,
            grad_x,
        )
    return visits


def gather(
    x: Array, grad_y: Array, visits: Visits, shape: tuple[int, ...], *, sparse: bool
) -> Array:
    """Return the gradient of a parameter of some shape, or, `sparse`, that of its visited rows."""
    width, dtype = shape[-1], visits.slopes.dtype
    out = buffers.empty((len(visits.rows), width), dtype) if sparse else np.zeros(shape, dtype)
    none = np.empty((0, 0), dtype)
    rule = (row_update.STORE, np.empty(0), none, none, np.empty(0, np.int64))
    _step(x, grad_y, visits, out.reshape(-1, width), rule, sparse=sparse)
    return out


def update(x: Array, grad_y: Array, visits: Visits, nodes: Array, rule: tuple[Any, ...]) -> None:
    """Take one optimiser step on each visited row of `nodes`, in place."""
    if rule[0] == row_update.ADAMW:
        rule[4][visits.rows] += 1
    _step(x, grad_y, visits, nodes.reshape(-1, nodes.shape[2]), rule, sparse=False)


def _step(
    x: Array, grad_y: Array, visits: Visits, table: Array, rule: tuple[Any, ...], *, sparse: bool
) -> None:
    """Step the visited rows of `table` by their gradients."""
    batch, n_trees, depth = visits.slopes.shape
    if batch == 0:
        return
    width, chunk, n_chunks = table.shape[1], visits.chunk, visits.n_chunks
    slots = visits.slots if sparse else np.empty((0, 0, 0), np.int64)
    rows = buffers.empty((n_trees * n_chunks, chunk), np.int64)
    weights = buffers.empty((2, n_trees * n_chunks * depth, chunk), table.dtype)
    sums = buffers.empty((4 * n_trees * n_chunks, width), table.dtype)
    parts = buffers.empty((n_trees * n_chunks * depth * 2, width), table.dtype)
    tree_backward.step_chunks(
        2 * visits.slopes.size * width,
        x,
        grad_y,
        visits.order,
        visits.ends,
        chunk,
        visits.patterns,
        visits.slopes,
        visits.coefs,
        slots,
        rows,
        *weights,
        sums,
        parts,
        table,
        rule,
    )
    tree_backward.step_parts(
        2 * parts.size, visits.ends, chunk, depth, visits.patterns, slots, parts, table, rule
    )


def update_rows(table: Array, rows: Array, gradients: Array, rule: tuple[Any, ...]) -> None:
    """Take one optimiser step on each table[rows[r]] with gradients[r], in place."""
    if rule[0] == row_update.ADAMW:
        rule[4][rows] += 1
    row_update.update_rows(2 * gradients.size, table, rows, gradients, rule)


def work_of(scores: Array, *sides: Array) -> int:
    """Return the floating-point operations of a pass over all paths, for x, y or both."""
    return 2 * scores.size * sum(int(side.shape[1]) for side in sides)
