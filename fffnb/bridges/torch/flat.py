"""The flat form: its operators, its function, and its module, with dense gradients."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import DTypeLike
from torch import Tensor

from ... import nn
from ...ops.flat import flat_backward, flat_forward
from ...ops.flat_trace import FlatGradients, FlatTrace
from ...ops.trace import activation_code
from .library import make_operators
from .module import FormModule
from .tensors import admit, lend, take


def _forward(
    x: Tensor, planes: Tensor, y_vectors: Tensor, bias: Tensor | None, activation: str
) -> tuple[Tensor, ...]:
    """Return y (..., n_out), scores (..., n_trees, depth) and leaves (..., n_trees)."""
    y, trace = flat_forward(
        lend(x.contiguous()),
        lend(planes),
        lend(y_vectors),
        bias=lend(bias),
        activation=activation,
        return_trace=True,
    )
    return take(y), take(trace.scores), take(trace.leaves)


def _shapes(
    x: Tensor, planes: Tensor, y_vectors: Tensor, bias: Tensor | None, activation: str
) -> tuple[Tensor, ...]:
    lead, (n_trees, depth, _) = x.shape[:-1], planes.shape
    leaves = x.new_empty((*lead, n_trees), dtype=torch.int32)
    y = x.new_empty((*lead, y_vectors.shape[2]))
    return y, x.new_empty((*lead, n_trees, depth)), leaves


def _backward(
    grad_y: Tensor,
    x: Tensor,
    planes: Tensor,
    y_vectors: Tensor,
    bias: Tensor | None,
    scores: Tensor,
    leaves: Tensor,
    activation: str,
) -> FlatGradients:
    """Return the gradients of the tensors."""
    shapes = tuple(planes.shape), tuple(y_vectors.shape)
    trace = FlatTrace(lend(scores), lend(leaves), activation, bias is not None, *shapes)
    samples = lend(grad_y.contiguous()), lend(x.contiguous())
    return flat_backward(*samples, lend(planes), lend(y_vectors), trace)


forward = make_operators(
    "flat",
    _forward,
    _shapes,
    _backward,
    tensors={"x": "Tensor", "planes": "Tensor", "y_vectors": "Tensor", "bias": "Tensor?"},
    states=("scores", "leaves"),
    options={"activation": "str"},
)


def flat(
    x: Tensor,
    planes: Tensor,
    y_vectors: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str = "identity",
) -> Tensor:
    """Run the flat form, as `fffnb.flat_forward`, and let autograd record it.

    Parameters
    ----------
    x : Tensor, shape (..., n_in)
        Samples, of any strides. Under autocast they are cast to the dtype of the planes.
    planes, y_vectors, bias, activation
        As those of `fffnb.flat_forward`, float32 or float64 tensors.

    Returns
    -------
    Tensor, dtype of the planes, shape (..., n_out)
        The output.

    Raises
    ------
    TypeError, ValueError
        If an argument is no tensor of floats, or of a wrong dtype, shape or layout.
    RuntimeError
        If tensors lie on different devices.

    Notes
    -----
    All gradients are dense: a step writes and reads all y vectors. The choice of the path has no
    gradient; there are no gradients of gradients.

    Examples
    --------
    >>> import torch, fffnb
    >>> from fffnb.bridges.torch import flat
    >>> planes, y_vectors = map(torch.from_numpy, fffnb.init_flat(3, 2, depth=4))
    >>> flat(torch.ones(5, 3), planes, y_vectors).shape
    torch.Size([5, 2])
    """
    activation_code(activation)
    x = admit(x, planes=planes, y_vectors=y_vectors, bias=bias)
    y: Tensor = forward(x, planes, y_vectors, bias, activation)[0]
    return y


class FlatFFF(FormModule):
    """Fast FeedForward layer of the flat form: one plane a level chooses the path in a tree.

    Parameters
    ----------
    n_in, n_out, depth, n_trees, activation, bias, rows, scheme, rng, dtype
        See `fffnb.nn.FlatFFF`, whose initial values the parameters have.
    device : torch.device or str, optional
        Where the parameters lie; by default on the CPU.

    Attributes
    ----------
    planes : Parameter, shape (n_trees, depth, n_in)
        The planes.
    y_vectors : Parameter, shape (n_trees, n_rows, n_out)
        The output vectors.
    bias : Parameter, shape (n_trees, depth), or None
        What is added to the scores.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As `fffnb.nn.FlatFFF`.

    Examples
    --------
    >>> import torch
    >>> from fffnb.bridges.torch import FlatFFF
    >>> layer = FlatFFF(64, 10, depth=5, n_trees=4, rows="patterns")
    >>> layer(torch.ones(3, 64)).shape
    torch.Size([3, 10])
    """

    _names = ("planes", "y_vectors", "bias")

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
        device: Any = None,
    ) -> None:
        layer = nn.FlatFFF(
            n_in,
            n_out,
            depth,
            n_trees=n_trees,
            activation=activation,
            bias=bias,
            rows=rows,
            scheme=scheme,
            rng=rng,
            dtype=dtype,
        )
        super().__init__(layer, device)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output (..., n_out) for samples x (..., n_in)."""
        return flat(x, self.planes, self.y_vectors, self.bias, activation=self.activation)
