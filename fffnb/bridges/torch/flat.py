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
from .balance import Balanced, slopes_of, weigh, weigh_shape
from .library import make_operators
from .module import FormModule
from .tensors import admit, lend, take


def _forward(
    x: Tensor,
    planes: Tensor,
    y_vectors: Tensor,
    bias: Tensor | None,
    activation: str,
    balance: float | None,
) -> tuple[Tensor, ...]:
    """Return y (..., n_out), balance loss, scores (..., n_trees, depth), leaves (..., n_trees)."""
    y, trace = flat_forward(
        lend(x.contiguous()),
        lend(planes),
        lend(y_vectors),
        bias=lend(bias),
        activation=activation,
        return_trace=True,
    )
    return take(y), weigh(trace, balance, x), take(trace.scores), take(trace.leaves)


def _shapes(
    x: Tensor,
    planes: Tensor,
    y_vectors: Tensor,
    bias: Tensor | None,
    activation: str,
    balance: float | None,
) -> tuple[Tensor, ...]:
    lead, (n_trees, depth, _) = x.shape[:-1], planes.shape
    leaves = x.new_empty((*lead, n_trees), dtype=torch.int32)
    y = x.new_empty((*lead, y_vectors.shape[2]))
    return y, weigh_shape(balance, x), x.new_empty((*lead, n_trees, depth)), leaves


def _backward(
    grad_y: Tensor,
    grad_loss: Tensor,
    x: Tensor,
    planes: Tensor,
    y_vectors: Tensor,
    bias: Tensor | None,
    scores: Tensor,
    leaves: Tensor,
    activation: str,
    balance: float | None,
) -> FlatGradients:
    """Return the gradients of the tensors."""
    shapes = tuple(planes.shape), tuple(y_vectors.shape)
    trace = FlatTrace(lend(scores), lend(leaves), activation, bias is not None, *shapes)
    samples = lend(grad_y.contiguous()), lend(x.contiguous())
    slopes = slopes_of(trace, balance, grad_loss, x)
    return flat_backward(*samples, lend(planes), lend(y_vectors), trace, grad_scores=slopes)


forward = make_operators(
    "flat",
    _forward,
    _shapes,
    _backward,
    tensors={"x": "Tensor", "planes": "Tensor", "y_vectors": "Tensor", "bias": "Tensor?"},
    values=("y", "loss"),
    states=("scores", "leaves"),
    options={"activation": "str", "balance": "float?"},
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
    return _run(x, planes, y_vectors, bias, activation, None)[0]


def _run(
    x: Tensor,
    planes: Tensor,
    y_vectors: Tensor,
    bias: Tensor | None,
    activation: str,
    balance: float | None,
) -> tuple[Tensor, Tensor]:
    """Return what `flat` does, and the balance loss of this weight, empty if it is None."""
    activation_code(activation)
    x = admit(x, planes=planes, y_vectors=y_vectors, bias=bias)
    y, loss, *_ = forward(x, planes, y_vectors, bias, activation, balance)
    return y, loss


class FlatFFF(Balanced, FormModule):
    """Fast FeedForward layer of the flat form: one plane a level chooses the path in a tree.

    Parameters
    ----------
    n_in, n_out, depth, n_trees, activation, bias, rows, scheme, rng, dtype
        See `fffnb.nn.FlatFFF`, whose initial values the parameters have.
    device : torch.device or str, optional
        Where the parameters lie; by default on the CPU.
    balance : float, optional
        See `FFF`.

    Attributes
    ----------
    planes : Parameter, shape (n_trees, depth, n_in)
        The planes.
    y_vectors : Parameter, shape (n_trees, n_rows, n_out)
        The output vectors.
    bias : Parameter, shape (n_trees, depth), or None
        What is added to the scores.
    balance_loss : Tensor, shape (), or None
        See `FFF`.

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
    _own = ("balance",)

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
        balance: float | None = None,
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
        super().__init__(layer, device, balance=balance)

    def _hold(self, layer: Any, device: Any, balance: float | None = None) -> None:
        super()._hold(layer, device)
        self._balance_by(balance)

    def _send(self, x: Tensor, balance: float | None) -> tuple[Tensor, Tensor]:
        parameters = self.planes, self.y_vectors, self.bias
        return _run(x, *parameters, self.activation, balance)
