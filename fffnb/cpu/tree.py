"""The tree on the CPU: the kernels of `tree_walk`, `tree_sweep` and `tree_backward` put to work.

Arguments are checked, C-contiguous and flattened to one batch axis by the caller; `nodes` is
(n_trees, n_nodes, n_in + n_out), `bias` (n_trees, n_nodes) or None, `activation` a code.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import buffers, tree_backward, tree_sweep, tree_walk
from . import update as row_update

Array = NDArray[Any]

#: Samples from which the forward pass is a sweep.
SWEEP_FROM = 1024

#: Samples that go down the trees together, and levels between two sorts of the batch: the inputs of
#: a chunk stay in the second-level cache, and after so many levels a node has two of them left.
CHUNK, LEVELS = 128, 6

#: Chosen form of the forward pass, for tests and benchmarks; None leaves it to `choose`.
forced: Literal["walk", "sweep"] | None = None


class Visits(NamedTuple):
    """Who visited which row: see `tree_backward`."""

    rows: Array
    starts: Array
    samples: Array
    slopes: Array
    coefs: Array

    @property
    def of_kernel(self) -> tuple[Array, Array, Array, Array]:
        """The tuple that the kernels take."""
        return self.starts, self.samples, self.slopes, self.coefs

    def bias_gradient(self) -> Array:
        """Return the gradient of the bias of each row, (n_rows,)."""
        return np.add.reduceat(self.slopes, self.starts[:-1])


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
    run = walk if choose(len(x)) == "walk" else sweep
    flat_bias = np.empty(0, nodes.dtype) if bias is None else bias.reshape(-1)
    table = nodes.reshape(-1, nodes.shape[2])
    run(_work(scores, nodes), x, table, flat_bias, activation, scores, leaves, y)


def choose(batch: int) -> Literal["walk", "sweep"]:
    """Return the form of the forward pass of a batch; both give the same bits."""
    if forced not in (None, "walk", "sweep"):
        raise ValueError(f"forced must be None, 'walk' or 'sweep', got {forced!r}")
    return forced or ("walk" if batch < SWEEP_FROM else "sweep")


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
    """Send every sample alone; arguments as those of the kernel."""
    coefs = buffers.empty(scores.shape, table.dtype)
    rows = buffers.empty(scores.shape, np.int64)
    tree_walk.forward(work, x, table, bias, activation, scores, leaves, coefs, rows, y)


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
    """Send samples together that share nodes; arguments as those of `walk`."""
    batch, n_trees, depth = scores.shape
    n_chunks = -(-batch // CHUNK)
    spare = buffers.empty((n_chunks, CHUNK), np.int64)
    found = buffers.empty((n_chunks, 12), table.dtype)
    leaves[...] = 0
    for t in reversed(range(n_trees)):  # the order of the first tree remains
        order = np.arange(batch)
        for first in range(0, depth, LEVELS):
            stop = min(depth, first + LEVELS)
            if first > 0:
                places = leaves[:, t].astype(np.min_scalar_type(2**first - 1))
                order = np.argsort(places, kind="stable")  # a radix sort up to 16 bits
            tree_sweep.descend(
                work // 2, x, table, bias, t, first, stop, order, spare, found, scores, leaves
            )
    coefs = buffers.empty((n_chunks, 4, n_trees * depth), table.dtype)
    rows = buffers.empty(coefs.shape, np.int64)
    tree_sweep.mix_in_order(
        work // 2,
        order,
        CHUNK,
        table,
        activation,
        scores,
        leaves,
        coefs,
        rows,
        x.shape[1],
        y,
    )


def backward(
    grad_y: Array,
    nodes: Array,
    activation: int,
    scores: Array,
    leaves: Array,
    grad_x: Array,
) -> Visits:
    """Write grad_x (batch, n_in) and return the visits that `gather` and `update` take."""
    batch, n_trees, depth = scores.shape
    if batch == 0:
        none = np.empty(0, np.int64)
        return Visits(none, np.zeros(1, np.int64), none, grad_y[:0, 0], grad_y[:0, 0])
    slopes = buffers.empty(scores.shape, nodes.dtype)
    coefs = buffers.empty(scores.shape, nodes.dtype)
    path = buffers.empty(scores.shape, np.int64)
    table = nodes.reshape(-1, nodes.shape[2])
    order = np.argsort(leaves.T, axis=1, kind="stable")
    tree_backward.backward_samples(
        _work(scores, nodes),
        order[0],
        grad_y,
        table,
        activation,
        scores,
        leaves,
        slopes,
        coefs,
        path,
        grad_x,
    )
    most = n_trees * sum(min(2**level, batch) for level in range(depth))
    rows = buffers.empty(most, np.int64)
    starts = buffers.empty(most + 1, np.int64)
    samples = buffers.empty(scores.size, np.int64)
    row_slopes = buffers.empty(scores.size, nodes.dtype)
    row_coefs = buffers.empty(scores.size, nodes.dtype)
    n_rows = tree_backward.list_visits.serial(
        leaves, order, slopes, coefs, rows, (starts, samples, row_slopes, row_coefs)
    )
    return Visits(rows[:n_rows], starts[: n_rows + 1], samples, row_slopes, row_coefs)


def gather(x: Array, grad_y: Array, visits: Visits, targets: Array, out: Array) -> None:
    """Write the gradient of each visited row r to row targets[r] of `out` (rows, n_in + n_out)."""
    if len(visits.rows) > 0:
        work = 2 * len(visits.samples) * out.shape[1]
        tree_backward.gather_rows(work, x, grad_y, visits.of_kernel, targets, out)


def update(x: Array, grad_y: Array, visits: Visits, nodes: Array, rule: tuple[Any, ...]) -> None:
    """Take one optimiser step on each visited row of `nodes`, in place."""
    if len(visits.rows) > 0:
        width = nodes.shape[2]
        scratch = buffers.empty((tree_backward.N_CHUNKS, width), nodes.dtype)
        tree_backward.update_visited(
            2 * len(visits.samples) * width,
            x,
            grad_y,
            visits.of_kernel,
            visits.rows,
            scratch,
            nodes.reshape(-1, width),
            rule,
        )


def update_rows(table: Array, rows: Array, gradients: Array, rule: tuple[Any, ...]) -> None:
    """Take one optimiser step on each table[rows[r]] with gradients[r], in place."""
    row_update.update_rows(2 * gradients.size, table, rows, gradients, rule)


def _work(scores: Array, nodes: Array) -> int:
    """Return the floating-point operations of a pass over all paths."""
    return 2 * scores.size * int(nodes.shape[2])
