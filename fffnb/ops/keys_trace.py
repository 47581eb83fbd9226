"""What passes between forward and backward of product keys, and the shapes that fit together."""

from __future__ import annotations

import math
from typing import NamedTuple

from .arrays import Array
from .rules import RowGradient
from .trace import activation_code


class KeysTrace(NamedTuple):
    """What a forward pass saw, from which the backward pass follows.

    Attributes
    ----------
    scores : ndarray, shape (..., n_trees, k)
        The scores of the chosen nodes before the activation, the best first.
    rows : ndarray of int64, shape (..., n_trees, k)
        Which nodes these are, i · n_keys + j for the keys i and j of the two halves.
    activation : str
        Name of the activation.
    keys_shape, y_vectors_shape : tuple of int
        Shapes of the parameters.
    """

    scores: Array
    rows: Array
    activation: str
    keys_shape: tuple[int, ...]
    y_vectors_shape: tuple[int, ...]


class KeysGradients(NamedTuple):
    """Gradients of a loss with respect to the arguments of `keys_forward`.

    Attributes
    ----------
    x : ndarray, shape (..., n_in)
        Of the input.
    keys : ndarray, shape (n_trees, 2, n_keys, n_in / 2)
        Of the keys.
    y_vectors : ndarray, shape (n_keys**2, n_out), or RowGradient
        Of the output vectors.
    """

    x: Array
    keys: Array
    y_vectors: Array | RowGradient


def check_keys_shapes(keys: tuple[int, ...], y_vectors: tuple[int, ...]) -> int:
    """Return how many keys a set has, with which y vectors make nodes."""
    if len(y_vectors) != 2 or 0 in y_vectors:
        raise ValueError(f"y_vectors must be 2-D (n_keys**2, n_out) and not empty, got {y_vectors}")
    n_keys = math.isqrt(y_vectors[0])
    if n_keys**2 != y_vectors[0]:
        raise ValueError(
            "the number of y_vectors must be a square, n_keys**2 (1, 4, 9, ...), "
            f"got {y_vectors[0]} at shape {y_vectors}"
        )
    if len(keys) != 4 or keys[1:3] != (2, n_keys) or 0 in keys:
        raise ValueError(
            f"keys must have shape (n_trees, 2, {n_keys}, n_in / 2) for {n_keys**2} y_vectors, "
            f"not empty, got {keys}"
        )
    return n_keys


def check_keys_width(x: tuple[int, ...], keys: tuple[int, ...]) -> None:
    """Refuse samples of another width than that of keys."""
    if x[-1] != 2 * keys[3]:
        raise ValueError(
            f"x must have {2 * keys[3]} columns, twice as many as keys of shape {keys}, got {x[-1]}"
        )


def check_keys_origin(trace: KeysTrace, keys: tuple[int, ...], y_vectors: tuple[int, ...]) -> None:
    """Refuse what is no trace, or comes from parameters of other shapes."""
    if not isinstance(trace, KeysTrace):
        raise TypeError(f"trace must be the KeysTrace of keys_forward, got {type(trace).__name__}")
    came, wanted = trace[3:], (keys, y_vectors)
    if came != wanted:
        raise ValueError(
            f"trace must come from keys and y_vectors of shapes {wanted[0]} and {wanted[1]}, "
            f"got one of {came[0]} and {came[1]}"
        )
    activation_code(trace.activation)
