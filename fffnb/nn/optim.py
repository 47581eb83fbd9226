"""Optimisers: with a dense gradient torch's SGD and AdamW, with row gradients lazy ones.

A row gradient names the rows that a batch has visited. Only those rows of the parameter and of the
state are touched: weight decay and momentum apply when a row is visited, and AdamW corrects its
bias by the number of visits of the row.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .namespace import cast, namespace_of
from .optimizer import Array, Optimizer, check_number


class SGD(Optimizer):
    """Stochastic gradient descent, as torch.optim.SGD.

    Parameters
    ----------
    parameters : mapping of str to ndarray
        Arrays to update in place.
    lr : float
        Learning rate.
    momentum : float, default 0
        Factor on the velocity.
    nesterov : bool, default False
        Look ahead along the velocity; needs a momentum.
    weight_decay : float, default 0
        Factor of the parameter that is added to its gradient.

    Raises
    ------
    ValueError
        If a number is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from fffnb.nn import SGD
    >>> weight = np.ones(2)
    >>> SGD({"weight": weight}, lr=0.5).step({"weight": np.array([1.0, 0.0])})
    >>> weight
    array([0.5, 1. ])
    """

    kind = "sgd"

    def __init__(
        self,
        parameters: Mapping[str, Array],
        lr: float,
        *,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, lr)
        self.momentum = check_number("momentum", momentum, least=0.0)
        self.weight_decay = check_number("weight_decay", weight_decay, least=0.0)
        self.nesterov = bool(nesterov)
        if nesterov and momentum == 0:
            raise ValueError("momentum must be above 0 with nesterov=True, got 0")

    def _words(self) -> tuple[str, ...]:
        return ("momentum",) if self.momentum else ()

    def settings(self) -> dict[str, float]:
        """Return learning rate, momentum, weight decay and whether it is Nesterov's (0 or 1)."""
        return {
            "lr": self.lr,
            "momentum": self.momentum,
            "weight_decay": self.weight_decay,
            "nesterov": float(self.nesterov),
        }

    def _row_state(self, name: str, parameter: Array, width: int) -> dict[str, Array]:
        return {word: self._moment(name, word) for word in self._words()}

    def _dense(self, name: str, parameter: Array, gradient: Array) -> None:
        if self.weight_decay:
            gradient = gradient + self.weight_decay * parameter
        if self.momentum:
            velocity = self._moment(name, "momentum")
            velocity *= self.momentum
            velocity += gradient
            gradient = gradient + self.momentum * velocity if self.nesterov else velocity
        parameter -= self.lr * gradient


class AdamW(Optimizer):
    """Adam with decoupled weight decay, as torch.optim.AdamW.

    Source: Loshchilov and Hutter, "Decoupled Weight Decay Regularization" (arXiv:1711.05101).

    Parameters
    ----------
    parameters : mapping of str to ndarray
        Arrays to update in place.
    lr : float, default 1e-3
        Learning rate.
    betas : pair of float, default (0.9, 0.999)
        Decay of the running mean of the gradient and of its square.
    eps : float, default 1e-8
        Added to the root of the mean square.
    weight_decay : float, default 0.01
        Factor of the parameter, times `lr`, that each step takes away.

    Raises
    ------
    ValueError
        If a number is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from fffnb.nn import AdamW
    >>> weight = np.ones(2)
    >>> AdamW({"weight": weight}, lr=0.1, weight_decay=0.0).step({"weight": np.array([5.0, 0.0])})
    >>> weight.round(6)
    array([0.9, 1. ])
    """

    kind = "adamw"

    def __init__(
        self,
        parameters: Mapping[str, Array],
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(parameters, lr)
        self.betas = (
            check_number("betas[0]", betas[0], least=0.0, below=1.0),
            check_number("betas[1]", betas[1], least=0.0, below=1.0),
        )
        self.eps = check_number("eps", eps, least=0.0)
        self.weight_decay = check_number("weight_decay", weight_decay, least=0.0)

    def _words(self) -> tuple[str, ...]:
        return ("mean", "variance", "steps")

    def settings(self) -> dict[str, float]:
        """Return learning rate, betas, eps and weight decay."""
        return {
            "lr": self.lr,
            "beta1": self.betas[0],
            "beta2": self.betas[1],
            "eps": self.eps,
            "weight_decay": self.weight_decay,
        }

    def _steps(self, name: str) -> Array:
        """Return the step counts: one for the parameter, or one per row once rows were seen."""
        if "steps" not in self._state[name]:
            xp = namespace_of(self.parameters[name])
            self._state[name]["steps"] = xp.zeros(1, dtype=xp.int64)
        return self._state[name]["steps"]

    def _row_state(self, name: str, parameter: Array, width: int) -> dict[str, Array]:
        steps = self._steps(name)
        n_rows = parameter.size // width
        if steps.shape[0] != n_rows:
            xp = namespace_of(steps)
            self._state[name]["steps"] = steps[:1] + xp.zeros(n_rows, dtype=xp.int64)
        moments = {word: self._moment(name, word) for word in ("mean", "variance")}
        return {**moments, "steps": self._state[name]["steps"]}

    def _dense(self, name: str, parameter: Array, gradient: Array) -> None:
        xp = namespace_of(parameter)
        steps = self._steps(name)
        steps += 1
        mean, variance = self._moment(name, "mean"), self._moment(name, "variance")
        beta1, beta2 = self.betas
        mean += (1 - beta1) * (gradient - mean)
        variance *= beta2
        variance += (1 - beta2) * gradient * gradient
        rows, taken = (steps.shape[0], -1), cast(steps, xp.float64)
        size = cast(self.lr / (1 - beta1**taken), parameter.dtype)[:, None]
        root = cast(xp.sqrt(1 - beta2**taken), parameter.dtype)[:, None]
        parameter *= 1 - self.lr * self.weight_decay
        denominator = xp.reshape(xp.sqrt(variance), rows) / root + self.eps
        step = size * (xp.reshape(mean, rows) / denominator)
        parameter -= xp.reshape(step, parameter.shape)

    def _check_state(self, name: str, word: str, array: Array) -> None:
        if word != "steps":
            return super()._check_state(name, word, array)
        parameter = self.parameters[name]
        counts = {1, parameter.size, parameter.size // max(1, parameter.shape[-1])}
        if array.dtype != np.int64 or array.ndim != 1 or len(array) not in counts:
            raise ValueError(
                f"state 'steps' of {name!r} must be int64, one count per row, "
                f"got {array.dtype} of shape {array.shape}"
            )
        if array.min() < 0:
            raise ValueError(f"state 'steps' of {name!r} must not be negative, got {array.min()}")
