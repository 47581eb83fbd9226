"""The FFF layer as a module of PyTorch."""

from __future__ import annotations

from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import DTypeLike
from torch import Tensor

from ... import nn
from ...nn.namespace import to_host
from ...nodes import depth_of
from .function import GRADIENTS, fff


class FFF(torch.nn.Module):
    """Fast FeedForward layer: a forest of which each sample visits one path a tree.

    Parameters
    ----------
    n_in, n_out, depth, n_trees, activation, bias, scheme, rng, dtype
        See `fffnb.nn.FFF`, whose initial values the parameters have.
    device : torch.device or str, optional
        Where the parameters lie; by default on the CPU.
    gradient : {"dense", "rows"}, default "dense"
        How the gradients of nodes and bias come: see `fff`. "dense" works with everything and
        costs 2**depth rows a step; "rows" costs the visited rows, and needs `SGD` or `AdamW` of
        this module.

    Attributes
    ----------
    nodes : Parameter, shape (n_trees, 2**depth - 1, n_in + n_out)
        The forest.
    bias : Parameter, shape (n_trees, 2**depth - 1), or None
        What is added to the scores.

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
        device: Any = None,
        gradient: Literal["dense", "rows"] = "dense",
    ) -> None:
        super().__init__()
        layer = nn.FFF(
            n_in,
            n_out,
            depth,
            n_trees=n_trees,
            activation=activation,
            bias=bias,
            scheme=scheme,
            rng=rng,
            dtype=dtype,
        )
        self._hold(layer, device, gradient)

    @classmethod
    def from_numpy(
        cls,
        layer: nn.FFF,
        *,
        device: Any = None,
        gradient: Literal["dense", "rows"] = "dense",
    ) -> Self:
        """Return a layer of the same structure with copies of the parameters.

        Parameters
        ----------
        layer : fffnb.nn.FFF
            The layer, on NumPy or CuPy arrays.
        device, gradient
            As those of the class.

        Returns
        -------
        FFF
            The layer.

        Examples
        --------
        >>> from fffnb import nn
        >>> from fffnb.bridges.torch import FFF
        >>> FFF.from_numpy(nn.FFF(64, 10, depth=5))
        FFF(n_in=64, n_out=10, depth=5, n_trees=1, activation='identity', bias=False, \
gradient='dense')
        """
        copies = {name: to_host(array) for name, array in layer.parameters.items()}
        module = cls.__new__(cls)
        super(FFF, module).__init__()
        module._hold(layer.with_parameters(copies), device, gradient)
        return module

    def to_numpy(self) -> nn.FFF:
        """Return NumPy's layer of the same structure with copies of the parameters.

        Returns
        -------
        fffnb.nn.FFF
            The layer.

        Raises
        ------
        TypeError
            If the parameters are neither float32 nor float64.

        Examples
        --------
        >>> from fffnb.bridges.torch import FFF
        >>> FFF(64, 10, depth=5).to_numpy().nodes.shape
        (1, 31, 74)
        """
        bias = None if self.bias is None else copied(self.bias)
        return nn.FFF.of(self.n_in, self.activation, copied(self.nodes), bias)

    def _hold(self, layer: nn.FFF, device: Any, gradient: Literal["dense", "rows"]) -> None:
        """Take over the structure of a layer, and its arrays as parameters."""
        if gradient not in GRADIENTS:
            raise ValueError(f"gradient must be 'dense' or 'rows', got {gradient!r}")
        self.n_in, self.n_out, self.activation = layer.n_in, layer.n_out, layer.activation
        self.gradient = gradient
        self.nodes = parameter(layer.nodes, device)
        bias = None if layer.bias is None else parameter(layer.bias, device)
        self.register_parameter("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output (..., n_out) for samples x (..., n_in)."""
        return fff(
            x,
            self.nodes,
            self.bias,
            activation=self.activation,
            n_out=self.n_out,
            gradient=self.gradient,
        )

    def extra_repr(self) -> str:
        """Return the structure, as it is shown."""
        n_trees, n_nodes = self.nodes.shape[:2]
        return (
            f"n_in={self.n_in}, n_out={self.n_out}, depth={depth_of(n_nodes)}, "
            f"n_trees={n_trees}, activation={self.activation!r}, bias={self.bias is not None}, "
            f"gradient={self.gradient!r}"
        )


def parameter(array: Any, device: Any) -> torch.nn.Parameter:
    """Return an array as a parameter on a device."""
    return torch.nn.Parameter(torch.from_numpy(array).to(device))


def copied(tensor: Tensor) -> Any:
    """Return a copy of a tensor as a NumPy array."""
    return tensor.detach().cpu().numpy().copy()
