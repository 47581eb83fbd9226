"""Product keys, densely: the bag whose x vectors are all pairs of keys.

Shapes: x (batch, n_in), keys (n_trees, 2, n_keys, n_in / 2), y_vectors (n_keys**2, n_out), grad_y
(batch, n_out); everything is computed in float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import bag

Array = NDArray[Any]


def nodes_of(keys: Array, y_vectors: Array) -> Array:
    """Return the nodes of the bags, of the dtype of the keys."""
    n_trees, _, n_keys, half = keys.shape
    x_vectors = np.empty((n_trees, n_keys, n_keys, 2 * half), keys.dtype)
    x_vectors[..., :half] = keys[:, 0, :, None]
    x_vectors[..., half:] = keys[:, 1, None, :]
    x_vectors = x_vectors.reshape(n_trees, n_keys**2, 2 * half)
    return np.concatenate([x_vectors, np.repeat(y_vectors[None], n_trees, axis=0)], axis=2)


def forward(
    x: Array, keys: Array, y_vectors: Array, k: int, activation: str = "identity"
) -> bag.Forward:
    """Return output, scores and choice of every sample."""
    return bag.forward(x, nodes_of(keys, y_vectors), k, None, activation)


def backward(
    grad_y: Array,
    x: Array,
    keys: Array,
    y_vectors: Array,
    k: int,
    activation: str = "identity",
    *,
    absolute: bool = False,
) -> tuple[Array, Array, Array]:
    """Return grad_x, grad_keys and grad_y_vectors; the choice has no gradient.

    With `absolute`, return the sums of the absolute terms instead: the scale of an error.
    """
    nodes = nodes_of(keys, y_vectors)
    grad_x, grad_nodes, _ = bag.backward(grad_y, x, nodes, k, None, activation, absolute=absolute)
    n_trees, _, n_keys, half = keys.shape
    grad_pairs = grad_nodes[:, :, : 2 * half].reshape(n_trees, n_keys, n_keys, 2 * half)
    firsts, seconds = grad_pairs[..., :half].sum(axis=2), grad_pairs[..., half:].sum(axis=1)
    grad_keys = np.stack([firsts, seconds], axis=1)
    return grad_x, grad_keys, grad_nodes[:, :, 2 * half :].sum(axis=0)
