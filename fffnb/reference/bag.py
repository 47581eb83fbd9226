"""The bag, densely: all scores of all nodes, and the choice as a 0/1 mask.

Shapes: x (batch, n_in), nodes (n_trees, n_nodes, n_in + n_out), bias (n_trees, n_nodes) or None,
grad_y (batch, n_out); everything is computed in float64.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import tree

Array = NDArray[Any]


class Forward(NamedTuple):
    """What the reference says of a forward pass.

    Attributes
    ----------
    y : ndarray, shape (batch, n_out)
        The output.
    scores : ndarray, shape (n_trees, batch, n_nodes)
        The score of every node.
    mask : ndarray of bool, shape (n_trees, batch, n_nodes)
        Which nodes each sample chooses.
    size : ndarray, shape (n_trees, batch, n_nodes)
        Sum of the absolute terms of each score, which bounds its rounding error.
    y_size : ndarray, shape (batch, n_out)
        Sum of |act(score) * y| over the chosen nodes: the scale of an error.
    """

    y: Array
    scores: Array
    mask: Array
    size: Array
    y_size: Array

    def ambiguous(self, eps: float, k: int | None) -> Array:
        """Return which samples rounding could let choose other nodes, (batch,) of bool."""
        margin = 16 * eps * self.size
        if k is None:
            return np.asarray((np.abs(self.scores) <= margin).any(axis=(0, 2)))
        least = np.where(self.mask, self.scores - margin, np.inf).min(axis=2)
        most = np.where(self.mask, -np.inf, self.scores + margin).max(axis=2)
        return np.asarray((least <= most).any(axis=0))


def forward(
    x: Array,
    nodes: Array,
    k: int | None,
    bias: Array | None = None,
    activation: str = "identity",
) -> Forward:
    """Return output, scores and choice of every sample."""
    x, nodes = np.asarray(x, np.float64), np.asarray(nodes, np.float64)
    x_vectors, y_vectors = nodes[:, :, : x.shape[1]], nodes[:, :, x.shape[1] :]
    biases = np.zeros(nodes.shape[:2]) if bias is None else np.asarray(bias, np.float64)
    scores = x @ x_vectors.transpose(0, 2, 1) + biases[:, None, :]
    size = np.abs(x) @ np.abs(x_vectors).transpose(0, 2, 1) + np.abs(biases)[:, None, :]
    mask = ~(scores <= 0) if k is None else _best(scores, k)
    coefs = np.where(mask, tree.ACTIVATIONS[activation][0](scores), 0)
    y = (coefs @ y_vectors).sum(axis=0)
    return Forward(y, scores, mask, size, (np.abs(coefs) @ np.abs(y_vectors)).sum(axis=0))


def backward(
    grad_y: Array,
    x: Array,
    nodes: Array,
    k: int | None,
    bias: Array | None = None,
    activation: str = "identity",
    *,
    absolute: bool = False,
) -> tuple[Array, Array, Array]:
    """Return grad_x, grad_nodes and grad_bias; the choice has no gradient.

    With `absolute`, return the sums of the absolute terms instead: the scale of an error.
    """
    run = forward(x, nodes, k, bias, activation)
    return tree.gradients(grad_y, x, nodes, run.scores, run.mask, activation, absolute=absolute)


def _best(scores: Array, k: int) -> Array:
    """Return the mask of the k highest scores, the lower node first where they are equal."""
    order = np.argsort(-scores, axis=2, kind="stable")  # puts NaN last
    mask = np.zeros(scores.shape, bool)
    np.put_along_axis(mask, order[:, :, :k], True, axis=2)
    return mask
