"""Optimisers: with a dense gradient torch's SGD and AdamW, with row gradients lazy ones.

A row gradient names the rows that a batch has visited. Only those rows of the parameter and of the
state are touched: weight decay and momentum apply when a row is visited, and AdamW corrects its
bias by the number of visits of the row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..ops.arrays import check_native, check_writeable
from ..ops.rules import RowGradient, UpdateRule
from ..ops.update import update_rows

Array = NDArray[Any]
Gradient = Array | RowGradient


class Optimizer:
    """What SGD and AdamW share: parameters by name, and their state.

    Attributes
    ----------
    parameters : dict of str to ndarray
        The arrays that `step` writes to.
    lr : float
        Learning rate; may be set between steps.
    """

    kind: str

    def __init__(self, parameters: Mapping[str, Array], lr: float) -> None:
        for name, parameter in parameters.items():
            check_writeable(f"parameter {name!r}", check_native(f"parameter {name!r}", parameter))
        self.parameters = dict(parameters)
        self.lr = _number("lr", lr, least=0.0)
        self._state: dict[str, dict[str, Array]] = {name: {} for name in self.parameters}

    def step(self, gradients: Mapping[str, Gradient]) -> None:
        """Update the named parameters in place.

        Parameters
        ----------
        gradients : mapping of str to ndarray or RowGradient
            A gradient for some or all of the parameters.

        Raises
        ------
        KeyError, TypeError, ValueError
            If a name is unknown or a gradient does not fit its parameter.
        """
        for name, gradient in gradients.items():
            parameter = self._parameter(name)
            if isinstance(gradient, RowGradient):
                width = 1 if gradient.values.ndim == 1 else gradient.values.shape[1]
                update_rows(parameter, gradient, self.rule(name, width=width))
                continue
            if gradient.shape != parameter.shape or gradient.dtype != parameter.dtype:
                raise ValueError(
                    f"the gradient of {name!r} must be {parameter.dtype} of shape "
                    f"{parameter.shape}, got {gradient.dtype} of shape {gradient.shape}"
                )
            self._dense(name, parameter, gradient)

    def rule(self, name: str, *, width: int | None = None) -> UpdateRule:
        """Return the next step of one parameter as a record, for `fff_backward_update`.

        Parameters
        ----------
        name : str
            Name of the parameter.
        width : int, optional
            Numbers in a row of the parameter: by default its last axis if it has three axes, as
            nodes do, else 1, as for the bias of nodes.

        Returns
        -------
        UpdateRule
            Kind, numbers and the state arrays themselves, which the step updates.
        """
        parameter = self._parameter(name)
        if width is None:
            width = parameter.shape[-1] if parameter.ndim == 3 else 1
        return UpdateRule(self.kind, self.settings(), self._row_state(name, parameter, width))

    def state_dict(self) -> dict[str, dict[str, Array]]:
        """Return the state arrays by parameter and word, as copies."""
        return {
            name: {word: array.copy() for word, array in state.items()}
            for name, state in self._state.items()
        }

    def load_state_dict(self, state: Mapping[str, Mapping[str, Array]]) -> None:
        """Take over the state of another optimiser of the same kind and parameters.

        Parameters
        ----------
        state : mapping
            What `state_dict` returned; a parameter that it does not name starts anew.

        Raises
        ------
        ValueError
            If a name, shape or dtype does not fit; nothing has changed then.
        """
        unknown = sorted(set(state) - set(self.parameters))
        if unknown:
            raise ValueError(f"state must name parameters of this optimiser, got {unknown}")
        for name, arrays in state.items():
            for word, array in arrays.items():
                self._check_state(name, word, array)
            if arrays and set(arrays) != set(self._words()):
                raise ValueError(
                    f"state of {name!r} must hold {self._words()} or nothing, got {tuple(arrays)}"
                )
        self._state = {
            name: {word: np.array(array, order="C") for word, array in state.get(name, {}).items()}
            for name in self.parameters
        }

    def _parameter(self, name: str) -> Array:
        if name not in self.parameters:
            names = ", ".join(self.parameters)
            raise KeyError(f"no parameter is called {name!r}; there are {names}")
        return self.parameters[name]

    def _moment(self, name: str, word: str) -> Array:
        """Return a state array shaped like its parameter, zero at first."""
        state = self._state[name]
        if word not in state:
            state[word] = np.zeros_like(self.parameters[name], order="C")
        return state[word]

    def _check_state(self, name: str, word: str, array: Array) -> None:
        """Refuse a state array that does not fit."""
        parameter = self.parameters[name]
        if word not in self._words():
            raise ValueError(f"state of {name!r} must hold {self._words()}, got {word!r}")
        if array.shape != parameter.shape or array.dtype != parameter.dtype:
            raise ValueError(
                f"state {word!r} of {name!r} must be {parameter.dtype} of shape "
                f"{parameter.shape}, got {array.dtype} of shape {array.shape}"
            )

    def _words(self) -> tuple[str, ...]:
        """Return the words of the state."""
        raise NotImplementedError

    def settings(self) -> dict[str, float]:
        """Return the numbers of the rule, by the names of `UpdateRule`."""
        raise NotImplementedError

    def _row_state(self, name: str, parameter: Array, width: int) -> dict[str, Array]:
        """Return the state of a parameter in rows of `width` numbers."""
        raise NotImplementedError

    def _dense(self, name: str, parameter: Array, gradient: Array) -> None:
        """Take one step with a dense gradient."""
        raise NotImplementedError


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
        self.momentum = _number("momentum", momentum, least=0.0)
        self.weight_decay = _number("weight_decay", weight_decay, least=0.0)
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
            _number("betas[0]", betas[0], least=0.0, below=1.0),
            _number("betas[1]", betas[1], least=0.0, below=1.0),
        )
        self.eps = _number("eps", eps, least=0.0)
        self.weight_decay = _number("weight_decay", weight_decay, least=0.0)

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
        return self._state[name].setdefault("steps", np.zeros(1, np.int64))

    def _row_state(self, name: str, parameter: Array, width: int) -> dict[str, Array]:
        steps = self._steps(name)
        n_rows = parameter.size // width
        if len(steps) != n_rows:
            self._state[name]["steps"] = np.full(n_rows, steps[0], np.int64)
        moments = {word: self._moment(name, word) for word in ("mean", "variance")}
        return {**moments, "steps": self._state[name]["steps"]}

    def _dense(self, name: str, parameter: Array, gradient: Array) -> None:
        steps = self._steps(name)
        steps += 1
        mean, variance = self._moment(name, "mean"), self._moment(name, "variance")
        beta1, beta2 = self.betas
        mean += (1 - beta1) * (gradient - mean)
        variance *= beta2
        variance += (1 - beta2) * gradient * gradient
        rows = parameter.reshape(len(steps), -1)  # a view: parameters are C-contiguous
        real = parameter.dtype.type
        size = (self.lr / (1 - beta1 ** steps.astype(np.float64))).astype(real)[:, None]
        root = np.sqrt(1 - beta2 ** steps.astype(np.float64)).astype(real)[:, None]
        parameter *= 1 - self.lr * self.weight_decay
        denominator = np.sqrt(variance).reshape(rows.shape) / root + self.eps
        rows -= size * (mean.reshape(rows.shape) / denominator)

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


def _number(name: str, value: float, *, least: float, below: float = math.inf) -> float:
    """Return a finite number in [least, below), or say what is wrong with it."""
    if not least <= value < below:
        limit = "" if below == math.inf else f" and below {below}"
        raise ValueError(f"{name} must be at least {least}{limit}, got {value}")
    return float(value)
