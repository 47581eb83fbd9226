"""What passes between forward and backward of the bag, and how many nodes can be chosen."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..nodes import check_size
from .arrays import Array, check_native, check_shape


class BagTrace(NamedTuple):
    """What a forward pass saw, from which the backward pass follows.

    Attributes
    ----------
    scores : ndarray, shape (..., n_trees, k), or (n_entries,) with ``k=None``
        The scores of the chosen nodes before the activation, in each bag the best first; with
        ``k=None`` those of the first sample come first, in the order of the nodes. On a GPU a trace
        with ``k=None`` holds the scores of all nodes, (..., n_trees, n_nodes).
    rows : ndarray of int64, of the shape of the scores, or None
        Which nodes these are, tree · n_nodes + node; None where they are all nodes.
    starts : ndarray of int64, shape (batch + 1,), or None
        With ``k=None`` sample s has the entries from starts[s] to starts[s + 1], where batch is the
        product of the leading axes; None on a GPU.
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
    rows: Array | None
    starts: Array | None
    activation: str
    has_bias: bool
    nodes_shape: tuple[int, ...]
    n_in: int


def check_choice(k: int, n: int, what: str) -> int:
    """Return how many of n to choose, or say what is wrong with it."""
    if check_size("k", k) > n:
        raise ValueError(f"k must be at most the number of {what}, {n}, got {k}")
    return int(k)


def last_axis(shape: tuple[int, ...]) -> int:
    """Return how many rows each bag chose, by the shape of those of a trace."""
    return shape[-1] if shape else 0


def check_chosen(
    scores: Array, rows: Array, shape: tuple[int, ...], n_rows: int, dtype: np.dtype[Any]
) -> None:
    """Refuse the scores and rows of a trace that are not of a shape, or name no rows of n_rows."""
    check_native("trace.scores", scores, dtype)
    check_shape("trace.scores", scores, shape, "what every sample chose")
    check_native("trace.rows", rows, np.dtype(np.int64))
    check_shape("trace.rows", rows, shape, "what every sample chose")
    if rows.size and not 0 <= rows.min() <= rows.max() < n_rows:
        raise ValueError(
            f"trace.rows must lie from 0 to {n_rows - 1}, got {rows.min()} to {rows.max()}"
        )
