"""The tree, densely: all scores of all nodes, and the paths as 0/1 masks.

Shapes: x (batch, n_in), nodes (n_trees, n_nodes, n_in + n_out), bias (n_trees, n_nodes) or None,
grad_y (batch, n_out); everything is computed in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf

Array = NDArray[Any]

#: act and act' by the name of the activation.
ACTIVATIONS: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "identity": (lambda s: s, lambda s: np.ones_like(s)),
    "relu": (lambda s: np.maximum(s, 0), lambda s: (s > 0).astype(float)),
    "gelu": (
        lambda s: 0.5 * s * (1 + erf(s / np.sqrt(2))),
        lambda s: 0.5 * (1 + erf(s / np.sqrt(2))) + s * np.exp(-s * s / 2) / np.sqrt(2 * np.pi),
    ),
    "relu2": (lambda s: np.maximum(s, 0) ** 2, lambda s: 2 * np.maximum(s, 0)),
    "silu": (
        lambda s: s / (1 + np.exp(-s)),
        lambda s: (1 + s * np.exp(-s) / (1 + np.exp(-s))) / (1 + np.exp(-s)),
    ),
    "tanh": (np.tanh, lambda s: 1 - np.tanh(s) ** 2),
}


class Forward(NamedTuple):
    """What the reference says of a forward pass.

    Attributes
    ----------
    y : ndarray, shape (batch, n_out)
        The output.
    scores : ndarray, shape (n_trees, batch, n_nodes)
        The score of every node.
    mask : ndarray of bool, shape (n_trees, batch, n_nodes)
        Which nodes each sample visits.
    leaves : ndarray of int, shape (batch, n_trees)
        The leaf that each path ends in.
    size : ndarray, shape (n_trees, batch, n_nodes)
        Sum of the absolute terms of each score, which bounds its rounding error.
    """

    y: Array
    scores: Array
    mask: Array
    leaves: Array
    size: Array

    def ambiguous(self, eps: float) -> Array:
        """Return which samples visit a node whose sign rounding could turn, (batch,) of bool."""
        unclear = np.abs(self.scores) <= 16 * eps * self.size
        return np.asarray((unclear & self.mask).any(axis=(0, 2)))


def follow_tree(scores: Array) -> tuple[Array, Array]:
    """Return the 0/1 mask of visited nodes and the leaves, level by level."""
    n_trees, batch, n_nodes = scores.shape
    mask = np.zeros(scores.shape, bool)
    node = np.zeros((n_trees, batch), np.int64)
    tree, sample = np.indices((n_trees, batch))
    for _ in range(n_nodes.bit_length()):
        mask[tree, sample, node] = True
        right = scores[tree, sample, node] > 0
        node = 2 * node + 1 + right
    return mask, (node - n_nodes).T


def forward(
    x: Array,
    nodes: Array,
    bias: Array | None = None,
    activation: str = "identity",
    *,
    follow: Callable[[Array], tuple[Array, Array]] = follow_tree,
) -> Forward:
    """Return output, scores, paths and leaves of every sample.

    `follow` says from the scores of all nodes which of them are visited, and the leaves.
    """
    x, x_vectors, y_vectors, biases = _float64(x, nodes, bias)
    scores = x @ x_vectors.transpose(0, 2, 1) + biases[:, None, :]
    size = np.abs(x) @ np.abs(x_vectors).transpose(0, 2, 1) + np.abs(biases)[:, None, :]
    mask, leaves = follow(scores)
    act = ACTIVATIONS[activation][0]
    y = ((mask * act(scores)) @ y_vectors).sum(axis=0)
    return Forward(y, scores, mask, leaves, size)


def forward_size(
    x: Array,
    nodes: Array,
    bias: Array | None = None,
    activation: str = "identity",
    *,
    follow: Callable[[Array], tuple[Array, Array]] = follow_tree,
) -> Array:
    """Return the sum of |act(score) * y| over the path, (batch, n_out): the scale of an error."""
    run = forward(x, nodes, bias, activation, follow=follow)
    y_vectors = _float64(x, nodes, bias)[2]
    coefs = np.abs(run.mask * ACTIVATIONS[activation][0](run.scores))
    return np.asarray((coefs @ np.abs(y_vectors)).sum(axis=0))


def backward(
    grad_y: Array,
    x: Array,
    nodes: Array,
    bias: Array | None = None,
    activation: str = "identity",
    *,
    added: Array | float = 0.0,
    absolute: bool = False,
    follow: Callable[[Array], tuple[Array, Array]] = follow_tree,
) -> tuple[Array, Array, Array]:
    """Return grad_x, grad_nodes and grad_bias; the choice of the path has no gradient.

    `added` (n_trees, batch, n_nodes) is added to the gradient of the scores on the paths. With
    `absolute`, return the sums of the absolute terms instead: the scale of an error.
    """
    run = forward(x, nodes, bias, activation, follow=follow)
    return gradients(
        grad_y, x, nodes, run.scores, run.mask, activation, added=added, absolute=absolute
    )


def gradients(
    grad_y: Array,
    x: Array,
    nodes: Array,
    scores: Array,
    mask: Array,
    activation: str,
    *,
    added: Array | float = 0.0,
    absolute: bool,
) -> tuple[Array, Array, Array]:
    """Do what `backward` does for the nodes that `mask` says, however they were chosen."""
    x, x_vectors, y_vectors, _ = _float64(x, nodes, None)
    grad_y = np.asarray(grad_y, np.float64)
    act, derivative = ACTIVATIONS[activation]
    coefs, slopes = mask * act(scores), mask * derivative(scores)
    if absolute:
        terms = (x, x_vectors, y_vectors, grad_y, coefs, slopes, added)
        x, x_vectors, y_vectors, grad_y, coefs, slopes, added = map(np.abs, terms)
    grad_scores = (grad_y @ y_vectors.transpose(0, 2, 1)) * slopes + mask * added
    grad_x = (grad_scores @ x_vectors).sum(axis=0)
    grad_x_vectors = grad_scores.transpose(0, 2, 1) @ x
    grad_y_vectors = coefs.transpose(0, 2, 1) @ grad_y
    grad_nodes = np.concatenate([grad_x_vectors, grad_y_vectors], axis=2)
    return grad_x, grad_nodes, grad_scores.sum(axis=1)


def _float64(x: Array, nodes: Array, bias: Array | None) -> tuple[Array, Array, Array, Array]:
    """Return x, the x vectors, the y vectors and the biases in float64."""
    x, nodes = np.asarray(x, np.float64), np.asarray(nodes, np.float64)
    biases = np.zeros(nodes.shape[:2]) if bias is None else np.asarray(bias, np.float64)
    return x, nodes[:, :, : x.shape[1]], nodes[:, :, x.shape[1] :], biases
