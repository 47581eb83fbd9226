"""`fff`: the FFF layer as a function of tensors that autograd records."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ...ops.arrays import check_nodes_shape, output_width
from ...ops.paths import check_temperature
from ...ops.trace import activation_code
from . import operators, rows
from .tensors import admit, check_gradient


def fff(
    x: Tensor,
    nodes: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str = "identity",
    n_out: int | None = None,
    gradient: Literal["dense", "rows"] = "dense",
    straight_through: float | None = None,
) -> Tensor:
    """Send samples down the trees, as `fffnb.fff_forward`, and let autograd record it.

    Parameters
    ----------
    x : Tensor, shape (..., n_in)
        Samples, of any strides. Under autocast they are cast to the dtype of the nodes, which stay
        what they are; otherwise they must have it.
    nodes : Tensor, shape (n_trees, 2**depth - 1, n_in + n_out)
        The forest, contiguous: float32 or float64, on a GPU also float16 and bfloat16.
    bias : Tensor, shape (n_trees, 2**depth - 1), optional
        Added to the scores: of the dtype of the nodes, beside nodes of 16 bits float32.
    activation : {"identity", "relu", "gelu", "relu2", "silu", "tanh"}
        See `fffnb.fff_forward`.
    n_out : int, optional
        Width of the output, checked against the nodes.
    gradient : {"dense", "rows"}
        How the gradients of nodes and bias come. "dense": as tensors like them, for any optimiser,
        `torch.compile`, export, CUDA graphs and DDP; a step writes and reads all 2**depth rows.
        "rows": as sparse COO tensors of the visited rows, for `SGD` and `AdamW` of this module;
        a step costs what the visited rows cost. Optimisers that take no sparse gradients refuse
        them, compiled graphs break before them, and on a GPU the backward pass waits for the
        number of rows.
    straight_through : float, optional
        Train the decisions of the path too: the backward pass adds the gradient of
        `fffnb.straight_through` at this temperature.

    Returns
    -------
    Tensor, dtype of the nodes, shape (..., n_out)
        The output.

    Raises
    ------
    TypeError, ValueError
        If an argument is no tensor of floats, or of a wrong dtype, shape or layout.
    RuntimeError
        If tensors lie on different devices.

    Notes
    -----
    Unless it is trained straight through, the choice of the path has no gradient; there are no
    gradients of gradients, and none in forward mode.

    Examples
    --------
    >>> import torch, fffnb
    >>> from fffnb.bridges.torch import fff
    >>> x, nodes = torch.ones(5, 3), torch.from_numpy(fffnb.init_nodes(3, 2, depth=4))
    >>> fff(x, nodes.requires_grad_()).sum().backward()
    >>> nodes.grad.shape
    torch.Size([1, 15, 5])
    """
    return send(x, nodes, bias, activation, n_out, gradient, straight_through)[0]


def send(
    x: Tensor,
    nodes: Tensor,
    bias: Tensor | None,
    activation: str,
    n_out: int | None,
    gradient: str,
    straight_through: float | None,
    balance: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Return what `fff` does, and the balance loss of this weight, empty if it is None."""
    check_gradient(gradient)
    activation_code(activation)
    if straight_through is not None:
        check_temperature(straight_through)
    x = admit(x, nodes=nodes, bias=bias)
    _check_sizes(x, nodes, n_out)
    given = x, nodes, bias, activation, straight_through, balance
    y, *_, loss = rows.forward(*given) if gradient == "rows" else operators.forward(*given)
    return y, loss


def _check_sizes(x: Tensor, nodes: Tensor, n_out: int | None) -> None:
    """Refuse samples and nodes that do not fit each other, or no kernel."""
    if nodes.device.type == "cpu" and nodes.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"nodes must be float32 or float64 on the CPU, got {nodes.dtype}")
    if x.dtype != nodes.dtype:
        raise TypeError(
            f"x must have the dtype of nodes, {nodes.dtype}, got {x.dtype}: "
            "cast it, or run under torch.autocast"
        )
    check_nodes_shape(tuple(nodes.shape))
    if x.ndim == 0:
        raise ValueError("x must have shape (..., n_in), got a number")
    output_width(x.shape[-1], tuple(nodes.shape), n_out)
