"""Balance: what operators of forms with trees compute of it, and the loss that modules keep."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...nn.optimizer import check_number
from ...ops.balance import balance_loss as loss_and_slopes
from .module import sum_losses
from .tensors import lend, real_of, take


class Balanced(torch.nn.Module):
    """A module with trees, which keeps the balance loss of its last pass in training mode."""

    balance: float | None = None
    balance_loss: Tensor | None = None

    def _balance_by(self, balance: float | None) -> None:
        """Take over the weight of the loss, or refuse one that is out of range."""
        self.balance = None if balance is None else check_number("balance", balance, least=0.0)

    def __getstate__(self) -> dict[str, Any]:
        """Return what copies and pickles hold: not the loss of a forward pass."""
        return {**vars(self), "balance_loss": None}

    def forward(self, x: Tensor) -> Tensor:
        """Return the output (..., n_out) for samples x (..., n_in)."""
        balance = self.balance if self.training else None
        y, loss = self._send(x, balance)
        self.balance_loss = None if balance is None else loss
        return y

    def _send(self, x: Tensor, balance: float | None) -> tuple[Tensor, Tensor]:
        """Return the output, and the balance loss of this weight if it is not None."""
        raise NotImplementedError


def balance_loss(model: torch.nn.Module) -> Tensor:
    """Return the sum of the balance losses of the last forward pass of a model.

    Parameters
    ----------
    model : Module
        Holds at least one `FFF` or `FlatFFF` with a weight `balance`, and has run in training mode.

    Returns
    -------
    Tensor, shape ()
        For each layer `fffnb.balance_loss` with this weight: what to add to the loss of the model.

    Raises
    ------
    RuntimeError
        If no layer has such a loss.

    Examples
    --------
    >>> import torch
    >>> from fffnb.bridges.torch import FFF, balance_loss
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 64), FFF(64, 10, depth=4, balance=0.1))
    >>> loss = model(torch.ones(3, 8)).square().mean() + balance_loss(model)
    >>> loss.backward()
    """
    return sum_losses(model, Balanced, "balance_loss", "with a weight of balance that")


def weigh(trace: Any, balance: float | None, x: Tensor) -> Tensor:
    """Return the balance loss of a trace, times its weight; 0 without samples, empty if None."""
    real = real_of(x.dtype)
    if balance is None:
        return x.new_empty(0, dtype=real)
    loss = loss_and_slopes(trace, weight=balance)[0] if x.numel() > 0 else 0.0
    return torch.as_tensor(loss, dtype=real, device=x.device)


def weigh_shape(balance: float | None, x: Tensor) -> Tensor:
    """Return a tensor like what `weigh` returns."""
    return x.new_empty(0 if balance is None else (), dtype=real_of(x.dtype))


def slopes_of(trace: Any, balance: float | None, grad_loss: Tensor | None, x: Tensor) -> Any:
    """Return the gradient that scores have from the gradient of this loss, lent; None without."""
    if balance is None or grad_loss is None or x.numel() == 0:
        return None
    return lend(take(loss_and_slopes(trace, weight=balance)[1]) * grad_loss)
