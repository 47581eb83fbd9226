"""What optimisers share."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..ops.arrays import check_native, check_writeable
from ..ops.rules import RowGradient, UpdateRule
from ..ops.update import update_rows
from .namespace import holds_floats, namespace_of, to_host

Array = NDArray[Any]
Gradient = Array | RowGradient


class Optimizer:
    """What SGD and AdamW share: parameters by name, and their state.

    The parameters are NumPy arrays or those of another library, such as CuPy; the state lies where
    they lie.

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
            _check_parameter(f"parameter {name!r}", parameter)
        self.parameters = dict(parameters)
        self.lr = check_number("lr", lr, least=0.0)
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
        """Return the state arrays by parameter and word, as copies in NumPy arrays."""
        return {
            name: {word: to_host(array) for word, array in state.items()}
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
            name: {word: _copied(array, parameter) for word, array in state.get(name, {}).items()}
            for name, parameter in self.parameters.items()
        }

    def with_parameters(self, parameters: Mapping[str, Array]) -> Self:
        """Return an optimiser of other arrays, such as those on a GPU, with the same state."""
        optimizer = copy.copy(self)
        optimizer.parameters, optimizer._state = dict(parameters), {}
        optimizer.load_state_dict(self.state_dict())
        return optimizer

    def _parameter(self, name: str) -> Array:
        if name not in self.parameters:
            names = ", ".join(self.parameters)
            raise KeyError(f"no parameter is called {name!r}; there are {names}")
        return self.parameters[name]

    def _moment(self, name: str, word: str) -> Array:
        """Return a state array shaped like its parameter, zero at first."""
        state = self._state[name]
        if word not in state:
            parameter = self.parameters[name]
            state[word] = namespace_of(parameter).zeros_like(parameter)
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


def _check_parameter(name: str, parameter: Array) -> None:
    """Refuse what cannot be updated in place."""
    if namespace_of(parameter, name) is np:
        check_writeable(name, check_native(name, parameter))
    elif not holds_floats(parameter):
        raise TypeError(f"{name} must be float32 or float64, got {parameter.dtype}")


def _copied(array: Array, parameter: Array) -> Any:
    """Return a copy of a state array that lies where its parameter lies."""
    xp = namespace_of(parameter)
    return np.array(array, order="C") if xp is np else xp.asarray(array, copy=True)


def check_number(name: str, value: float, *, least: float, below: float = math.inf) -> float:
    """Return a finite number in [least, below), or say what is wrong with it."""
    if not least <= value < below:
        limit = "" if below == math.inf else f" and below {below}"
        raise ValueError(f"{name} must be at least {least}{limit}, got {value}")
    return float(value)
