"""Dense layers through NumPy's BLAS."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def linear(n_in: int, n_out: int) -> Callable[[Array], Array]:
    """Return the forward pass of a linear layer n_in → n_out."""
    weight = _weight(n_in, n_out)
    return lambda x: np.asarray(x @ weight)


def feed_forward(n_in: int, n_out: int, width: int) -> Callable[[Array], Array]:
    """Return the forward pass of a feed-forward layer with `width` ReLU neurons."""
    up, down = _weight(n_in, width), _weight(width, n_out)

    def forward(x: Array) -> Array:
        hidden = x @ up
        np.maximum(hidden, 0, out=hidden)
        return np.asarray(hidden @ down)

    return forward


def feed_forward_step(n_in: int, n_out: int, width: int, lr: float = 1e-6) -> Callable[..., Array]:
    """Return a training step(x, grad_y) of the same layer: forward, backward, SGD."""
    up, down = _weight(n_in, width), _weight(width, n_out)

    def step(x: Array, grad_y: Array) -> Array:
        hidden = x @ up
        np.maximum(hidden, 0, out=hidden)
        grad_hidden = grad_y @ down.T
        grad_hidden *= hidden > 0
        grad_x = grad_hidden @ up.T
        np.subtract(down, lr * (hidden.T @ grad_y), out=down)
        np.subtract(up, lr * (x.T @ grad_hidden), out=up)
        return np.asarray(grad_x)

    return step


def _weight(n_in: int, n_out: int) -> Array:
    rng = np.random.default_rng(0)
    return rng.standard_normal((n_in, n_out), np.float32) / np.float32(n_in**0.5)
