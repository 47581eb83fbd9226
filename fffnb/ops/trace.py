"""What passes between forward and backward: the trace and the gradients."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .. import buffers
from ..activations import ACTIVATIONS
from .arrays import Array, as_batch, check_native, check_rows, check_shape, unlocked
from .rules import RowGradient


class Trace(NamedTuple):
    """What a forward pass saw, from which the backward pass follows.

    Attributes
    ----------
    scores : ndarray, shape (..., n_trees, depth)
        The score λ of every node on the path, before the activation.
    leaves : ndarray of int32, shape (..., n_trees)
        The leaf that the path of each tree ends in, 0 to ``2**depth - 1``; it determines the path.
    activation : str
        Name of the activation.
    has_bias : bool
        Whether the scores hold a node bias.
    nodes_shape : tuple of int
        Shape of the nodes.
    n_in : int
        Width of the input.
    """

    scores: Array
    leaves: Array
    activation: str
    has_bias: bool
    nodes_shape: tuple[int, int, int]
    n_in: int


class Gradients(NamedTuple):
    """Gradients of a loss with respect to the arguments of `fff_forward`.

    Attributes
    ----------
    x : ndarray, shape (..., n_in)
        Of the input.
    nodes : ndarray, shape (n_trees, n_nodes, n_in + n_out), or RowGradient
        Of the nodes.
    bias : ndarray, shape (n_trees, n_nodes), or RowGradient, or None
        Of the node biases; None without bias.
    """

    x: Array
    nodes: Array | RowGradient
    bias: Array | RowGradient | None


def activation_code(activation: str) -> int:
    """Return the code of an activation's name."""
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    return ACTIVATIONS.index(activation)


def check_origin(
    trace: Any,
    nodes_shape: tuple[int, ...],
    n_in: int,
    kind: type[Any] = Trace,
    of: str = "fff_forward",
) -> None:
    """Refuse what is no trace of a kind, that of an op, or comes from another layer."""
    if not isinstance(trace, kind):
        raise TypeError(f"trace must be the {kind.__name__} of {of}, got {type(trace).__name__}")
    if trace.nodes_shape != nodes_shape or trace.n_in != n_in:
        raise ValueError(
            f"trace must come from nodes of shape {nodes_shape} and n_in = {n_in}, "
            f"got one of {trace.nodes_shape} and n_in = {trace.n_in}"
        )
    activation_code(trace.activation)


def check_trace(trace: Trace, lead: tuple[int, ...], n_in: int, nodes: Array, depth: int) -> None:
    """Refuse a trace that another forward pass made."""
    check_origin(trace, nodes.shape, n_in)
    check_paths(trace.scores, trace.leaves, (*lead, len(nodes)), depth, nodes.dtype)


def check_had_bias(trace: Trace, bias: Array | None) -> None:
    """Refuse a bias that the forward pass did not have, and none where it had one."""
    if trace.has_bias != (bias is not None):
        wanted = "given" if trace.has_bias else "None"
        had = "had one" if trace.has_bias else "had none"
        raise ValueError(f"bias must be {wanted}, as the forward pass of this trace {had}")


def new_paths(batch: int, n_trees: int, depth: int, dtype: np.dtype[Any]) -> tuple[Array, Array]:
    """Return room for the scores and the leaves that a forward pass finds."""
    scores = buffers.empty((batch, n_trees, depth), dtype)
    return scores, buffers.empty((batch, n_trees), np.int32)


def with_lead(scores: Array, leaves: Array, lead: tuple[int, ...]) -> tuple[Array, Array]:
    """Return scores and leaves with the leading axes of the samples."""
    return scores.reshape(*lead, *scores.shape[1:]), leaves.reshape(*lead, leaves.shape[1])


def as_paths(scores: Array, leaves: Array, batch: int) -> tuple[Array, Array]:
    """Return the scores and the leaves of a trace as kernels take them, with one batch axis."""
    return (
        unlocked(scores).reshape(batch, *scores.shape[-2:]),
        unlocked(leaves).reshape(batch, leaves.shape[-1]),
    )


def added_scores(grad_scores: Array | None, scores: Array, batch: int, table: str) -> Array | None:
    """Return a gradient of the scores of a trace as kernels take it, with one batch axis.

    `table` names the array that has its dtype.
    """
    if grad_scores is None:
        return None
    grad_scores = check_rows("grad_scores", grad_scores, scores.dtype, table)
    check_shape("grad_scores", grad_scores, scores.shape, "that of trace.scores")
    return as_batch(grad_scores).reshape(batch, *scores.shape[-2:])


def check_paths(
    scores: Array, leaves: Array, lead: tuple[int, ...], depth: int, dtype: np.dtype[Any]
) -> None:
    """Refuse the scores and leaves of a trace that do not fit the samples and trees `lead`."""
    check_native("trace.scores", scores, dtype)
    check_shape("trace.scores", scores, (*lead, depth), "leading axes of x, trees, depth")
    check_leaves(leaves, lead, 2**depth)


def check_leaves(leaves: Array, lead: tuple[int, ...], n_leaves: int) -> None:
    """Refuse the leaves of a trace that do not fit the samples and trees `lead`."""
    check_native("trace.leaves", leaves, np.dtype(np.int32))
    check_shape("trace.leaves", leaves, lead, "leading axes of x, trees")
    if leaves.size and not 0 <= leaves.min() <= leaves.max() < n_leaves:
        raise ValueError(
            f"trace.leaves must lie from 0 to {n_leaves - 1}, got {leaves.min()} to {leaves.max()}"
        )
