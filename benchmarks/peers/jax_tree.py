"""The tree in plain JAX under jit: a loop over the levels, gradients by `jax.vjp`."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.typing import NDArray

import fffnb


def tree(x: Any, x_vectors: Any, y_vectors: Any) -> Any:
    """Return y of one tree, mixed level by level."""

    def level(_: int, state: tuple[Any, Any]) -> tuple[Any, Any]:
        node, y = state
        score = jnp.einsum("bi,bi->b", x, x_vectors[node])
        return 2 * node + 1 + (score > 0), y + score[:, None] * y_vectors[node]

    depth = fffnb.depth_of(len(x_vectors))
    start = jnp.zeros(len(x), jnp.int32), jnp.zeros((len(x), y_vectors.shape[1]), x.dtype)
    return lax.fori_loop(0, depth, level, start)[1]


def gradients(x: Any, vectors: Any, grad_y: Any) -> Any:
    """Return the gradients of x, of the x vectors and of the y vectors."""
    return jax.vjp(tree, x, *vectors)[1](grad_y)


def sgd(lr: float, x: Any, vectors: Any, grad_y: Any) -> Any:
    """Return the gradient of x and the vectors after a step."""
    grad_x, *grads = gradients(x, vectors, grad_y)
    return grad_x, [v - lr * grad for v, grad in zip(vectors, grads, strict=True)]


class Tree:
    """A tree over a copy of nodes (1, n_nodes, n_in + n_out)."""

    def __init__(self, nodes: NDArray[Any], n_in: int, lr: float = 1e-6):
        self.vectors = [jnp.array(nodes[0, :, :n_in]), jnp.array(nodes[0, :, n_in:])]
        self._forward = jax.jit(tree)
        self._gradients = jax.jit(gradients)
        self._step = jax.jit(functools.partial(sgd, lr), donate_argnums=1)  # in place

    def forward(self, x: Any) -> Any:
        """Return y."""
        return self._forward(x, *self.vectors).block_until_ready()

    def gradients(self, x: Any, grad_y: Any) -> tuple[Any, Any]:
        """Return the gradients of x and of the nodes."""
        grad_x, *grads = self._gradients(x, self.vectors, grad_y)
        return grad_x, np.hstack(grads)[None]

    def step(self, x: Any, grad_y: Any) -> None:
        """Do a training step: forward, backward with the gradient of x, SGD."""
        _, self.vectors = jax.block_until_ready(self._step(x, self.vectors, grad_y))
