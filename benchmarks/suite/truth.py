"""What must come out of a call, in float64, for batches and trees of any size.

The dense reference of the package evaluates every node for every sample; a tree of 2**20 nodes or
a batch of 8,192 is too much for it. Here the decisions of every sample are checked along the path
that it took, and what lies on the paths is summed again. The tests hold this to the reference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from .problems import Array, assert_close


class Truth:
    """The paths of a batch, followed again.

    Raises AssertionError where a sample did not go right at a positive score, or not left at
    another one.

    Attributes
    ----------
    rows : ndarray of int64, shape (n_rows,)
        The visited rows, ascending: tree · n_nodes + node.
    y : ndarray, shape (batch, n_out)
        The output.
    bound : float
        How far a result may be from the truth, as a fraction of its norm.
    """

    def __init__(self, x: Array, nodes: Array, leaves: Array) -> None:
        n_trees, n_nodes, width = nodes.shape
        batch, n_in = x.shape
        depth = n_nodes.bit_length()
        level = np.arange(depth)
        first = n_nodes * np.arange(n_trees)[:, None] + 2**level - 1
        paths = first + (leaves[:, :, None].astype(np.int64) >> (depth - level))
        self.rows, places = np.unique(paths, return_inverse=True)
        self._places = places.reshape(batch, n_trees * depth)
        vectors = nodes.reshape(-1, width)[self.rows].astype(np.float64)
        self._x_vectors, self._y_vectors = vectors[:, :n_in], vectors[:, n_in:]
        self._x = x.astype(np.float64)
        eps = float(np.finfo(nodes.dtype).eps)
        self.bound = 100 * eps

        scores = self._dots(self._x, self._x_vectors)
        lengths = np.linalg.norm(self._x_vectors, axis=1)[self._places]
        unclear = np.abs(scores) <= 16 * eps * lengths * np.linalg.norm(self._x, axis=1)[:, None]
        right = (leaves[:, :, None] >> (depth - 1 - level) & 1).reshape(scores.shape)
        wrong = ((scores > 0) != right) & ~unclear
        assert not wrong.any(), f"{wrong.any(axis=1).sum()} of {batch} samples took a wrong path"
        self._scores = self._on_paths(scores)
        self.y: Array = self._scores @ self._y_vectors

    def gradients(self, grad_y: Array) -> tuple[Array, Array]:
        """Return the gradients of x and of the visited rows."""
        grad_y = grad_y.astype(np.float64)
        slopes = self._on_paths(self._dots(grad_y, self._y_vectors))
        grad_rows = np.hstack([slopes.T @ self._x, self._scores.T @ grad_y])
        return slopes @ self._x_vectors, grad_rows

    def _dots(self, samples: Array, vectors: Array) -> Array:
        """Return the dot product of each sample with each vector on its paths."""
        columns = [np.einsum("ij,ij->i", samples, vectors[place]) for place in self._places.T]
        return np.stack(columns, axis=1)

    def _on_paths(self, weights: Array) -> Any:
        """Return weights as a sparse matrix (batch, n_rows)."""
        starts = np.arange(0, weights.size + 1, weights.shape[1])
        shape = (len(weights), len(self.rows))
        return csr_array((weights.ravel(), self._places.ravel(), starts), shape=shape)


def check_step(step: Callable[[float], object], truth: Truth, nodes: Array, grad_y: Array) -> None:
    """Raise AssertionError where step(learning rate) is not one of SGD; put the nodes back."""
    table = nodes.reshape(-1, nodes.shape[2])
    before = table[truth.rows]
    step(1.0)
    after = table[truth.rows]
    table[truth.rows] = before
    assert_close(after, before - truth.gradients(grad_y)[1], truth.bound)
