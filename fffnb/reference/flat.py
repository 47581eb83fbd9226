"""The flat form, densely: the tree whose nodes on a level share one x vector.

With y vectors for all patterns of signs, a row takes the place of a node for each leaf and level.

Shapes: x (batch, n_in), planes (n_trees, depth, n_in), y_vectors (n_trees, n_rows, n_out), bias
(n_trees, depth) or None, grad_y (batch, n_out); everything is computed in float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import tree

Array = NDArray[Any]


def nodes_of(planes: Array, y_vectors: Array) -> Array:
    """Return the nodes of the tree, or what takes their place, of the dtype of the planes."""
    return np.concatenate([planes[:, _levels(planes, y_vectors)], y_vectors], axis=2)


def biases_of(bias: Array | None, y_vectors: Array) -> Array | None:
    """Return the node biases of the tree."""
    return None if bias is None else np.take(bias, _levels(bias, y_vectors), axis=1)


def forward(
    x: Array,
    planes: Array,
    y_vectors: Array,
    bias: Array | None = None,
    activation: str = "identity",
) -> tree.Forward:
    """Return output, scores, paths and leaves of every sample; it can tell ambiguous samples."""
    nodes, biases = nodes_of(planes, y_vectors), biases_of(bias, y_vectors)
    return tree.forward(x, nodes, biases, activation, follow=_follow(planes, y_vectors))


def forward_size(
    x: Array,
    planes: Array,
    y_vectors: Array,
    bias: Array | None = None,
    activation: str = "identity",
) -> Array:
    """Return the sum of |act(score) * y| over the path, (batch, n_out): the scale of an error."""
    nodes, biases = nodes_of(planes, y_vectors), biases_of(bias, y_vectors)
    return tree.forward_size(x, nodes, biases, activation, follow=_follow(planes, y_vectors))


def backward(
    grad_y: Array,
    x: Array,
    planes: Array,
    y_vectors: Array,
    bias: Array | None = None,
    activation: str = "identity",
    *,
    added: Array | float = 0.0,
    absolute: bool = False,
) -> tuple[Array, Array, Array, Array]:
    """Return grad_x, grad_planes, grad_y_vectors and grad_bias; the choice of the path has none.

    `added` and `absolute` are those of the tree.
    """
    nodes, biases = nodes_of(planes, y_vectors), biases_of(bias, y_vectors)
    follow = _follow(planes, y_vectors)
    grad_x, grad_nodes, grad_biases = tree.backward(
        grad_y, x, nodes, biases, activation, added=added, absolute=absolute, follow=follow
    )
    n_trees, depth, n_in = planes.shape
    grad_planes, grad_bias = np.zeros(planes.shape), np.zeros((n_trees, depth))
    for row, level in enumerate(_levels(planes, y_vectors)):
        grad_planes[:, level] += grad_nodes[:, row, :n_in]
        grad_bias[:, level] += grad_biases[:, row]
    return grad_x, grad_planes, grad_nodes[:, :, n_in:], grad_bias


def _levels(planes: Array, y_vectors: Array) -> Array:
    """Return the level of every y vector; there are as many levels as planes."""
    depth = planes.shape[1]
    if y_vectors.shape[1] == 2**depth - 1:
        return np.repeat(np.arange(depth), 2 ** np.arange(depth))
    return np.tile(np.arange(depth), 2**depth)


def _follow(planes: Array, y_vectors: Array) -> Any:
    """Return how the reference of the tree finds the rows that samples visit."""
    depth = planes.shape[1]
    if y_vectors.shape[1] == 2**depth - 1:
        return tree.follow_tree

    def follow(scores: Array) -> tuple[Array, Array]:
        right = scores[:, :, :depth] > 0  # the rows of the first leaf: one for each level
        leaves = right @ 2 ** np.arange(depth)[::-1]
        mask = leaves[:, :, None] == np.arange(scores.shape[2]) // depth
        return mask, leaves.T

    return follow
