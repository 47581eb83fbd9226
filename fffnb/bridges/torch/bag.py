"""The bag: its operators, its function, and its module."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import DTypeLike
from torch import Tensor

from ... import nn
from ...ops.bag import bag_backward, bag_forward
from ...ops.bag_trace import BagTrace
from ...ops.trace import Gradients, activation_code
from . import rows
from .library import make_operators
from .module import RowsModule
from .tensors import admit, check_gradient, lend, real_of, take


def _forward(
    x: Tensor, nodes: Tensor, bias: Tensor | None, k: int | None, activation: str
) -> tuple[Tensor, ...]:
    """Return y (..., n_out), and scores, rows and starts as a BagTrace has them, empty for None."""
    y, trace = bag_forward(
        lend(x.contiguous()),
        lend(nodes),
        k=k,
        bias=lend(bias),
        activation=activation,
        return_trace=True,
    )
    told = (_none(x) if each is None else take(each) for each in (trace.rows, trace.starts))
    return take(y), take(trace.scores), *told


def _shapes(
    x: Tensor, nodes: Tensor, bias: Tensor | None, k: int | None, activation: str
) -> tuple[Tensor, ...]:
    (*lead, n_in), (n_trees, n_nodes, width) = x.shape, nodes.shape
    rows, starts = _none(x), _none(x)
    if k is not None:
        shape = *lead, n_trees, k
        rows = x.new_empty(shape, dtype=torch.int64)
    elif _tells(x, k):
        shape = (torch.library.get_ctx().new_dynamic_size(),)
        rows = x.new_empty(shape, dtype=torch.int64)
        starts = x.new_empty(x[..., 0].numel() + 1, dtype=torch.int64)
    else:
        shape = *lead, n_trees, n_nodes
    scores = x.new_empty(shape, dtype=real_of(nodes.dtype))
    return x.new_empty((*lead, width - n_in)), scores, rows, starts


def _backward(
    grad_y: Tensor,
    x: Tensor,
    nodes: Tensor,
    bias: Tensor | None,
    scores: Tensor,
    rows: Tensor,
    starts: Tensor,
    k: int | None,
    activation: str,
    *,
    sparse: bool = False,
) -> Gradients:
    """Return the gradients of the tensors."""
    origin = activation, bias is not None, tuple(nodes.shape), x.shape[-1]
    chosen = lend(rows) if _tells(x, k) else None
    trace = BagTrace(lend(scores), chosen, lend(starts) if starts.numel() > 0 else None, *origin)
    samples = lend(grad_y.contiguous()), lend(x.contiguous())
    return bag_backward(*samples, lend(nodes), trace, sparse=sparse)


def _tells(x: Tensor, k: int | None) -> bool:
    """Return whether the trace of a forward pass tells which nodes are chosen."""
    return k is not None or x.device.type == "cpu"


def _none(x: Tensor) -> Tensor:
    """Return what stands for rows or starts that a trace does not tell."""
    return x.new_empty(0, dtype=torch.int64)


forward = make_operators(
    "bag",
    _forward,
    _shapes,
    _backward,
    tensors={"x": "Tensor", "nodes": "Tensor", "bias": "Tensor?"},
    states=("scores", "rows", "starts"),
    options={"k": "int?", "activation": "str"},
)


def bag(
    x: Tensor,
    nodes: Tensor,
    bias: Tensor | None = None,
    *,
    k: int | None,
    activation: str = "identity",
    gradient: Literal["dense", "rows"] = "dense",
) -> Tensor:
    """Mix what the best nodes of each bag say, as `fffnb.bag_forward`; autograd records it.

    Parameters
    ----------
    x : Tensor, shape (..., n_in)
        Samples, of any strides. Under autocast they are cast to the dtype of the nodes.
    nodes, bias, k, activation
        As those of `fffnb.bag_forward`, float32 or float64 tensors.
    gradient : {"dense", "rows"}
        How the gradients of nodes and bias come: see `fff`.

    Returns
    -------
    Tensor, dtype of the nodes, shape (..., n_out)
        The output.

    Raises
    ------
    TypeError, ValueError
        If an argument is no tensor of floats, or of a wrong dtype, shape or layout, or a bag has
        fewer than k nodes.
    RuntimeError
        If tensors lie on different devices.

    Notes
    -----
    The choice of the nodes has no gradient; there are no gradients of gradients. With ``k=None`` on
    the CPU the data say how many nodes are chosen, so that compiled graphs break here.

    Examples
    --------
    >>> import torch, fffnb
    >>> from fffnb.bridges.torch import bag
    >>> nodes = torch.from_numpy(fffnb.init_bag(3, 2, n_nodes=64))
    >>> bag(torch.ones(5, 3), nodes, k=8).shape
    torch.Size([5, 2])
    """
    check_gradient(gradient)
    activation_code(activation)
    x = admit(x, nodes=nodes, bias=bias)
    if gradient == "rows":
        return rows.forward_form(_forward, _backward, (x, nodes, bias), k, activation)
    y: Tensor = forward(x, nodes, bias, k, activation)[0]
    return y


class BagFFF(RowsModule):
    """Layer without a tree: each sample chooses the best nodes of each bag, or all positive ones.

    Parameters
    ----------
    n_in, n_out, n_nodes, k, n_trees, activation, bias, scheme, rng, dtype
        See `fffnb.nn.BagFFF`, whose initial values the parameters have.
    device : torch.device or str, optional
        Where the parameters lie; by default on the CPU.
    gradient : {"dense", "rows"}, default "dense"
        How the gradients of nodes and bias come: see `fff`.

    Attributes
    ----------
    nodes : Parameter, shape (n_trees, n_nodes, n_in + n_out)
        The bags.
    bias : Parameter, shape (n_trees, n_nodes), or None
        What is added to the scores.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As `fffnb.nn.BagFFF`.

    Examples
    --------
    >>> import torch
    >>> from fffnb.bridges.torch import BagFFF
    >>> layer = BagFFF(64, 10, n_nodes=32, k=4)
    >>> layer(torch.ones(3, 64)).shape
    torch.Size([3, 10])
    """

    _names = ("nodes", "bias")

    def __init__(
        self,
        n_in: int,
        n_out: int,
        n_nodes: int,
        *,
        k: int | None,
        n_trees: int = 1,
        activation: str = "identity",
        bias: bool = False,
        scheme: Literal["sphere", "uniform"] = "sphere",
        rng: int | np.random.Generator | None = 0,
        dtype: DTypeLike = np.float32,
        device: Any = None,
        gradient: Literal["dense", "rows"] = "dense",
    ) -> None:
        layer = nn.BagFFF(
            n_in,
            n_out,
            n_nodes,
            k=k,
            n_trees=n_trees,
            activation=activation,
            bias=bias,
            scheme=scheme,
            rng=rng,
            dtype=dtype,
        )
        super().__init__(layer, device, gradient=gradient)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output (..., n_out) for samples x (..., n_in)."""
        options = {"k": self.k, "activation": self.activation, "gradient": self.gradient}
        return bag(x, self.nodes, self.bias, **options)
