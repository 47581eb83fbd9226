"""Product keys: their operators, their function, and their module."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import DTypeLike
from torch import Tensor

from ... import nn
from ...ops.keys import keys_backward, keys_forward
from ...ops.keys_trace import KeysGradients, KeysTrace
from ...ops.trace import activation_code
from . import rows
from .library import make_operators
from .module import RowsModule
from .tensors import admit, check_gradient, lend, real_of, take


def _forward(
    x: Tensor, keys: Tensor, y_vectors: Tensor, k: int, activation: str
) -> tuple[Tensor, ...]:
    """Return y (..., n_out), scores and rows (..., n_trees, k)."""
    tensors = lend(x.contiguous()), lend(keys), lend(y_vectors)
    y, trace = keys_forward(*tensors, k=k, activation=activation, return_trace=True)
    return take(y), take(trace.scores), take(trace.rows)


def _shapes(
    x: Tensor, keys: Tensor, y_vectors: Tensor, k: int, activation: str
) -> tuple[Tensor, ...]:
    lead, chosen = x.shape[:-1], (*x.shape[:-1], keys.shape[0], k)
    scores = x.new_empty(chosen, dtype=real_of(keys.dtype))
    rows = x.new_empty(chosen, dtype=torch.int64)
    return x.new_empty((*lead, y_vectors.shape[1])), scores, rows


def _backward(
    grad_y: Tensor,
    x: Tensor,
    keys: Tensor,
    y_vectors: Tensor,
    scores: Tensor,
    rows: Tensor,
    k: int,
    activation: str,
    *,
    sparse: bool = False,
) -> KeysGradients:
    """Return the gradients of the tensors."""
    shapes = tuple(keys.shape), tuple(y_vectors.shape)
    trace = KeysTrace(lend(scores), lend(rows), activation, *shapes)
    samples = lend(grad_y.contiguous()), lend(x.contiguous())
    return keys_backward(*samples, lend(keys), lend(y_vectors), trace, sparse=sparse)


forward = make_operators(
    "keys",
    _forward,
    _shapes,
    _backward,
    tensors={"x": "Tensor", "keys": "Tensor", "y_vectors": "Tensor"},
    states=("scores", "rows"),
    options={"k": "int", "activation": "str"},
)


def keys(
    x: Tensor,
    keys: Tensor,
    y_vectors: Tensor,
    *,
    k: int,
    activation: str = "identity",
    gradient: Literal["dense", "rows"] = "dense",
) -> Tensor:
    """Mix what the nodes of the best pairs of keys say, as `fffnb.keys_forward`.

    Parameters
    ----------
    x : Tensor, shape (..., n_in)
        Samples, of any strides. Under autocast they are cast to the dtype of the keys.
    keys, y_vectors, k, activation
        As those of `fffnb.keys_forward`, float32 or float64 tensors.
    gradient : {"dense", "rows"}
        How the gradient of the y vectors comes, of which there may be a million: see `fff`.

    Returns
    -------
    Tensor, dtype of the keys, shape (..., n_out)
        The output, which autograd follows.

    Raises
    ------
    TypeError, ValueError
        If an argument is no tensor of floats, or of a wrong dtype, shape or layout, or there are
        fewer than k nodes.
    RuntimeError
        If tensors lie on different devices.

    Notes
    -----
    The choice of the nodes has no gradient; there are no gradients of gradients.

    Examples
    --------
    >>> import torch, fffnb
    >>> from fffnb.bridges.torch import keys
    >>> parameters = map(torch.from_numpy, fffnb.init_keys(4, 2, n_keys=32))
    >>> keys(torch.ones(5, 4), *parameters, k=8).shape
    torch.Size([5, 2])
    """
    check_gradient(gradient)
    activation_code(activation)
    x = admit(x, keys=keys, y_vectors=y_vectors)
    if gradient == "rows":
        return rows.forward_form(_forward, _backward, (x, keys, y_vectors), k, activation)
    y: Tensor = forward(x, keys, y_vectors, k, activation)[0]
    return y


class ProductKeyFFF(RowsModule):
    """Layer of many nodes, of which product keys choose the best for each sample.

    Parameters
    ----------
    n_in, n_out, n_keys, k, n_trees, activation, rng, dtype
        See `fffnb.nn.ProductKeyFFF`, whose initial values the parameters have.
    device : torch.device or str, optional
        Where the parameters lie; by default on the CPU.
    gradient : {"dense", "rows"}, default "dense"
        How the gradient of the y vectors comes, of which there may be a million: see `fff`.

    Attributes
    ----------
    keys : Parameter, shape (n_trees, 2, n_keys, n_in / 2)
        The keys.
    y_vectors : Parameter, shape (n_keys**2, n_out)
        The output vectors.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As `fffnb.nn.ProductKeyFFF`.

    Examples
    --------
    >>> import torch
    >>> from fffnb.bridges.torch import ProductKeyFFF
    >>> layer = ProductKeyFFF(64, 10, n_keys=32, k=4, n_trees=2)
    >>> layer(torch.ones(3, 64)).shape
    torch.Size([3, 10])
    """

    _names = ("keys", "y_vectors")

    def __init__(
        self,
        n_in: int,
        n_out: int,
        n_keys: int,
        *,
        k: int,
        n_trees: int = 1,
        activation: str = "identity",
        rng: int | np.random.Generator | None = 0,
        dtype: DTypeLike = np.float32,
        device: Any = None,
        gradient: Literal["dense", "rows"] = "dense",
    ) -> None:
        layer = nn.ProductKeyFFF(
            n_in, n_out, n_keys, k=k, n_trees=n_trees, activation=activation, rng=rng, dtype=dtype
        )
        super().__init__(layer, device, gradient=gradient)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output (..., n_out) for samples x (..., n_in)."""
        options = {"k": self.k, "activation": self.activation, "gradient": self.gradient}
        return keys(x, self.keys, self.y_vectors, **options)
