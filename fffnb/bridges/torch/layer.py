"""The FFF layer as a module of PyTorch."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike
from torch import Tensor

from ... import nn
from .balance import Balanced
from .function import send
from .module import RowsModule


class FFF(Balanced, RowsModule):
    """Fast FeedForward layer: a forest of which each sample visits one path a tree.

    Parameters
    ----------
    n_in, n_out, depth, n_trees, activation, bias, straight_through, scheme, rng, dtype
        See `fffnb.nn.FFF`, whose initial values the parameters have.
    device : torch.device or str, optional
        Where the parameters lie; by default on the CPU.
    gradient : {"dense", "rows"}, default "dense"
        How the gradients of nodes and bias come: see `fff`. "dense" works with everything and
        costs 2**depth rows a step; "rows" costs the visited rows, and needs `SGD` or `AdamW` of
        this module.
    balance : float, optional
        Weight of `balance_loss`, which a forward pass in training mode keeps: add it to the loss of
        the model. An attribute that may be set between steps.

    Attributes
    ----------
    nodes : Parameter, shape (n_trees, 2**depth - 1, n_in + n_out)
        The forest.
    bias : Parameter, shape (n_trees, 2**depth - 1), or None
        What is added to the scores.
    balance_loss : Tensor, shape (), or None
        That of the last forward pass in training mode, times its weight.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As `fffnb.nn.FFF`, or if `gradient` is unknown.

    Examples
    --------
    >>> import torch
    >>> from fffnb.bridges.torch import FFF
    >>> layer = FFF(64, 10, depth=5, n_trees=4)
    >>> layer(torch.ones(3, 64)).shape
    torch.Size([3, 10])
    """

    _names = ("nodes", "bias")
    _shared = ("straight_through",)
    _own = (*RowsModule._own, "balance")

    def __init__(
        self,
        n_in: int,
        n_out: int,
        depth: int | None = None,
        *,
        n_trees: int = 1,
        activation: str = "identity",
        bias: bool = False,
        straight_through: float | None = None,
        scheme: Literal["sphere", "uniform"] = "sphere",
        rng: int | np.random.Generator | None = 0,
        dtype: DTypeLike = np.float32,
        device: Any = None,
        gradient: Literal["dense", "rows"] = "dense",
        balance: float | None = None,
    ) -> None:
        layer = nn.FFF(
            n_in,
            n_out,
            depth,
            n_trees=n_trees,
            activation=activation,
            bias=bias,
            straight_through=straight_through,
            scheme=scheme,
            rng=rng,
            dtype=dtype,
        )
        super().__init__(layer, device, gradient=gradient, balance=balance)

    def _hold(
        self,
        layer: Any,
        device: Any,
        gradient: Literal["dense", "rows"] = "dense",
        balance: float | None = None,
    ) -> None:
        super()._hold(layer, device, gradient)
        self._balance_by(balance)

    def _send(self, x: Tensor, balance: float | None) -> tuple[Tensor, Tensor]:
        options = self.activation, self.n_out, self.gradient, self.straight_through
        return send(x, self.nodes, self.bias, *options, balance)
