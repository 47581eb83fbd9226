"""The orthogonality loss, pair by pair, in float64; vectors (n_trees, n_vectors, n)."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def loss(vectors: Array, *, absolute: bool = False) -> tuple[float, Array]:
    """Return the sum of the squared products of all pairs of different vectors, and its gradient.

    With `absolute`, return the sums of the absolute terms instead, those of a vector with itself
    too: the scale of an error.
    """
    vectors = np.asarray(vectors, np.float64)
    if absolute:
        vectors = np.abs(vectors)
    total, gradient = 0.0, np.zeros(vectors.shape)
    for tree, grads in zip(vectors, gradient, strict=True):
        for i, j in itertools.product(range(len(tree)), repeat=2):
            if i != j or absolute:
                product = float(tree[i] @ tree[j])
                total += product**2
                grads[i] += 4 * product * tree[j]
    return total, gradient
