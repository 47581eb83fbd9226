"""Optimiser steps that touch only the rows they name."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import cpu
from . import tree_cuda
from .arrays import Array, check_native, check_shape, check_writeable, unlocked
from .device import kind_of
from .rules import RowGradient, UpdateRule, check_rule


def update_rows(parameter: Array, gradient: RowGradient, rule: UpdateRule) -> None:
    """Take one optimiser step on the rows that a gradient names, in place.

    Each row takes the step that torch's optimiser would take if only its own visits counted: weight
    decay and momentum apply when the row is visited, and AdamW corrects its bias by the row's own
    number of steps. Other rows of `parameter` and of the state are neither read nor written.

    Parameters
    ----------
    parameter : ndarray, float32 or float64, shape (..., n) or (...)
        The parameter, C-contiguous; with values of shape (n_rows, n) its rows are its vectors of
        length n, with values (n_rows,) its single numbers.
    gradient : RowGradient
        Rows and values, of the dtype of `parameter`.
    rule : UpdateRule
        The step; its state is updated in place.

    Raises
    ------
    TypeError, ValueError
        If anything does not fit `parameter`; nothing is written then.

    Examples
    --------
    >>> import numpy as np
    >>> import fffnb
    >>> weights = np.ones((4, 2))
    >>> gradient = fffnb.RowGradient(np.array([1, 3]), np.ones((2, 2)), None, 2)
    >>> numbers = {"lr": 0.5, "momentum": 0.0, "weight_decay": 0.0, "nesterov": 0.0}
    >>> fffnb.update_rows(weights, gradient, fffnb.UpdateRule("sgd", numbers, {}))
    >>> weights[:, 0]
    array([1. , 0.5, 1. , 0.5])
    """
    if not isinstance(gradient, RowGradient):
        raise TypeError(f"gradient must be a RowGradient, got {type(gradient).__name__}")
    kind = kind_of(parameter)
    if kind is not None:
        return tree_cuda.update_rows(kind, parameter, gradient, rule)
    parameter = check_writeable("parameter", check_native("parameter", parameter))
    rows = check_native("gradient.rows", gradient.rows, np.dtype(np.int64))
    values = check_native("gradient.values", gradient.values, parameter.dtype)
    if values.ndim not in (1, 2) or rows.shape != values.shape[:1] or gradient.count != len(rows):
        raise ValueError(
            "gradient must hold count rows and as many values, "
            f"got rows {rows.shape}, values {values.shape}, count {gradient.count}"
        )
    width = 1 if values.ndim == 1 else values.shape[1]
    if values.ndim == 2 and parameter.shape[-1:] != (width,):
        raise ValueError(
            f"gradient.values must have rows of {parameter.shape[-1:]} like parameter, "
            f"got {values.shape}"
        )
    table = parameter.reshape(-1, width)
    if len(rows) == 0:
        return
    if rows[0] < 0 or rows[-1] >= len(table) or not (rows[1:] > rows[:-1]).all():
        raise ValueError(
            f"gradient.rows must be ascending, unique and below {len(table)}, "
            f"got {len(rows)} rows from {rows.min()} to {rows.max()}"
        )
    step = kernel_rule(rule, parameter, width, "rule")
    cpu.tree.update_rows(table, unlocked(rows), unlocked(values).reshape(-1, width), step)


def check_bias_rule(bias: Array | None, rule: UpdateRule | None) -> None:
    """Refuse one of a bias and its rule without the other."""
    if (bias is None) != (rule is None):
        raise ValueError("bias and bias_rule must be given together, got only one of them")


def kernel_rule(rule: UpdateRule, parameter: Array, width: int, name: str) -> tuple[Any, ...]:
    """Return a rule as the tuple that kernels take, checked against a parameter's rows."""
    numbers = np.array(check_rule(rule, name))
    unused = np.empty((0, 0), parameter.dtype)
    if rule.kind == "adamw":
        moments = (_moment(rule, key, parameter, width, name) for key in ("mean", "variance"))
        key = f"{name}.state['steps']"
        steps = check_native(key, rule.state.get("steps"), np.dtype(np.int64))
        check_shape(key, steps, (parameter.size // width,), "one count per row")
        return cpu.update.ADAMW, numbers, *moments, check_writeable(key, steps)
    kind, velocity = cpu.update.SGD, unused
    if rule.numbers["momentum"] != 0:
        kind, velocity = (
            cpu.update.MOMENTUM,
            _moment(rule, "momentum", parameter, width, name),
        )
    return kind, numbers, velocity, unused, np.empty(0, np.int64)


def _moment(rule: UpdateRule, key: str, parameter: Array, width: int, name: str) -> Array:
    """Return a moment of the rule as rows like those of the parameter."""
    name = f"{name}.state[{key!r}]"
    moment = check_writeable(name, check_native(name, rule.state.get(key), parameter.dtype))
    return check_shape(name, moment, parameter.shape, "that of the parameter").reshape(-1, width)
