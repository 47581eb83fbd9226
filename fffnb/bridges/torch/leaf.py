"""The leaf form: its functions, hard and soft, and its module."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike
from torch import Tensor

from ... import nn
from ...leaves import LeafBias
from ...ops.trace import activation_code
from . import leaf_operators
from .hardening import SETTINGS, SoftTraining, check_settings, draw_seed, settings_of
from .module import FormModule
from .tensors import admit


def leaf(
    x: Tensor,
    routers: Tensor,
    leaves: Tensor,
    bias: LeafBias | None = None,
    *,
    activation: str = "relu",
) -> Tensor:
    """Send samples to one leaf a tree, as `fffnb.leaf_forward`; autograd records it.

    Parameters
    ----------
    x : Tensor, shape (..., n_in)
        Samples, of any strides. Under autocast they are cast to the dtype of the routers.
    routers, leaves, bias, activation
        As those of `fffnb.leaf_forward`, float32 or float64 tensors.

    Returns
    -------
    Tensor, dtype of the routers, shape (..., n_out)
        The output.

    Raises
    ------
    TypeError, ValueError
        If an argument is no tensor of floats, or of a wrong dtype, shape or layout.
    RuntimeError
        If tensors lie on different devices.

    Notes
    -----
    The gradients are dense. Routers and their bias have none, as the choice of the leaf has none:
    `leaf_soft` trains them. There are no gradients of gradients.

    Examples
    --------
    >>> import torch, fffnb
    >>> from fffnb.bridges.torch import leaf
    >>> routers, leaves, _ = fffnb.init_leaf(3, 2, depth=4, width=8)
    >>> leaf(torch.ones(5, 3), torch.from_numpy(routers), torch.from_numpy(leaves)).shape
    torch.Size([5, 2])
    """
    activation_code(activation)
    x = _admit(x, routers, leaves, bias)
    routed, *biases = (None, None, None) if bias is None else bias
    routed = None if routed is None else routed.detach()
    arguments = x, routers.detach(), leaves, routed, *biases
    y: Tensor = leaf_operators.hard(*arguments, activation)[0]
    return y


def leaf_soft(
    x: Tensor,
    routers: Tensor,
    leaves: Tensor,
    bias: LeafBias | None = None,
    *,
    activation: str = "relu",
    temperature: float = 1.0,
    gate: str = "sigmoid",
    leak: float = 0.0,
    hardening: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Send samples to all leaves at once, as `fffnb.leaf_forward_soft`; autograd records it.

    Parameters
    ----------
    x : Tensor, shape (..., n_in)
        Samples, of any strides. Under autocast they are cast to the dtype of the routers.
    routers, leaves, bias, activation, temperature, gate, leak
        As those of `fffnb.leaf_forward_soft`, float32 or float64 tensors. PyTorch's generator draws
        the seed of the leaks.
    hardening : float, default 0
        Weight of the mean `fffnb.hardening_loss`.

    Returns
    -------
    y : Tensor, dtype of the routers, shape (..., n_out)
        The output.
    loss : Tensor, shape ()
        The hardening loss, times its weight: what to add to the loss of the model.

    Raises
    ------
    TypeError, ValueError
        If an argument is no tensor of floats, or of a wrong dtype, shape or layout, or a number is
        out of range.
    RuntimeError
        If tensors lie on different devices.
    MemoryError
        As `fffnb.leaf_forward_soft`.

    Notes
    -----
    The gradients are dense, those of the routers included; there are none of gradients.

    Examples
    --------
    >>> import torch, fffnb
    >>> from fffnb.bridges.torch import leaf_soft
    >>> routers, leaves = map(torch.from_numpy, fffnb.init_leaf(3, 2, depth=4, width=8)[:2])
    >>> y, loss = leaf_soft(torch.ones(5, 3), routers, leaves, hardening=0.1)
    >>> y.shape, loss.shape
    (torch.Size([5, 2]), torch.Size([]))
    """
    activation_code(activation)
    check_settings(temperature, gate, leak, hardening)
    x = _admit(x, routers, leaves, bias)
    biases = (None, None, None) if bias is None else bias
    options = activation, temperature, gate, hardening
    seed = draw_seed(leak)
    y, loss, *_ = leaf_operators.soft(x, routers, leaves, *biases, *options, leak, seed)
    return y, loss


def _admit(x: Any, routers: Any, leaves: Any, bias: Any) -> Tensor:
    """Return samples as operators take them, or say what is wrong with the tensors."""
    if bias is None:
        return admit(x, routers=routers, leaves=leaves)
    if not isinstance(bias, LeafBias):
        raise TypeError(f"bias must be a LeafBias, got {type(bias).__name__}")
    biases = {f"bias.{name}": tensor for name, tensor in bias._asdict().items()}
    return admit(x, routers=routers, leaves=leaves, **biases)


class LeafFFF(SoftTraining, FormModule):
    """Layer of the first FFF paper: routers choose a small network, softly in training.

    In training mode a sample visits all leaves, as `leaf_soft` says, in `eval` mode one a tree.

    Parameters
    ----------
    n_in, n_out, depth, width, n_trees, activation, bias, dtype
        See `fffnb.nn.LeafFFF`, whose initial values the parameters have.
    temperature, gate, leak, hardening : float, str, float, float
        See `leaf_soft`; attributes that may be set between steps. A state_dict does not hold them.
    rng : int, numpy.random.Generator or None, default 0
        Seed or generator of the initial values; leaks follow from PyTorch's generator.
    device : torch.device or str, optional
        Where the parameters lie; by default on the CPU.

    Attributes
    ----------
    routers : Parameter, shape (n_trees, 2**depth - 1, n_in)
        The vectors that choose the leaf.
    leaves : Parameter, shape (n_trees, 2**depth, width, n_in + n_out)
        The hidden neurons of the leaves.
    router_bias, hidden_bias, output_bias : Parameter or None
        The biases: see `fffnb.LeafBias`.
    hardening_loss : Tensor, shape (), or None
        The loss of the last forward pass in training mode, times its weight: see `hardening_loss`.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As `fffnb.nn.LeafFFF`.

    Examples
    --------
    >>> import torch
    >>> from fffnb.bridges.torch import LeafFFF
    >>> layer = LeafFFF(64, 10, depth=4, width=8, hardening=0.1)
    >>> loss = layer(torch.ones(3, 64)).square().mean() + layer.hardening_loss
    >>> loss.backward()
    >>> layer.eval()(torch.ones(3, 64)).shape
    torch.Size([3, 10])
    """

    _names = ("routers", "leaves", "router_bias", "hidden_bias", "output_bias")
    _shared = SETTINGS

    def __init__(
        self,
        n_in: int,
        n_out: int,
        depth: int,
        width: int,
        *,
        n_trees: int = 1,
        activation: str = "relu",
        bias: bool = True,
        temperature: float = 1.0,
        gate: str = "sigmoid",
        leak: float = 0.0,
        hardening: float = 0.0,
        rng: int | np.random.Generator | None = 0,
        dtype: DTypeLike = np.float32,
        device: Any = None,
    ) -> None:
        layer = nn.LeafFFF(
            n_in,
            n_out,
            depth,
            width,
            n_trees=n_trees,
            activation=activation,
            bias=bias,
            temperature=temperature,
            gate=gate,
            leak=leak,
            hardening=hardening,
            rng=rng,
            dtype=dtype,
        )
        super().__init__(layer, device)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output (..., n_out) for samples x (..., n_in)."""
        self.hardening_loss = None
        bias = None
        if self.output_bias is not None:
            bias = LeafBias(self.router_bias, self.hidden_bias, self.output_bias)
        tensors = self.routers, self.leaves, bias
        if not self.training:
            return leaf(x, *tensors, activation=self.activation)
        options = {"activation": self.activation, **settings_of(self)}
        y, self.hardening_loss = leaf_soft(x, *tensors, **options)
        return y
