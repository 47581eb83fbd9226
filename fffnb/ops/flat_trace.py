"""What passes between forward and backward of the flat form, and the shapes that make a forest."""

from __future__ import annotations

from typing import NamedTuple

from ..nodes import FLAT_ROWS, MAX_DEPTH, count_flat_rows
from .arrays import Array
from .rules import RowGradient
from .trace import activation_code


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


def check_flat_shapes(planes: tuple[int, ...], y_vectors: tuple[int, ...]) -> tuple[int, int, int]:
    """Return the shape of planes, (n_trees, depth, n_in), with which y vectors make a forest."""
    if len(planes) != 3 or 0 in planes or planes[1] > MAX_DEPTH:
        raise ValueError(
            f"planes must be 3-D (n_trees, depth, n_in), not empty, of at most {MAX_DEPTH} levels, "
            f"got {planes}"
        )
    n_trees, depth, n_in = planes
    shapes = [(n_trees, count_flat_rows(depth, rows)) for rows in FLAT_ROWS]
    if len(y_vectors) != 3 or y_vectors[:2] not in shapes or y_vectors[2] == 0:
        wanted = [
            f"({trees}, {n_rows}, n_out) with rows of {rows}"
            for (trees, n_rows), rows in zip(shapes, FLAT_ROWS, strict=True)
        ]
        raise ValueError(
            f"y_vectors must have shape {' or '.join(wanted)}, and n_out >= 1, "
            f"for planes of shape {planes}, got {y_vectors}"
        )
    return n_trees, depth, n_in


def check_flat_width(x: tuple[int, ...], n_in: int) -> None:
    """Refuse samples of another width than that of planes."""
    if x[-1] != n_in:
        raise ValueError(f"x must have {n_in} columns like planes, got {x[-1]}")


def check_flat_trace(trace: FlatTrace) -> None:
    """Refuse what is no trace."""
    if not isinstance(trace, FlatTrace):
        raise TypeError(f"trace must be the FlatTrace of flat_forward, got {type(trace).__name__}")
    activation_code(trace.activation)


def check_flat_origin(
    trace: FlatTrace, planes: tuple[int, ...], y_vectors: tuple[int, ...]
) -> None:
    """Refuse a trace that comes from parameters of other shapes."""
    came, wanted = trace[4:], (planes, y_vectors)
    if came != wanted:
        raise ValueError(
            f"trace must come from planes and y_vectors of shapes {wanted[0]} and {wanted[1]}, "
            f"got one of {came[0]} and {came[1]}"
        )
