"""The forms without a kernel, forward in NumPy: one tree or bag, plain, no faster than it reads."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

Array = NDArray[Any]


def bag(x: Array, nodes: Array, *, k: int) -> Array:
    """Return y of a bag (1, n_nodes, n_in + n_out)."""
    x_vectors, y_vectors = np.split(nodes[0], [x.shape[1]], axis=1)
    scores, chosen = best(x @ x_vectors.T, k)
    return np.asarray(np.einsum("bk,bko->bo", scores, y_vectors[chosen]))


def keys(x: Array, keys: Array, y_vectors: Array, *, k: int) -> Array:
    """Return y of product keys (1, 2, n_keys, n_in / 2)."""
    halves = zip(np.split(x, 2, axis=1), keys[0], strict=True)
    (first, rows), (second, columns) = (best(half @ each.T, k) for half, each in halves)
    scores, pairs = best((first[:, :, None] + second[:, None]).reshape(len(x), -1), k)
    nodes = (rows * keys.shape[2])[:, :, None] + columns[:, None]
    chosen = np.take_along_axis(nodes.reshape(len(x), -1), pairs, axis=1)
    return np.asarray(np.einsum("bk,bko->bo", scores, y_vectors[chosen]))


def leaf(
    x: Array,
    routers: Array,
    leaves: Array,
    router_bias: Array,
    hidden_bias: Array,
    output_bias: Array,
) -> Array:
    """Return y of a tree of leaves by hard paths: two matrix products for each group of a leaf."""
    place = np.zeros(len(x), np.int64)
    for _ in range(len(leaves[0]).bit_length() - 1):
        score = np.einsum("bi,bi->b", x, routers[0, place]) + router_bias[0, place]
        place = 2 * place + 1 + (score >= 0)
    place -= len(routers[0])
    y = np.empty((len(x), output_bias.shape[2]), x.dtype)
    for at in np.unique(place):
        group = np.flatnonzero(place == at)
        x_vectors, y_vectors = np.split(leaves[0, at], [x.shape[1]], axis=1)
        hidden = np.maximum(x[group] @ x_vectors.T + hidden_bias[0, at], 0)
        y[group] = hidden @ y_vectors + output_bias[0, at]
    return y


def leaf_soft(
    x: Array,
    routers: Array,
    leaves: Array,
    router_bias: Array,
    hidden_bias: Array,
    output_bias: Array,
) -> Array:
    """Return the soft y of a tree of leaves: all of them, each by the product of its shares."""
    shares = expit(x @ routers[0].T + router_bias[0])
    weights = arriving(shares)[:, len(routers[0]) :]
    x_vectors, y_vectors = np.split(leaves.reshape(-1, leaves.shape[3]), [x.shape[1]], axis=1)
    hidden = np.maximum(x @ x_vectors.T + hidden_bias.reshape(-1), 0)
    hidden *= np.repeat(weights, leaves.shape[2], axis=1)
    return np.asarray(hidden @ y_vectors + weights @ output_bias[0])


def tree_soft(x: Array, nodes: Array) -> Array:
    """Return the soft y of a tree (1, n_nodes, n_in + n_out)."""
    x_vectors, y_vectors = np.split(nodes[0], [x.shape[1]], axis=1)
    scores = x @ x_vectors.T
    inner = len(x_vectors) // 2  # the nodes that have children
    return np.asarray((arriving(expit(scores[:, :inner])) * scores) @ y_vectors)


def best(scores: Array, k: int) -> tuple[Array, Array]:
    """Return the k largest scores of each sample and where they are, in any order."""
    chosen = np.argpartition(scores, -k, axis=1)[:, -k:]
    return np.take_along_axis(scores, chosen, axis=1), chosen


def arriving(shares: Array) -> Array:
    """Return what arrives at each node of a tree and below, of shares that its nodes send right."""
    weights = np.ones((len(shares), 1), shares.dtype)
    levels = [weights]
    for level in range((shares.shape[1] + 1).bit_length() - 1):
        right = shares[:, 2**level - 1 : 2 ** (level + 1) - 1]
        pairs = np.stack([weights * (1 - right), weights * right], axis=2)
        weights = pairs.reshape(len(shares), -1)
        levels.append(weights)
    return np.concatenate(levels, axis=1)
