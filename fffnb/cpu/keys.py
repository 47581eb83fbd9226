"""Product keys on the CPU: scored and mixed by the kernels of the bag.

Arguments are checked, C-contiguous and flattened to one batch axis by the caller; `keys` is
(n_trees, 2, n_keys, n_in / 2), `y_vectors` (n_keys**2, n_out), `activation` a code.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import activations, buffers
from . import bag, keys_choose

Array = NDArray[Any]


def forward(
    x: Array, keys: Array, y_vectors: Array, k: int, activation: int, y: Array
) -> bag.Choice:
    """Write y (batch, n_out) and return what the samples chose, n_trees * k rows of y_vectors."""
    n_trees, _, n_keys, half = keys.shape
    scores = bag.score(x, keys.reshape(-1, half), None, 2 * n_trees, 2)
    halves, places = bag.best_of(scores, min(k, n_keys), 1)
    best = buffers.empty((len(x) * n_trees, k), x.dtype)
    rows = buffers.empty(best.shape, np.int64)
    if len(x) > 0:
        keys_choose.choose_pairs(8 * halves.size, halves, places, n_keys, best, rows)
    starts = np.arange(len(x) + 1) * (n_trees * k)
    choice = bag.Choice(starts, rows.reshape(-1), best.reshape(-1))
    bag.mix(choice, activation, y_vectors, 0, y)
    return choice


def backward(x: Array, keys: Array, slopes: Array, rows: Array, grad_x: Array) -> Array:
    """Write grad_x (batch, n_in) and return the gradient of the keys.

    Both halves of a sample are samples of their own, which chose one key for each of the rows
    (batch, n_trees, k) with the gradients `slopes` of their scores.
    """
    n_trees, _, n_keys, half = keys.shape
    table = keys.reshape(-1, half)
    pairs = np.stack(np.divmod(rows, n_keys), axis=1)  # (batch, 2, n_trees, k)
    pairs += n_keys * np.array([0, 1])[:, None, None]
    pairs += 2 * n_keys * np.arange(n_trees)[:, None]
    both = np.repeat(slopes.reshape(rows.shape)[:, None], 2, axis=1).reshape(-1)
    starts = np.arange(2 * len(x) + 1) * (rows.shape[1] * rows.shape[2])
    choice = bag.Choice(starts, pairs.reshape(-1), both)
    bag.mix(choice, activations.IDENTITY, table, 0, grad_x.reshape(-1, half))
    gradient = np.zeros_like(keys)
    halves, visits = x.reshape(-1, half), bag.visit(choice, len(table))
    bag.gather(
        halves, halves[:, :0], visits, both, both, gradient.reshape(table.shape), sparse=False
    )
    return gradient
