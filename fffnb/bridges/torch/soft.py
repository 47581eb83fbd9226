"""Soft training of the tree: its operators, its function, and its module."""

from __future__ import annotations

from typing import Any, Self

from torch import Tensor

from ... import nn
from ...ops.soft import fff_backward_soft, fff_forward_soft
from ...ops.soft_trace import SoftTrace
from ...ops.trace import Gradients, activation_code
from .hardening import (
    DRAWS,
    OPTIONS,
    SoftTraining,
    check_settings,
    draw_seed,
    no_leaks,
    settings_of,
    slopes_of,
    weighed_loss,
)
from .layer import FFF
from .library import make_operators
from .tensors import admit, lend, take


def _forward(
    x: Tensor,
    nodes: Tensor,
    bias: Tensor | None,
    activation: str,
    temperature: float,
    gate: str,
    hardening: float,
    leak: float,
    seed: Tensor | None,
) -> tuple[Tensor, ...]:
    """Return y (..., n_out), the weighed loss, and scores, weights and leaks of all nodes."""
    y, trace = fff_forward_soft(
        lend(x.contiguous()),
        lend(nodes),
        temperature=temperature,
        gate=gate,
        leak=leak,
        rng=None if seed is None else int(seed),
        bias=lend(bias),
        activation=activation,
        return_trace=True,
    )
    loss = weighed_loss(trace, hardening, x)
    leaks = no_leaks(x) if trace.leaks is None else take(trace.leaks)
    return take(y), loss, take(trace.scores), take(trace.weights), leaks


def _shapes(
    x: Tensor,
    nodes: Tensor,
    bias: Tensor | None,
    activation: str,
    temperature: float,
    gate: str,
    hardening: float,
    leak: float,
    seed: Tensor | None,
) -> tuple[Tensor, ...]:
    lead, n_in = x.shape[:-1], x.shape[-1]
    scores = x.new_empty((*lead, *nodes.shape[:2]))
    leaks = no_leaks(x) if leak == 0 else scores.bool()
    y = x.new_empty((*lead, nodes.shape[2] - n_in))
    return y, x.new_empty(()), scores, scores.clone(), leaks


def _backward(
    grad_y: Tensor,
    grad_loss: Tensor,
    x: Tensor,
    nodes: Tensor,
    bias: Tensor | None,
    scores: Tensor,
    weights: Tensor,
    leaks: Tensor,
    activation: str,
    temperature: float,
    gate: str,
    hardening: float,
) -> Gradients:
    """Return the gradients of the tensors."""
    trace = SoftTrace(
        scores=lend(scores),
        weights=lend(weights),
        leaks=lend(leaks) if leaks.numel() > 0 else None,
        activation=activation,
        gate=gate,
        temperature=temperature,
        has_bias=bias is not None,
        nodes_shape=tuple(nodes.shape),
        n_in=x.shape[-1],
    )
    return fff_backward_soft(
        lend(grad_y.contiguous()),
        lend(x.contiguous()),
        lend(nodes),
        trace,
        grad_scores=slopes_of(trace, hardening, grad_loss, x),
    )


forward = make_operators(
    "soft",
    _forward,
    _shapes,
    _backward,
    tensors={"x": "Tensor", "nodes": "Tensor", "bias": "Tensor?"},
    values=("y", "loss"),
    states=("scores", "weights", "leaks"),
    options=OPTIONS,
    draws=DRAWS,
)


def fff_soft(
    x: Tensor,
    nodes: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str = "identity",
    temperature: float = 1.0,
    gate: str = "sigmoid",
    leak: float = 0.0,
    hardening: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Send samples down all paths at once, as `fffnb.fff_forward_soft`; autograd records it.

    Parameters
    ----------
    x : Tensor, shape (..., n_in)
        Samples, of any strides. Under autocast they are cast to the dtype of the nodes.
    nodes, bias, activation, temperature, gate, leak
        As those of `fffnb.fff_forward_soft`, float32 or float64 tensors. PyTorch's generator draws
        the seed of the leaks.
    hardening : float, default 0
        Weight of the mean `fffnb.hardening_loss`.

    Returns
    -------
    y : Tensor, dtype of the nodes, shape (..., n_out)
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
        As `fffnb.fff_forward_soft`.

    Notes
    -----
    The gradients are dense, those of the decisions included; there are none of gradients.

    Examples
    --------
    >>> import torch, fffnb
    >>> from fffnb.bridges.torch import fff_soft
    >>> nodes = torch.from_numpy(fffnb.init_nodes(3, 2, depth=4))
    >>> y, loss = fff_soft(torch.ones(5, 3), nodes, temperature=0.5, hardening=0.1)
    >>> y.shape, loss.shape
    (torch.Size([5, 2]), torch.Size([]))
    """
    activation_code(activation)
    check_settings(temperature, gate, leak, hardening)
    x = admit(x, nodes=nodes, bias=bias)
    options = activation, temperature, gate, hardening
    y, loss, *_ = forward(x, nodes, bias, *options, leak, draw_seed(leak))
    return y, loss


class SoftFFF(SoftTraining):
    """An FFF layer that trains all of its nodes softly, and takes hard paths in `eval` mode.

    Parameters
    ----------
    layer : FFF
        The layer to train, which becomes a module of this one.
    temperature, gate, leak, hardening : float, str, float, float
        See `fff_soft`; attributes that may be set between steps.

    Attributes
    ----------
    hardening_loss : Tensor, shape (), or None
        The loss of the last forward pass in training mode, times its weight: see `hardening_loss`.

    Raises
    ------
    TypeError, ValueError
        If an argument is of a wrong kind or out of range.

    Examples
    --------
    >>> import torch
    >>> from fffnb.bridges.torch import FFF, SoftFFF
    >>> layer = SoftFFF(FFF(64, 10, depth=5), temperature=0.5, hardening=0.1)
    >>> loss = layer(torch.ones(3, 64)).square().mean() + layer.hardening_loss
    >>> loss.backward()
    >>> layer.eval()(torch.ones(3, 64)).shape
    torch.Size([3, 10])
    """

    def __init__(
        self,
        layer: FFF,
        *,
        temperature: float = 1.0,
        gate: str = "sigmoid",
        leak: float = 0.0,
        hardening: float = 0.0,
    ) -> None:
        if not isinstance(layer, FFF):
            raise TypeError(f"layer must be PyTorch's FFF, got {type(layer)}")
        super().__init__()
        self.layer = layer
        check_settings(temperature, gate, leak, hardening)
        self.temperature, self.gate = temperature, gate
        self.leak, self.hardening = leak, hardening

    @classmethod
    def from_numpy(cls, layer: nn.SoftFFF, *, device: Any = None) -> Self:
        """Return a layer of the same structure and settings with copies of the parameters.

        Parameters
        ----------
        layer : fffnb.nn.SoftFFF
            The layer, on NumPy or CuPy arrays.
        device : torch.device or str, optional
            Where the parameters lie; by default on the CPU.

        Returns
        -------
        SoftFFF
            The layer.
        """
        return cls(FFF.from_numpy(layer.layer, device=device), **settings_of(layer))

    def to_numpy(self) -> nn.SoftFFF:
        """Return NumPy's layer of the same structure and settings with copies of the parameters.

        Returns
        -------
        fffnb.nn.SoftFFF
            The layer.
        """
        return nn.SoftFFF(self.layer.to_numpy(), **settings_of(self))

    def forward(self, x: Tensor) -> Tensor:
        """Return the output (..., n_out) for samples x (..., n_in)."""
        self.hardening_loss = None
        layer = self.layer
        if not self.training:
            return layer(x)
        tensors, activation = (layer.nodes, layer.bias), layer.activation
        y, self.hardening_loss = fff_soft(x, *tensors, activation=activation, **settings_of(self))
        return y

    def extra_repr(self) -> str:
        """Return the settings, as they are shown."""
        return ", ".join(f"{word}={value!r}" for word, value in settings_of(self).items())
