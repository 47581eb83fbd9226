"""The layer of the flat form."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import DTypeLike

from ..init import init_flat
from ..nodes import default_depth
from ..ops.flat import flat_backward, flat_backward_update, flat_forward
from .form_layer import TreeLayer
from .layer import Array


class FlatFFF(TreeLayer):
    """Fast FeedForward layer of the flat form: one plane a level chooses the path in a tree.

    Parameters
    ----------
    n_in, n_out, depth, n_trees, activation
        See `FFF`.
    bias : bool, default False
        Give each plane a bias, zero at first.
    rows : {"nodes", "patterns"}, default "nodes"
        Give each node a y vector, or each level one for every pattern of signs: see `init_flat`.
    scheme, rng, dtype
        How planes and y vectors are drawn: see `init_flat`.

    Attributes
    ----------
    score_loss, balance_rate
        See `FFF`.

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

    _forward = staticmethod(flat_forward)
    _backward = staticmethod(flat_backward)
    _backward_update = staticmethod(flat_backward_update)
    _arrays = ("planes", "y_vectors")
    _structure = (*TreeLayer._structure, "rows")

    planes: Array
    y_vectors: Array

    def __init__(
        self,
        n_in: int,
        n_out: int,
        depth: int | None = None,
        *,
        n_trees: int = 1,
        activation: str = "identity",
        bias: bool = False,
        rows: Literal["nodes", "patterns"] = "nodes",
        scheme: Literal["sphere", "uniform"] = "sphere",
        rng: int | np.random.Generator | None = 0,
        dtype: DTypeLike = np.float32,
    ) -> None:
        depth = default_depth(n_in) if depth is None else depth
        planes, y_vectors = init_flat(
            n_in, n_out, depth, n_trees, rows=rows, scheme=scheme, rng=rng, dtype=dtype
        )
        biases = np.zeros((n_trees, depth), planes.dtype) if bias else None
        self._use(activation, planes, y_vectors, biases)

    @classmethod
    def of(
        cls, activation: str, planes: Array, y_vectors: Array, bias: Array | None = None
    ) -> FlatFFF:
        """Return a layer that uses given planes, y vectors and biases: see `flat_forward`."""
        layer = cls.__new__(cls)
        layer._use(activation, planes, y_vectors, bias)
        return layer

    def _use(self, activation: str, planes: Array, y_vectors: Array, bias: Array | None) -> None:
        self.n_trees, self.depth, self.n_in = planes.shape
        self.n_out = y_vectors.shape[2]
        self.activation = activation
        self.rows = "nodes" if y_vectors.shape[1] == 2**self.depth - 1 else "patterns"
        self.neurons = self.n_trees * y_vectors.shape[1]
        self.neurons_read = self.n_trees * self.depth
        self._hold((planes, y_vectors), bias)
