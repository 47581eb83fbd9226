"""The flat form on the CPU: planes score, the tree's kernels mix and sum.

Arguments are checked, C-contiguous and flattened to one batch axis by the caller; `planes` is
(n_trees, depth, n_in), `y_vectors` (n_trees, n_nodes, n_out), `bias` (n_trees, depth) or None,
`activation` a code. Scores, leaves and outputs are the same bits as those of a tree whose nodes on
a level share their x vector.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import flat_walk, tree, tree_sweep

Array = NDArray[Any]

#: Samples from which on outputs are mixed in the order of the leaves, where four share most rows.
SORT_FROM = 256


def forward(
    x: Array,
    planes: Array,
    y_vectors: Array,
    bias: Array | None,
    activation: int,
    scores: Array,
    leaves: Array,
    y: Array,
) -> None:
    """Write scores (batch, n_trees, depth), leaves (batch, n_trees) and y (batch, n_out)."""
    batch, _, depth = scores.shape
    if batch == 0:
        return
    chunk, streamed, found, coefs, rows, room = tree.scratch(tree.work_of(scores, x, y), scores, y)
    table, row = planes.reshape(-1, x.shape[1]), tree.as_row(bias, x.dtype)
    flat_walk.descend(
        tree.work_of(scores, x), x, table, row, chunk, found, coefs, rows, scores, leaves
    )
    tree_sweep.mix_in_order(
        tree.work_of(scores, y),
        np.arange(batch) if batch < SORT_FROM else tree.sort(leaves[:, 0], depth),
        chunk,
        y_vectors.reshape(-1, y.shape[1]),
        activation,
        scores,
        leaves,
        coefs,
        rows,
        0,
        room,
        streamed,
        y,
    )


def backward(
    grad_y: Array,
    planes: Array,
    y_vectors: Array,
    activation: int,
    scores: Array,
    leaves: Array,
    grad_x: Array,
) -> tree.Visits:
    """Write grad_x (batch, n_in) and return the visits of the nodes."""
    table = planes.reshape(-1, grad_x.shape[1])
    return tree.backward(grad_y, y_vectors, activation, scores, leaves, grad_x, table)


def gather_y_vectors(grad_y: Array, visits: tree.Visits, out: Array, *, sparse: bool) -> None:
    """Write the gradients of the visited y vectors to those of `out`, or, `sparse`, one by one."""
    tree.gather(grad_y[:, :0], grad_y, visits, out, sparse=sparse)


def gather_planes(x: Array, visits: tree.Visits, planes: Array, bias: Array | None) -> None:
    """Write the gradients of planes (n_trees, depth, n_in) and bias (n_trees, depth).

    The planes are the visited nodes of trees in which every sample goes left, without y vectors.
    """
    if len(x) == 0:
        return
    left = np.zeros_like(visits.ends.T)
    everyone = tree.Visits(left, visits.slopes, visits.coefs, x.shape[1])
    tree.gather(x, x[:, :0], everyone, planes.reshape(-1, x.shape[1]), sparse=True)
    if bias is not None:
        bias.reshape(-1)[...] = everyone.bias_gradient
