"""The flat form on the CPU: planes score, the tree's kernels mix and sum.

Arguments are checked, C-contiguous and flattened to one batch axis by the caller; `planes` is
(n_trees, depth, n_in), `y_vectors` (n_trees, n_rows, n_out), `bias` (n_trees, depth) or None,
`activation` a code. The rows are nodes, or those of all levels for each pattern of signs. With
nodes, scores, leaves and outputs are the same bits as those of a tree whose nodes on a level share
their x vector.
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
        has_patterns(y_vectors, depth),
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
    *,
    grad_scores: Array | None = None,
) -> tree.Visits:
    """Write grad_x (batch, n_in) and return the visits of the rows, which have no x vectors.

    `grad_scores` as for the tree.
    """
    visits = tree.backward(
        grad_y,
        y_vectors,
        activation,
        scores,
        leaves,
        grad_x[:, :0],
        patterns=has_patterns(y_vectors, scores.shape[2]),
        grad_scores=grad_scores,
    )
    if len(scores) > 0:
        work, table = tree.work_of(scores, grad_x), planes.reshape(-1, grad_x.shape[1])
        chunk, streamed, _, coefs, rows, room = tree.scratch(work, scores, grad_x)
        flat_walk.mix_planes(work, table, visits.slopes, chunk, coefs, rows, room, streamed, grad_x)
    return visits


def has_patterns(y_vectors: Array, depth: int) -> bool:
    """Return whether there are rows for each pattern of signs, not for each node."""
    return int(y_vectors.shape[1]) == depth << depth


def update(grad_y: Array, visits: tree.Visits, y_vectors: Array, rule: tuple[Any, ...]) -> None:
    """Take one optimiser step on each visited y vector, in place."""
    tree.update(grad_y[:, :0], grad_y, visits, y_vectors, rule)


def update_shared(parameter: Array, gradient: Array, rule: tuple[Any, ...]) -> None:
    """Take one optimiser step on each plane, or on the bias of each, in place."""
    n_rows = parameter.shape[0] * parameter.shape[1]
    table, values = parameter.reshape(n_rows, -1), gradient.reshape(n_rows, -1)
    tree.update_rows(table, np.arange(n_rows), values, rule)


def gather_y_vectors(
    grad_y: Array, visits: tree.Visits, shape: tuple[int, ...], *, sparse: bool
) -> Array:
    """Return the gradient of y vectors of some shape, or, `sparse`, that of the visited ones."""
    return tree.gather(grad_y[:, :0], grad_y, visits, shape, sparse=sparse)


def gather_planes(
    x: Array, visits: tree.Visits, shape: tuple[int, ...], *, has_bias: bool
) -> tuple[Array, Array | None]:
    """Return the gradients of planes of shape (n_trees, depth, n_in) and of their biases.

    The planes are the visited nodes of trees in which every sample goes left, without y vectors.
    """
    if len(x) == 0:
        return np.zeros(shape, x.dtype), np.zeros(shape[:2], x.dtype) if has_bias else None
    left = np.zeros_like(visits.ends.T)
    everyone = tree.Visits(left, visits.slopes, visits.coefs, x.shape[1])
    planes = tree.gather(x, x[:, :0], everyone, shape, sparse=True).reshape(shape)
    return planes, everyone.bias_gradient.reshape(shape[:2]) if has_bias else None
