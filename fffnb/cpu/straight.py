"""The straight-through gradient on the CPU: the walk again, at each level to the other child.

Arguments as those of `tree`.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import buffers
from . import soft, soft_paths, straight_walk, tree, tree_sweep

Array = NDArray[Any]


def through(
    grad_y: Array,
    x: Array,
    nodes: Array,
    bias: Array | None,
    activation: int,
    gate: int,
    temperature: float,
    scores: Array,
    leaves: Array,
    grad_scores: Array,
) -> None:
    """Write the gradient of each score on the path through its decision."""
    batch, n_trees, depth = scores.shape
    if batch == 0:
        return
    work = tree.work_of(scores, x, grad_y)
    chunk = tree.chunk_of(batch, work)
    found = buffers.empty((-(-batch // chunk), 16), scores.dtype)
    table, row = nodes.reshape(-1, nodes.shape[2]), tree.as_row(bias, nodes.dtype)
    orders = tree.sort(leaves.T, depth)

    worths = functools.partial(_worths, work, orders[0], chunk, grad_y, table, activation, found)
    own = worths(scores, leaves, depth)
    below = np.zeros((batch, n_trees), scores.dtype)
    other_scores = buffers.empty(scores.shape, scores.dtype)
    grad_scores[:, :, -1] = 0  # no child, no decision
    for level in range(depth - 2, -1, -1):
        below += own[:, :, level + 1]
        taken = leaves >> (depth - 1 - level)
        others = taken ^ 1
        for t in range(n_trees):
            tree_sweep.descend_in_order(
                work,
                x,
                table,
                row,
                t,
                level + 1,
                depth,
                orders[t],
                chunk,
                found,
                other_scores,
                others,
                False,
            )
        gain = below - worths(other_scores, others, depth - 1 - level).sum(axis=2)
        grad_scores[:, :, level] = np.where(taken & 1, gain, -gain)
    soft_paths.scale_by_slope(soft.WORK * scores.size, scores, gate, temperature, grad_scores)


def _worths(
    work: int,
    order: Array,
    chunk: int,
    grad_y: Array,
    table: Array,
    activation: int,
    found: Array,
    scores: Array,
    leaves: Array,
    n_levels: int,
) -> Array:
    """Return act(score) * dot(grad_y, y) of the nodes on the last levels of each path."""
    batch, n_trees, _ = scores.shape
    out = buffers.empty((batch, n_trees, n_levels), scores.dtype)
    dots = buffers.empty((4 * len(found), n_trees * n_levels), scores.dtype)
    rows = buffers.empty(dots.shape, np.int64)
    straight_walk.worths(
        work, order, chunk, grad_y, table, activation, scores, leaves, found, rows, dots, out
    )
    return out
