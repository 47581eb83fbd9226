"""How far vectors are from being orthogonal to each other."""

from __future__ import annotations

import numpy as np

from .. import buffers
from .arrays import FLOATS, Array, check_array


def orthogonality_loss(vectors: Array) -> tuple[float, Array]:
    """Return the sum of the squared products of different vectors of a tree, and its gradient.

    The loss is Σ ⟨v_i, v_j⟩² over all ordered pairs i ≠ j of each tree, summed over the trees: 0
    where all are orthogonal. Of unit vectors that is the sum of the squared cosines.

    Parameters
    ----------
    vectors : ndarray, float32 or float64, shape (n_vectors, n) or (n_trees, n_vectors, n)
        Such as the x or y vectors of `split_nodes`, or those of visited nodes alone; strided,
        read-only and byte-swapped arrays are taken.

    Returns
    -------
    loss : float
        The loss.
    grad_vectors : ndarray, shape and dtype of vectors
        Its gradient, 4 Σ_{j ≠ i} ⟨v_i, v_j⟩ v_j for vector i.

    Raises
    ------
    TypeError, ValueError
        If `vectors` is no such array, or empty.

    Notes
    -----
    It costs two matrix products of 2 · n_vectors · n · min(n_vectors, n) operations for each tree,
    and memory in proportion to one tree of vectors: of more vectors than n, Σ over all pairs is the
    squared norm of the n × n matrix Σ v vᵀ, from which the pairs i = j are taken. More vectors
    than n are never orthogonal: the loss of unit vectors is then at least n_vectors² / n -
    n_vectors.

    Source: the orthogonality loss of the original FFF project, which adds it for x and for y
    vectors with a weight of 1e-3.

    Examples
    --------
    >>> import fffnb
    >>> nodes = fffnb.init_nodes(8, 2, depth=3, dtype=float)
    >>> x_vectors, y_vectors = fffnb.split_nodes(nodes, n_in=8)
    >>> loss, gradient = fffnb.orthogonality_loss(x_vectors)
    >>> round(loss, 2), gradient.shape
    (7.51, (1, 7, 8))
    >>> x_vectors -= 0.01 * gradient
    >>> round(fffnb.orthogonality_loss(x_vectors)[0], 2)
    5.19
    """
    array = check_array("vectors", vectors)
    if array.dtype.newbyteorder("=") not in FLOATS:
        raise TypeError(f"vectors must be float32 or float64, got {array.dtype}")
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise ValueError(
            "vectors must be (n_vectors, n) or (n_trees, n_vectors, n) and not empty, "
            f"got {array.shape}"
        )
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    gradient = buffers.empty(array.shape, native.dtype)
    n_vectors, n = array.shape[-2:]
    trees = zip(native.reshape(-1, n_vectors, n), gradient.reshape(-1, n_vectors, n), strict=True)
    return sum(_one_tree(*tree) for tree in trees), gradient


def _one_tree(vectors: Array, gradient: Array) -> float:
    """Write the gradient of one tree and return its loss."""
    n_vectors, n = vectors.shape
    if n_vectors <= n:
        products = vectors @ vectors.T
        np.fill_diagonal(products, 0)
        np.matmul(products, vectors, out=gradient)
        gradient *= 4
        return _squares(products)
    moments = vectors.T @ vectors
    squares = np.einsum("ij,ij->i", vectors, vectors)
    np.matmul(vectors, moments, out=gradient)
    gradient -= squares[:, None] * vectors
    gradient *= 4
    return _squares(moments) - _squares(squares)


def _squares(array: Array) -> float:
    """Return the sum of the squares of all elements."""
    return float(np.sum(np.square(array, dtype=np.float64)))
