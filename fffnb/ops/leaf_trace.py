"""What passes between forward and backward of the leaf form, hard and soft, and its checks."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..leaves import LeafBias
from ..nodes import depth_of
from .arrays import Array, check_native, check_shape
from .paths import check_temperature, gate_code
from .rules import RowGradient
from .trace import activation_code, check_leaves


class LeafTrace(NamedTuple):
    """What a hard forward pass saw, from which the backward pass follows.

    Attributes
    ----------
    scores : ndarray, shape (..., n_trees, width)
        The score of every hidden neuron of the leaf, before the activation.
    leaves : ndarray of int32, shape (..., n_trees)
        The leaf that a sample came to in each tree, 0 to ``2**depth - 1``.
    activation : str
        Name of the activation.
    has_bias : bool
        Whether there were biases.
    routers_shape, leaves_shape : tuple of int
        Shapes of the parameters.
    """

    scores: Array
    leaves: Array
    activation: str
    has_bias: bool
    routers_shape: tuple[int, ...]
    leaves_shape: tuple[int, ...]


class LeafGradients(NamedTuple):
    """Gradients of a loss with respect to the arguments of `leaf_forward` and its soft form.

    Attributes
    ----------
    x : ndarray, shape (..., n_in)
        Of the input.
    routers : ndarray, shape (n_trees, 2**depth - 1, n_in), or None
        Of the routers; None from the hard form.
    leaves : ndarray, shape (n_trees, 2**depth, width, n_in + n_out), or RowGradient
        Of the hidden neurons.
    bias : LeafBias or None
        Of the biases; None without. From the hard form that of the routers is None, and with row
        gradients those of the others are `RowGradient`, their rows the visited leaves.
    """

    x: Array
    routers: Array | None
    leaves: Array | RowGradient
    bias: LeafBias | None


class LeafSoftTrace(NamedTuple):
    """What a soft forward pass saw, from which the backward pass follows.

    Attributes
    ----------
    router_scores : ndarray, shape (..., n_trees, 2**depth - 1)
        The score of every router.
    weights : ndarray, shape (..., n_trees, 2**(depth + 1) - 1)
        The share of the sample that reaches each router, and then each leaf; those of the leaves
        sum to one.
    scores : ndarray, shape (..., n_trees, 2**depth, width)
        The score of every hidden neuron, before the activation.
    leaks : ndarray of bool, shape of router_scores, or None
        Which routers swapped their children; None without leak.
    activation, gate : str
        Names of the activation and of the gate.
    temperature : float
        The temperature.
    has_bias : bool
        Whether there were biases.
    routers_shape, leaves_shape : tuple of int
        Shapes of the parameters.
    """

    router_scores: Array
    weights: Array
    scores: Array
    leaks: Array | None
    activation: str
    gate: str
    temperature: float
    has_bias: bool
    routers_shape: tuple[int, ...]
    leaves_shape: tuple[int, ...]


def check_router_shape(shape: tuple[int, ...]) -> int:
    """Return the depth of routers of this shape."""
    if len(shape) != 3 or 0 in shape:
        raise ValueError(f"routers must be 3-D (n_trees, n_nodes, n_in), not empty, got {shape}")
    try:
        return depth_of(shape[1])
    except ValueError as error:
        raise ValueError(f"routers of shape {shape}: {error}") from None


def check_leaf_shape(shape: tuple[int, ...], routers: tuple[int, ...]) -> None:
    """Refuse leaves of a shape that does not make a forest with routers of theirs."""
    n_trees, n_nodes, n_in = routers
    if len(shape) != 4 or shape[:2] != (n_trees, n_nodes + 1) or not shape[2] or shape[3] <= n_in:
        raise ValueError(
            f"leaves must have shape ({n_trees}, {n_nodes + 1}, width, {n_in} + n_out) with "
            f"width >= 1 and n_out >= 1 for routers of shape {routers}, got {shape}"
        )


def check_leaf_width(x: tuple[int, ...], routers: tuple[int, ...]) -> None:
    """Refuse samples of another width than that of routers."""
    if x[-1] != routers[2]:
        raise ValueError(f"x must have {routers[2]} columns like routers, got {x[-1]}")


def check_leaf_bias(bias: object) -> LeafBias | None:
    """Return biases if they are all three, or None."""
    if bias is not None and not isinstance(bias, LeafBias):
        raise TypeError(f"bias must be a LeafBias, got {type(bias).__name__}")
    return bias


def bias_shapes(
    routers: tuple[int, ...], leaves: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Return the shapes of the biases of routers, hidden neurons and outputs."""
    return routers[:2], leaves[:3], (*leaves[:2], leaves[3] - routers[2])


def check_leaf_origin(trace: object, routers: tuple[int, ...], leaves: tuple[int, ...]) -> None:
    """Refuse what is no trace of the hard form, or that of parameters of other shapes."""
    if not isinstance(trace, LeafTrace):
        raise TypeError(f"trace must be the LeafTrace of leaf_forward, got {type(trace).__name__}")
    _check_made(trace, routers, leaves)


def check_leaf_soft_origin(
    trace: object, routers: tuple[int, ...], leaves: tuple[int, ...], bias: LeafBias | None
) -> None:
    """Refuse what is no trace of the soft form, or that of other parameters."""
    if not isinstance(trace, LeafSoftTrace):
        raise TypeError(
            f"trace must be the LeafSoftTrace of leaf_forward_soft, got {type(trace).__name__}"
        )
    _check_made(trace, routers, leaves)
    if trace.has_bias != (bias is not None):
        raise ValueError(
            f"bias must be that of the forward pass, which had {'one' if bias is None else 'none'}"
        )


def _check_made(
    trace: LeafTrace | LeafSoftTrace, routers: tuple[int, ...], leaves: tuple[int, ...]
) -> None:
    """Refuse a trace of parameters of other shapes, or of an unknown activation."""
    came = trace.routers_shape, trace.leaves_shape
    if came != (routers, leaves):
        raise ValueError(
            f"trace must come from routers and leaves of shapes {routers} and {leaves}, "
            f"got one of {came[0]} and {came[1]}"
        )
    activation_code(trace.activation)


def check_leaf_trace(
    trace: LeafTrace, lead: tuple[int, ...], routers: Array, leaves: Array
) -> None:
    """Refuse a trace that another forward pass made."""
    check_leaf_origin(trace, routers.shape, leaves.shape)
    n_trees, n_leaves, width, _ = leaves.shape
    check_native("trace.scores", trace.scores, routers.dtype)
    shape = (*lead, n_trees, width)
    check_shape("trace.scores", trace.scores, shape, "leading axes of x, trees, width")
    check_leaves(trace.leaves, (*lead, n_trees), n_leaves)


def check_leaf_states(trace: LeafSoftTrace, lead: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Refuse scores, weights, leaks, gate and temperature that no forward pass made."""
    gate_code(trace.gate)
    check_temperature(trace.temperature)
    n_trees, n_nodes, _ = trace.routers_shape
    of_routers = *lead, n_trees, n_nodes
    states = [
        ("router_scores", trace.router_scores, dtype, of_routers),
        ("weights", trace.weights, dtype, (*lead, n_trees, 2 * n_nodes + 1)),
        ("scores", trace.scores, dtype, (*lead, *trace.leaves_shape[:3])),
    ]
    if trace.leaks is not None:
        states.append(("leaks", trace.leaks, np.dtype(np.bool_), of_routers))
    for name, array, kind, shape in states:
        name = f"trace.{name}"
        check_shape(name, check_native(name, array, kind), shape, "that of x, routers and leaves")
