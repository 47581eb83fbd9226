"""The tree in plain Numba, as one writes it in ten minutes: loops over samples, levels, columns."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@numba.njit(parallel=True, fastmath=True, cache=True)
def forward(x, x_vectors, y_vectors):
    """Return y (batch, n_out) of one tree, samples in parallel."""
    n_nodes, n_in = x_vectors.shape
    n_out = y_vectors.shape[1]
    y = np.zeros((len(x), n_out), x.dtype)
    for sample in numba.prange(len(x)):
        node = 0
        while node < n_nodes:
            score = np.float32(0)
            for i in range(n_in):
                score += x[sample, i] * x_vectors[node, i]
            for j in range(n_out):
                y[sample, j] += score * y_vectors[node, j]
            node = 2 * node + 1 + (score > 0)
    return y


@numba.njit(fastmath=True, cache=True)
def backward(x, x_vectors, y_vectors, grad_y):
    """Return the gradients of x and of both vectors: samples share rows, so one by one."""
    n_nodes, n_in = x_vectors.shape
    n_out = y_vectors.shape[1]
    grad_x, grad_x_vectors = np.zeros_like(x), np.zeros_like(x_vectors)
    grad_y_vectors = np.zeros_like(y_vectors)
    for sample in range(len(x)):
        node = 0
        while node < n_nodes:
            score, grad_score = np.float32(0), np.float32(0)
            for i in range(n_in):
                score += x[sample, i] * x_vectors[node, i]
            for j in range(n_out):
                grad_score += grad_y[sample, j] * y_vectors[node, j]
                grad_y_vectors[node, j] += score * grad_y[sample, j]
            for i in range(n_in):
                grad_x[sample, i] += grad_score * x_vectors[node, i]
                grad_x_vectors[node, i] += grad_score * x[sample, i]
            node = 2 * node + 1 + (score > 0)
    return grad_x, grad_x_vectors, grad_y_vectors


class Tree:
    """A tree over a copy of nodes (1, n_nodes, n_in + n_out)."""

    def __init__(self, nodes: Array, n_in: int, lr: float = 1e-6):
        self.vectors = [nodes[0, :, :n_in].copy(), nodes[0, :, n_in:].copy()]
        self.lr = np.float32(lr)

    def forward(self, x: Array) -> Any:
        """Return y."""
        return forward(x, *self.vectors)

    def gradients(self, x: Array, grad_y: Array) -> tuple[Any, Any]:
        """Return the gradients of x and of the nodes."""
        grad_x, *grads = backward(x, *self.vectors, grad_y)  # type: ignore[call-arg]
        return grad_x, np.hstack(grads)[None]

    def step(self, x: Array, grad_y: Array) -> None:
        """Do a training step: forward, backward with the gradient of x, SGD."""
        self.forward(x)
        _, *grads = backward(x, *self.vectors, grad_y)  # type: ignore[call-arg]
        for vectors, grad in zip(self.vectors, grads, strict=True):
            grad *= self.lr
            vectors -= grad
