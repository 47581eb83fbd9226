"""The layer of the flat form."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike

from ..nodes import default_depth, init_flat
from ..ops.flat import FlatTrace, flat_backward, flat_forward
from .layer import Array, Gradients, Layer


class FlatFFF(Layer):
    """Fast FeedForward layer of the flat form: one plane a level chooses the path in a tree.

    Parameters
    ----------
    n_in, n_out : int
        Widths of the input and of the output.
    depth : int, optional
        Levels of each tree; by default `default_depth` of n_in.
    n_trees : int, default 1
        Number of trees.
    activation : str, default "identity"
        act on a score: see `flat_forward`.
    bias : bool, default False
        Give each plane a bias, zero at first.
    scheme, rng, dtype
        How planes and y vectors are drawn: see `init_flat`.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As `init_flat` and `flat_forward`.

    Examples
    --------
    >>> import numpy as np
    >>> from fffnb import nn
    >>> layer = nn.FlatFFF(64, 10, depth=5, n_trees=4)
    >>> layer(np.ones((3, 64), np.float32)).shape, layer.neurons_read, layer.neurons
    ((3, 10), 20, 124)
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        depth: int | None = None,
        *,
        n_trees: int = 1,
        activation: str = "identity",
        bias: bool = False,
        scheme: Literal["sphere", "uniform"] = "sphere",
        rng: int | np.random.Generator | None = 0,
        dtype: DTypeLike = np.float32,
    ) -> None:
        depth = default_depth(n_in) if depth is None else depth
        planes, y_vectors = init_flat(
            n_in, n_out, depth, n_trees, scheme=scheme, rng=rng, dtype=dtype
        )
        biases = np.zeros((n_trees, depth), planes.dtype) if bias else None
        self._hold(activation, planes, y_vectors, biases)

    @classmethod
    def of(
        cls, activation: str, planes: Array, y_vectors: Array, bias: Array | None = None
    ) -> FlatFFF:
        """Return a layer that uses given planes, y vectors and biases: see `flat_forward`."""
        layer = cls.__new__(cls)
        layer._hold(activation, planes, y_vectors, bias)
        return layer

    def _hold(self, activation: str, planes: Array, y_vectors: Array, bias: Array | None) -> None:
        self.n_trees, self.depth, self.n_in = planes.shape
        self.n_out = y_vectors.shape[2]
        self.activation = activation
        self.planes, self.y_vectors, self.bias = planes, y_vectors, bias
        self.neurons = self.n_trees * y_vectors.shape[1]
        self.neurons_read = self.n_trees * self.depth
        self.parameters = {"planes": planes, "y_vectors": y_vectors}
        if bias is not None:
            self.parameters["bias"] = bias
        self(np.empty((0, self.n_in), planes.dtype))  # refuses what does not fit

    def __call__(self, x: Array) -> Array:
        """Return the output (..., n_out) for samples x (..., n_in)."""
        return flat_forward(
            x, self.planes, self.y_vectors, bias=self.bias, activation=self.activation
        )

    def forward(self, x: Array) -> tuple[Array, tuple[Array, FlatTrace]]:
        """Return the output for x and what `backward` needs."""
        y, trace = flat_forward(
            x,
            self.planes,
            self.y_vectors,
            bias=self.bias,
            activation=self.activation,
            return_trace=True,
        )
        return y, (x, trace)

    def leaves(self, x: Array) -> Array:
        """Return the leaf of every sample in each tree, int32 (..., n_trees)."""
        return self.forward(x)[1][1].leaves

    def backward(
        self, grad_y: Array, trace: tuple[Array, FlatTrace], *, sparse: bool = False
    ) -> tuple[Array, Gradients]:
        """Return the gradient of the input and those of the parameters.

        With `sparse`, that of the y vectors is a row gradient.
        """
        x, path = trace
        grads = flat_backward(grad_y, x, self.planes, self.y_vectors, path, sparse=sparse)
        gradients: Gradients = {"planes": grads.planes, "y_vectors": grads.y_vectors}
        if grads.bias is not None:
            gradients["bias"] = grads.bias
        return grads.x, gradients

    def config(self) -> dict[str, Any]:
        """Return the structure as a JSON object."""
        sizes = {"n_in": self.n_in, "n_out": self.n_out, "depth": self.depth}
        rest = {
            "n_trees": self.n_trees,
            "activation": self.activation,
            "bias": self.bias is not None,
        }
        return {"kind": "FlatFFF", **sizes, **rest}
