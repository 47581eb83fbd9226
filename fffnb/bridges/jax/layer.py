"""The layer as a pytree."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from ... import nn
from ...nn.namespace import to_host
from .op import fff, floats

Array = Any


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class FFF:
    """Fast FeedForward layer: a pytree whose leaves are its parameters.

    Made by ``fffnb.FFF(..., backend="jax")``.

    Attributes
    ----------
    nodes : jax.Array, shape (n_trees, 2**depth - 1, n_in + n_out)
        The forest.
    bias : jax.Array, shape (n_trees, 2**depth - 1), or None
        The biases of the nodes.
    n_in : int
        Width of the input; static.
    activation : str
        act on the score of a node; static.

    Examples
    --------
    >>> import jax
    >>> import fffnb
    >>> layer = fffnb.FFF(64, 10, depth=5, backend="jax")
    >>> grads = jax.grad(lambda layer: layer(jax.numpy.ones((3, 64))).sum())(layer)
    >>> layer = jax.tree.map(lambda weight, grad: weight - 0.1 * grad, layer, grads)
    >>> layer(jax.numpy.ones(64)).shape
    (10,)
    """

    nodes: Array
    bias: Array | None
    n_in: int = field(metadata={"static": True})
    activation: str = field(default="identity", metadata={"static": True})

    def __call__(self, x: Array) -> Array:
        """Return the output (..., n_out) for samples x (..., n_in)."""
        if np.shape(x)[-1:] != (self.n_in,):
            raise ValueError(f"x must have {self.n_in} columns, got shape {np.shape(x)}")
        return fff(x, self.nodes, self.bias, activation=self.activation)

    @classmethod
    def from_numpy(cls, layer: nn.FFF) -> FFF:
        """Return a layer that holds copies of the parameters of an `fffnb.nn.FFF`."""
        parameters = {name: to_host(array) for name, array in layer.parameters.items()}
        nodes = floats("nodes", parameters["nodes"])
        bias = None if layer.bias is None else floats("bias", parameters["bias"])
        return cls(nodes, bias, layer.n_in, layer.activation)

    def to_numpy(self) -> nn.FFF:
        """Return an `fffnb.nn.FFF` that holds copies of the parameters."""
        bias = None if self.bias is None else np.array(self.bias)
        return nn.FFF.of(self.n_in, self.activation, np.array(self.nodes), bias)
