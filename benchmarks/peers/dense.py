"""Dense layers through NumPy's BLAS."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Dense:
    """Linear layers through these widths, without biases, ReLU between them."""

    def __init__(self, *widths: int, lr: float = 1e-6):
        rng = np.random.default_rng(0)
        self.weights = []
        for n_in, n_out in pairwise(widths):
            weight = rng.random((n_in, n_out), np.float32)
            weight -= 0.5
            weight *= np.float32((12 / n_in) ** 0.5)
            self.weights.append(weight)
        self.lr = lr

    def forward(self, x: Array) -> Array:
        """Return y."""
        for weight in self.weights[:-1]:
            x = x @ weight
            np.maximum(x, 0, out=x)
        return np.asarray(x @ self.weights[-1])

    def gradients(self, x: Array, grad_y: Array) -> tuple[Array, list[Array]]:
        """Return the gradients of x and of the weights, after a forward pass."""
        inputs = [x]
        for weight in self.weights[:-1]:
            hidden = inputs[-1] @ weight
            np.maximum(hidden, 0, out=hidden)
            inputs.append(hidden)
        grad = grad_y
        grads: list[Array] = []
        for i in reversed(range(len(self.weights))):
            grads.insert(0, inputs[i].T @ grad)
            grad = grad @ self.weights[i].T
            if i > 0:
                grad *= inputs[i] > 0
        return grad, grads

    def step(self, x: Array, grad_y: Array) -> None:
        """Do a training step: forward, backward with the gradient of x, SGD."""
        _, grads = self.gradients(x, grad_y)
        for weight, grad in zip(self.weights, grads, strict=True):
            grad *= self.lr
            weight -= grad
