"""The tree on the CPU: scratch and calls of the kernels in `tree_walk` and `tree_backward`.

Arguments are checked, C-contiguous and flattened to one batch axis by the caller; `nodes` is
(n_trees, n_nodes, n_in + n_out), `bias` (n_trees, n_nodes) or None, `activation` a code.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import buffers, tree_backward, tree_walk
from . import update as row_update

Array = NDArray[Any]

#: Samples from which the output is mixed in the order of the leaves of the first tree.
ORDER_FROM = 1024


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
    flat_bias = np.empty(0, nodes.dtype) if bias is None else bias.reshape(-1)
    coefs = buffers.empty(scores.shape, nodes.dtype)
    rows = buffers.empty(scores.shape, np.int64)
    table = nodes.reshape(-1, nodes.shape[2])
    work = _work(scores, nodes)
    if len(x) < ORDER_FROM:
        tree_walk.forward(work, x, table, flat_bias, activation, scores, leaves, coefs, rows, y)
        return
    tree_walk.descend(work // 2, x, table, flat_bias, activation, scores, leaves, coefs, rows)
    order = np.argsort(leaves[:, 0])
    tree_walk.mix_in_order(work // 2, order, coefs, rows, table, x.shape[1], y)


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
