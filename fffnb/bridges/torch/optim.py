"""SGD and AdamW that step visited rows alone where a gradient is sparse.

Parameters with dense gradients take the steps of torch's own optimisers. A row takes the step that
it would take if only its own visits counted: weight decay and momentum apply when it is visited,
and AdamW corrects its bias by the row's own number of steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from ...ops.rules import UpdateRule
from ...ops.update import update_rows
from .rows import Claim, as_rows, claims
from .tensors import lend

#: Why a state does not fit the gradient at hand.
MIXED = "got that of the other kind of gradient: make another optimiser for another `gradient`"


class _RowSteps(torch.optim.Optimizer):
    """What both optimisers share: sparse gradients go to kernels, all others to torch."""

    dense: type[torch.optim.Optimizer]

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step with the gradients that the parameters have.

        Parameters
        ----------
        closure : callable, optional
            Evaluates the model again and returns the loss.

        Returns
        -------
        loss
            What `closure` returned, or None.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        given = {each: each.grad for each in self._parameters() if each.grad is not None}
        sparse = {each: gradient for each, gradient in given.items() if gradient.is_sparse}
        if len(sparse) < len(given):
            self._step_dense(sparse)
        for parameter, gradient in sparse.items():
            rule = self.row_rule(parameter, gradient.sparse_dim())
            update_rows(lend(parameter), as_rows(gradient), rule)
            torch.autograd.graph.increment_version(parameter)
        self._claim()
        return loss

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters: see `torch.optim.Optimizer.add_param_group`."""
        super().add_param_group(param_group)
        self._claim()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over the state of a pickled optimiser."""
        super().__setstate__(state)
        self._claim()

    def row_rule(self, parameter: Tensor, n_axes: int) -> UpdateRule:
        """Return the next step of the rows of a parameter, which its first axes count."""
        group = next(
            group
            for group in self.param_groups
            if any(parameter is other for other in group["params"])
        )
        state = self._row_state(group, parameter, math.prod(parameter.shape[:n_axes]))
        lent = {word: lend(held) for word, held in state.items()}
        return UpdateRule(self.kind, self._numbers(group), lent)

    def _parameters(self) -> Iterator[Tensor]:
        """Yield the parameters of all groups."""
        for group in self.param_groups:
            yield from group["params"]

    def _step_dense(self, sparse: dict[Tensor, Tensor]) -> None:
        """Let torch step the parameters without sparse gradients."""
        for parameter in sparse:
            parameter.grad = None
        try:
            self._check_dense()
            without_hooks(self.dense.step)(self)
        finally:
            for parameter, gradient in sparse.items():
                parameter.grad = gradient

    def _check_dense(self) -> None:
        """Refuse dense gradients of parameters whose state is one of rows."""

    def _claim(self) -> None:
        """Let backward passes step the parameters, once from now on, if that is asked for."""
        if self.defaults.get("in_backward"):
            for parameter in self._parameters():
                claims[parameter] = Claim(self)

    def _moment(self, parameter: Tensor, word: str) -> Tensor:
        """Return a state tensor like its parameter, by torch's name for it; zero at first."""
        state = self.state[parameter]
        if word not in state:
            state[word] = torch.zeros_like(parameter)
        return state[word]


class SGD(_RowSteps, torch.optim.SGD):
    """Stochastic gradient descent, as `torch.optim.SGD`; sparse gradients step their rows alone.

    Parameters
    ----------
    params : iterable of Parameter, or of dict
        Parameters or groups of them, also such as have dense gradients.
    lr : float, default 1e-3
        Learning rate.
    momentum : float, default 0
        Factor on the velocity.
    weight_decay : float, default 0
        Factor of the parameter that is added to its gradient.
    nesterov : bool, default False
        Look ahead along the velocity; needs a momentum.
    in_backward : bool, default False
        Step the nodes of FFF layers with row gradients in the backward pass itself: see Notes.

    Raises
    ------
    ValueError
        If a number is out of range.

    Notes
    -----
    With ``in_backward=True`` nodes of FFF layers with row gradients, and their biases, never have a
    gradient: ``loss.backward()`` steps them as soon as it knows how, which saves writing and
    reading the rows, and on a GPU waiting for their number. `step` then moves the other parameters,
    and must come before the next backward pass, which is refused otherwise; so is a second use of a
    layer in one pass, and a step where processes train together. ``torch.autograd.grad`` of other
    tensors steps nothing. Gradient scalers cannot see such steps: do not use them with it.

    Examples
    --------
    >>> import torch
    >>> from fffnb.bridges.torch import FFF, SGD
    >>> layer = FFF(64, 10, depth=5, gradient="rows")
    >>> optimizer = SGD(layer.parameters(), lr=0.1)
    >>> layer(torch.ones(3, 64)).sum().backward()
    >>> optimizer.step()
    """

    kind, dense = "sgd", torch.optim.SGD

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        *,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        in_backward: bool = False,
    ) -> None:
        super().__init__(
            params, lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov
        )
        self.defaults["in_backward"] = in_backward
        self._claim()

    def _numbers(self, group: dict[str, Any]) -> dict[str, float]:
        words = ("lr", "momentum", "weight_decay", "nesterov")
        return {word: float(group[word]) for word in words}

    def _row_state(
        self, group: dict[str, Any], parameter: Tensor, n_rows: int
    ) -> dict[str, Tensor]:
        if not group["momentum"]:
            return {}
        return {"momentum": self._moment(parameter, "momentum_buffer")}


class AdamW(_RowSteps, torch.optim.AdamW):
    """Adam with decoupled weight decay, as `torch.optim.AdamW`, which takes no sparse gradients.

    Source: Loshchilov and Hutter, "Decoupled Weight Decay Regularization" (arXiv:1711.05101).

    Parameters
    ----------
    params : iterable of Parameter, or of dict
        Parameters or groups of them, also such as have dense gradients.
    lr : float, default 1e-3
        Learning rate.
    betas : pair of float, default (0.9, 0.999)
        Decay of the running mean of the gradient and of its square.
    eps : float, default 1e-8
        Added to the root of the mean square.
    weight_decay : float, default 0.01
        Factor of the parameter, times `lr`, that each step takes away.
    in_backward : bool, default False
        Step the nodes of FFF layers with row gradients in the backward pass itself: see `SGD`.

    Raises
    ------
    ValueError
        If a number is out of range.

    Examples
    --------
    >>> import torch
    >>> from fffnb.bridges.torch import FFF, AdamW
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 64), FFF(64, 10, depth=5, gradient="rows"))
    >>> optimizer = AdamW(model.parameters(), lr=1e-2)
    >>> model(torch.ones(3, 8)).sum().backward()
    >>> optimizer.step()
    """

    kind, dense = "adamw", torch.optim.AdamW

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        in_backward: bool = False,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay)
        self.defaults["in_backward"] = in_backward
        self._claim()

    def _numbers(self, group: dict[str, Any]) -> dict[str, float]:
        beta1, beta2 = group["betas"]
        numbers = {word: float(group[word]) for word in ("lr", "eps", "weight_decay")}
        return {**numbers, "beta1": float(beta1), "beta2": float(beta2)}

    def _row_state(
        self, group: dict[str, Any], parameter: Tensor, n_rows: int
    ) -> dict[str, Tensor]:
        mean, variance = (self._moment(parameter, word) for word in ("exp_avg", "exp_avg_sq"))
        state = self.state[parameter]
        if "step" not in state:
            state["step"] = torch.zeros(n_rows, dtype=torch.int64, device=parameter.device)
        if state["step"].ndim != 1:
            raise ValueError(f"the state of rows must count the steps of each, {MIXED}")
        state["step"] = state["step"].to(parameter.device)  # a loaded one may be elsewhere
        return {"mean": mean, "variance": variance, "steps": state["step"]}

    def _check_dense(self) -> None:
        for parameter in self._parameters():
            steps = self.state.get(parameter, {}).get("step")
            if parameter.grad is not None and steps is not None and torch.as_tensor(steps).ndim:
                raise ValueError(f"the state of dense gradients must count all steps, {MIXED}")


def without_hooks(step: Any) -> Any:
    """Return a step of torch's without the hooks that it runs, which have run already."""
    return step.__wrapped__ if hasattr(step, "hooked") else step
