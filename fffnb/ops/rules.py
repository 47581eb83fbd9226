"""Row gradients, and the steps that optimisers take with them, as plain records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from .arrays import Array


@dataclass(frozen=True, slots=True, eq=False)
class RowGradient:
    """The gradient of some rows of a parameter; it is zero everywhere else.

    Attributes
    ----------
    rows : ndarray of int64, shape (n_rows,)
        Which rows: ``tree * n_nodes + node``, ascending and unique. On the GPU as many as the batch
        might visit, with -1 after those that it does.
    values : ndarray, shape (n_rows, n_in + n_out), or (n_rows,) for a bias
        Their gradients.
    bias : ndarray, shape (n_rows,), or None
        The gradients of the biases of the same nodes.
    count : int
        How many of the entries are valid, from the front; on the GPU an array of shape (1,) there,
        so that nothing waits for the host.
    """

    rows: Array
    values: Array
    bias: Array | None
    count: Any


class UpdateRule(NamedTuple):
    """What one optimiser step does to a parameter, as plain numbers and state arrays.

    Attributes
    ----------
    kind : {"sgd", "adamw"}
        The optimiser.
    numbers : dict of str to float
        "sgd": lr, momentum, weight_decay, nesterov (0 or 1). "adamw": lr, beta1, beta2, eps,
        weight_decay.
    state : dict of str to ndarray
        "sgd": momentum, shaped like the parameter, only where the momentum is not 0. "adamw":
        mean and variance, shaped like the parameter, and steps, int64, one per row.
    """

    kind: str
    numbers: dict[str, float]
    state: dict[str, Array]


NUMBERS = {
    "sgd": ("lr", "momentum", "weight_decay", "nesterov"),
    "adamw": ("lr", "beta1", "beta2", "eps", "weight_decay"),
}


def check_rule(rule: UpdateRule, name: str) -> tuple[float, ...]:
    """Return the numbers of a rule in their order, or say what it lacks."""
    if not isinstance(rule, UpdateRule):
        raise TypeError(f"{name} must be an UpdateRule, got {type(rule).__name__}")
    if rule.kind not in NUMBERS:
        raise ValueError(f"{name}.kind must be 'sgd' or 'adamw', got {rule.kind!r}")
    missing = [key for key in NUMBERS[rule.kind] if key not in rule.numbers]
    if missing:
        raise ValueError(f"{name}.numbers must hold {', '.join(missing)}, got {rule.numbers}")
    return tuple(float(rule.numbers[key]) for key in NUMBERS[rule.kind])
