"""Soft training of the tree on the CPU: all nodes of all trees, by NumPy's matrix products.

Arguments are checked, C-contiguous and flattened to one batch axis by the caller; `nodes` is
(n_trees, n_nodes, n_in + n_out), `bias` (n_trees, n_nodes) or None, `activation` a code. `gating`
is what the kernels of `soft_paths` take to share out a sample: leaks, the code of a gate, and the
temperature.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import buffers
from . import soft_paths

Array = NDArray[Any]
Gating = tuple[Array, int, float]

#: Operations that a node counts for in the choice of threads. It takes about 100 of them, but just
#: after a matrix product its threads still spin: up to a million nodes, one thread is faster.
WORK = 1


def forward(
    x: Array,
    nodes: Array,
    bias: Array | None,
    activation: int,
    gating: Gating,
    scores: Array,
    weights: Array,
    y: Array,
) -> None:
    """Write scores and weights (batch, n_trees, n_nodes) and y (batch, n_out)."""
    x_vectors, y_vectors = sides(nodes, x.shape[1])
    multiply(x, x_vectors.T, flat(scores))
    if bias is not None:
        scores += bias
    work = WORK * scores.size
    soft_paths.weigh(work, scores, *gating, weights)
    coefs = buffers.empty(scores.shape, scores.dtype)
    soft_paths.mix_coefs(work, activation, scores, weights, coefs)
    multiply(flat(coefs), y_vectors, y)


def backward(
    grad_y: Array,
    x: Array,
    nodes: Array,
    activation: int,
    gating: Gating,
    scores: Array,
    weights: Array,
    grad_scores: Array | None,
    grad_x: Array,
    grad_nodes: Array,
) -> Array:
    """Write the gradients of x and nodes; return those of the scores, `grad_scores` included."""
    n_in, work = x.shape[1], WORK * scores.size
    x_vectors, y_vectors = sides(nodes, n_in)
    grad_x_vectors, grad_y_vectors = sides(grad_nodes, n_in)
    values, coefs, slopes = (buffers.empty(scores.shape, scores.dtype) for _ in range(3))
    multiply(grad_y, y_vectors.T, flat(values))
    soft_paths.mix_slopes(work, activation, scores, weights, values, coefs, slopes)
    soft_paths.route(work, scores, *gating, weights, values, slopes)
    if grad_scores is not None:
        slopes += grad_scores
    multiply(flat(slopes), x_vectors, grad_x)
    multiply(flat(slopes).T, x, grad_x_vectors)
    multiply(flat(coefs).T, grad_y, grad_y_vectors)
    return slopes


def entropy(scores: Array, n_deciding: int, gate: int, temperature: float) -> tuple[float, Array]:
    """Return the entropy of the first n_deciding nodes of each tree, summed, and its gradient."""
    sums = buffers.empty(len(scores), np.float64)
    slopes = buffers.empty(scores.shape, scores.dtype)
    soft_paths.entropies(WORK * scores.size, scores, n_deciding, gate, temperature, sums, slopes)
    return float(sums.sum()), slopes


def sides(nodes: Array, n_in: int) -> tuple[Array, Array]:
    """Return the x and the y vectors of a forest as matrices, which are views."""
    table = nodes.reshape(-1, nodes.shape[2])
    return table[:, :n_in], table[:, n_in:]


def flat(array: Array) -> Array:
    """Return (batch, n_trees, n_nodes) as (batch, n_trees * n_nodes)."""
    batch, n_trees, n_nodes = array.shape
    return array.reshape(batch, n_trees * n_nodes)


@np.errstate(all="ignore")
def multiply(a: Array, b: Array, out: Array) -> None:
    """Write the matrix product; what is not finite raises no warning, as in a kernel."""
    np.matmul(a, b, out=out)
