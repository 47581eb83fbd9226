"""What soft training has in common, whatever the form: its settings, leaks, the hardening loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...nn.optimizer import check_number
from ...ops.hardening import hardening_loss as loss_and_slopes
from ...ops.paths import check_leak, check_temperature, gate_code
from .module import sum_losses
from .tensors import lend, take

#: The options that soft operators of all forms take after the activation, and their draws.
OPTIONS = {"activation": "str", "temperature": "float", "gate": "str", "hardening": "float"}
DRAWS = {"leak": "float", "seed": "Tensor?"}

#: The settings of layers that train softly, by which name soft functions take them.
SETTINGS = ("temperature", "gate", "leak", "hardening")


class SoftTraining(torch.nn.Module):
    """A module that trains softly, and takes hard paths in `eval` mode."""

    hardening_loss: Tensor | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return what copies and pickles hold: not the loss of a forward pass."""
        return {**vars(self), "hardening_loss": None}


def hardening_loss(model: torch.nn.Module) -> Tensor:
    """Return the sum of the hardening losses of the last forward pass of a model.

    Parameters
    ----------
    model : Module
        Holds at least one layer that trains softly, and has run in training mode.

    Returns
    -------
    Tensor, shape ()
        For each layer its weight `hardening` times the mean `fffnb.hardening_loss`: what to add to
        the loss of the model.

    Raises
    ------
    RuntimeError
        If no layer has such a loss.

    Examples
    --------
    >>> import torch
    >>> from fffnb.bridges.torch import LeafFFF, hardening_loss
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 64), LeafFFF(64, 10, 4, 8, hardening=0.1))
    >>> loss = model(torch.ones(3, 8)).square().mean() + hardening_loss(model)
    >>> loss.backward()
    """
    return sum_losses(model, SoftTraining, "hardening_loss", "that trains softly and")


def settings_of(layer: Any) -> dict[str, Any]:
    """Return the settings of a layer, of NumPy or PyTorch, that trains softly."""
    return {word: getattr(layer, word) for word in SETTINGS}


def check_settings(temperature: float, gate: str, leak: float, hardening: float) -> None:
    """Refuse settings that soft functions do not take."""
    check_temperature(temperature)
    gate_code(gate)
    check_leak(leak)
    check_number("hardening", hardening, least=0.0)


def draw_seed(leak: float) -> Tensor | None:
    """Return a seed of the leaks, from PyTorch's generator; None if there are none."""
    return None if leak == 0 else torch.randint(2**63 - 1, ())


def no_leaks(x: Tensor) -> Tensor:
    """Return the leaks of a forward pass without."""
    return x.new_empty(0, dtype=torch.bool)


def weighed_loss(trace: Any, hardening: float, x: Tensor) -> Tensor:
    """Return the hardening loss of a trace, times its weight; 0 without samples."""
    loss = hardening * loss_and_slopes(trace)[0] if hardening != 0 and x.numel() > 0 else 0.0
    return torch.as_tensor(loss, dtype=x.dtype, device=x.device).reshape(())


def slopes_of(trace: Any, hardening: float, grad_loss: Tensor, x: Tensor) -> Any:
    """Return the gradient that scores have from the gradient of this loss, lent."""
    if hardening == 0 or x.numel() == 0:
        return None
    return lend(take(loss_and_slopes(trace)[1]) * (hardening * grad_loss))
