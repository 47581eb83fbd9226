"""What passes between forward and backward of soft training, and its checks."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .arrays import Array, check_native, check_shape
from .paths import check_temperature, gate_code


class SoftTrace(NamedTuple):
    """What a soft forward pass saw, from which the backward pass follows.

    Attributes
    ----------
    scores : ndarray, shape (..., n_trees, n_nodes)
        The score λ of every node, before the activation.
    weights : ndarray, shape (..., n_trees, n_nodes)
        The share of the sample that reaches each node; those of a level sum to one.
    leaks : ndarray of bool, shape (..., n_trees, n_nodes), or None
        Which nodes swapped their children; None without leak.
    activation, gate : str
        Names of the activation and of the gate.
    temperature : float
        The temperature.
    has_bias : bool
        Whether the scores hold a node bias.
    nodes_shape : tuple of int
        Shape of the nodes.
    n_in : int
        Width of the input.
    """

    scores: Array
    weights: Array
    leaks: Array | None
    activation: str
    gate: str
    temperature: float
    has_bias: bool
    nodes_shape: tuple[int, int, int]
    n_in: int


def check_states(trace: SoftTrace, lead: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Refuse scores, weights, leaks, gate and temperature that no forward pass made."""
    gate_code(trace.gate)
    check_temperature(trace.temperature)
    whole, why = (*lead, *trace.nodes_shape[:2]), "leading axes of x, trees, nodes"
    states = [("scores", trace.scores, dtype), ("weights", trace.weights, dtype)]
    if trace.leaks is not None:
        states.append(("leaks", trace.leaks, np.dtype(np.bool_)))
    for name, array, kind in states:
        name = f"trace.{name}"
        check_shape(name, check_native(name, array, kind), whole, why)
