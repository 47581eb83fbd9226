"""Soft training of the leaf form on the CPU: all leaves of all samples, by NumPy's matrix products.

Arguments are checked, C-contiguous and flattened to one batch axis by the caller; `routers` is
(n_trees, n_nodes, n_in), `table` (n_trees, n_leaves * width, n_in + n_out), `bias` three arrays or
None, `activation` a code, `gating` as in `soft`. Weights (batch, n_trees, n_places) are those of
the routers of a tree and then of its leaves.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import buffers
from . import soft_paths
from .soft import WORK, Gating, flat, multiply, sides

Array = NDArray[Any]
Bias = tuple[Array, Array, Array]


@np.errstate(all="ignore")  # what is not finite raises no warning, as in a kernel
def forward(
    x: Array,
    routers: Array,
    table: Array,
    bias: Bias | None,
    activation: int,
    gating: Gating,
    router_scores: Array,
    weights: Array,
    scores: Array,
    y: Array,
) -> None:
    """Write the scores of routers and hidden neurons, weights and y (batch, n_out)."""
    x_vectors, y_vectors = sides(table, x.shape[1])
    multiply(x, routers.reshape(-1, x.shape[1]).T, flat(router_scores))
    multiply(x, x_vectors.T, flat(scores))
    if bias is not None:
        router_scores += bias[0]
        scores += bias[1].reshape(scores.shape[1:])
    soft_paths.weigh(WORK * router_scores.size, router_scores, *gating, weights)
    arrivals = weights[:, :, routers.shape[1] :]
    coefs = buffers.empty(scores.shape, scores.dtype)
    shared = _by_neuron(arrivals, scores)
    soft_paths.mix_coefs(WORK * scores.size, activation, scores, shared, coefs)
    multiply(flat(coefs), y_vectors, y)
    if bias is not None:
        y += flat(arrivals) @ bias[2].reshape(-1, y.shape[1])


@np.errstate(all="ignore")
def backward(
    grad_y: Array,
    x: Array,
    routers: Array,
    table: Array,
    output_bias: Array | None,
    activation: int,
    gating: Gating,
    router_scores: Array,
    weights: Array,
    scores: Array,
    grad_scores: Array | None,
    grad_x: Array,
    grad_routers: Array,
    grad_table: Array,
) -> Bias:
    """Write the gradients of x, routers and leaves; return those of the three biases.

    `grad_scores`, shaped like `router_scores`, is a part of their gradient.
    """
    n_in, n_nodes = x.shape[1], routers.shape[1]
    x_vectors, y_vectors = sides(table, n_in)
    grad_x_vectors, grad_y_vectors = sides(grad_table, n_in)
    values, coefs, slopes = (buffers.empty(scores.shape, scores.dtype) for _ in range(3))
    multiply(grad_y, y_vectors.T, flat(values))
    arrivals = weights[:, :, n_nodes:]
    shared = _by_neuron(arrivals, scores)
    soft_paths.mix_slopes(WORK * scores.size, activation, scores, shared, values, coefs, slopes)
    worths = np.zeros_like(weights)
    width = scores.shape[2] // arrivals.shape[2]
    worths[:, :, n_nodes:] = values.reshape(*arrivals.shape, width).sum(axis=3)
    if output_bias is not None:
        outputs = output_bias.reshape(-1, output_bias.shape[2])
        worths[:, :, n_nodes:] += (grad_y @ outputs.T).reshape(arrivals.shape)
    choices = np.zeros_like(router_scores) if grad_scores is None else grad_scores.copy()
    work = WORK * router_scores.size
    soft_paths.route(work, router_scores, *gating, weights, worths, choices)
    multiply(flat(slopes), x_vectors, grad_x)
    grad_x += flat(choices) @ routers.reshape(-1, n_in)
    multiply(flat(choices).T, x, grad_routers.reshape(-1, n_in))
    multiply(flat(slopes).T, x, grad_x_vectors)
    multiply(flat(coefs).T, grad_y, grad_y_vectors)
    grad_outputs = flat(arrivals).T @ grad_y
    return choices.sum(axis=0), slopes.sum(axis=0), grad_outputs


def _by_neuron(arrivals: Array, scores: Array) -> Array:
    """Return the weight of each leaf once for each of its hidden neurons, shaped like `scores`."""
    return np.repeat(arrivals, scores.shape[2] // arrivals.shape[2], axis=2)
