"""What passes between the forward and the backward pass of the flat form."""

from __future__ import annotations

from typing import NamedTuple

from .arrays import Array
from .rules import RowGradient
from .trace import activation_code, check_paths


class FlatTrace(NamedTuple):
    """What a forward pass saw, from which the backward pass follows.

    Attributes
    ----------
    scores : ndarray, shape (..., n_trees, depth)
        The score λ of every plane, before the activation.
    leaves : ndarray of int32, shape (..., n_trees)
        The signs of the scores as a number, that of the first level the highest bit: the leaf that
        the path of each tree ends in.
    activation : str
        Name of the activation.
    has_bias : bool
        Whether the scores hold a bias.
    planes_shape, y_vectors_shape : tuple of int
        Shapes of the parameters, the latter of which tells what has a y vector: see `init_flat`.
    """

    scores: Array
    leaves: Array
    activation: str
    has_bias: bool
    planes_shape: tuple[int, ...]
    y_vectors_shape: tuple[int, ...]


class FlatGradients(NamedTuple):
    """Gradients of a loss with respect to the arguments of `flat_forward`.

    Attributes
    ----------
    x : ndarray, shape (..., n_in)
        Of the input.
    planes : ndarray, shape (n_trees, depth, n_in)
        Of the planes.
    y_vectors : ndarray, shape (n_trees, n_rows, n_out), or RowGradient
        Of the output vectors.
    bias : ndarray, shape (n_trees, depth), or None
        Of the biases; None without bias.
    """

    x: Array
    planes: Array
    y_vectors: Array | RowGradient
    bias: Array | None


def check_trace(trace: FlatTrace, lead: tuple[int, ...], planes: Array, y_vectors: Array) -> None:
    """Refuse a trace that another forward pass made."""
    if not isinstance(trace, FlatTrace):
        raise TypeError(f"trace must be the FlatTrace of flat_forward, got {type(trace).__name__}")
    came, wanted = trace[4:], (planes.shape, y_vectors.shape)
    if came != wanted:
        raise ValueError(
            f"trace must come from planes and y_vectors of shapes {wanted[0]} and {wanted[1]}, "
            f"got one of {came[0]} and {came[1]}"
        )
    activation_code(trace.activation)
    n_trees, depth, _ = planes.shape
    check_paths(trace.scores, trace.leaves, (*lead, n_trees), depth, planes.dtype)
