"""The leaf form, densely: all leaves of all samples, and how much each of them counts.

A leaf counts as much as the product of the shares that the routers above it send its way: 0 or 1 in
the hard form, those of a gate in the soft form.

Shapes: x (batch, n_in), routers (n_trees, n_nodes, n_in), leaves (n_trees, n_leaves, width,
n_in + n_out), grad_y (batch, n_out); everything is computed in float64.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import soft
from .tree import ACTIVATIONS

Array = NDArray[Any]


class Options(NamedTuple):
    """How a forest is used.

    Attributes
    ----------
    bias : three ndarrays, or None
        Those of routers (n_trees, n_nodes), hidden neurons (n_trees, n_leaves, width) and outputs
        (n_trees, n_leaves, n_out).
    activation, gate : str
        Names.
    temperature : float or None
        None for the hard form.
    leaks : ndarray of bool, shape (n_trees, batch, n_nodes), or None
        Which routers swap their children.
    """

    bias: tuple[Array, Array, Array] | None = None
    activation: str = "relu"
    gate: str = "sigmoid"
    temperature: float | None = None
    leaks: Array | None = None


class Forward(NamedTuple):
    """What the reference says of a forward pass.

    Attributes
    ----------
    y, size : ndarray, shape (batch, n_out)
        The output, and the sum of its absolute terms, the scale of an error.
    router_scores : ndarray, shape (n_trees, batch, n_nodes)
        The score of every router.
    scores : ndarray, shape (n_trees, batch, n_leaves, width)
        The score of every hidden neuron.
    weights : ndarray, shape (n_trees, batch, n_leaves)
        How much each leaf counts.
    router_size : ndarray, shape (n_trees, batch, n_nodes)
        Sum of the absolute terms of each router's score, which bounds its rounding error.
    """

    y: Array
    size: Array
    router_scores: Array
    scores: Array
    weights: Array
    router_size: Array

    @property
    def leaves(self) -> Array:
        """The leaf of each path in the hard form, (batch, n_trees)."""
        return np.asarray(self.weights.argmax(axis=2).T)

    def ambiguous(self, eps: float) -> Array:
        """Return for which samples rounding could turn a router on a hard path, (batch,)."""
        unclear = np.abs(self.router_scores) <= 16 * eps * self.router_size
        above = ways(unclear.shape[2]) != 0
        visited = (self.weights[:, :, None, :] * above).any(axis=3)
        return np.asarray((unclear & visited).any(axis=(0, 2)))


def ways(n_nodes: int) -> Array:
    """Return, for each router and leaf, if the path to the leaf goes right (1), left (-1) or by."""
    found = np.zeros((n_nodes, n_nodes + 1), int)
    for leaf in range(n_nodes + 1):
        place = n_nodes + leaf
        while place > 0:
            found[(place - 1) // 2, leaf] = 1 if place % 2 == 0 else -1
            place = (place - 1) // 2
    return found


def forward(x: Array, routers: Array, leaves: Array, options: Options) -> Forward:
    """Return output, scores and weights of every sample."""
    x, routers, x_vectors, y_vectors, biases = _float64(x, routers, leaves, options)
    router_scores = x @ routers.transpose(0, 2, 1) + biases[0][:, None]
    router_size = np.abs(x) @ np.abs(routers).transpose(0, 2, 1) + np.abs(biases[0])[:, None]
    scores = np.einsum("si,tlki->tslk", x, x_vectors) + biases[1][:, None]
    weights = _factors(_shares(router_scores, options)).prod(axis=2)
    coefs = ACTIVATIONS[options.activation][0](scores)
    outputs = np.einsum("tslk,tlko->tslo", coefs, y_vectors) + biases[2][:, None]
    sizes = np.einsum("tslk,tlko->tslo", np.abs(coefs), np.abs(y_vectors))
    sizes += np.abs(biases[2])[:, None]
    y, size = (np.einsum("tsl,tslo->so", weights, each) for each in (outputs, sizes))
    return Forward(y, size, router_scores, scores, weights, router_size)


def hardening(router_scores: Array, gate: str, temperature: float) -> tuple[float, Array]:
    """Return the entropy of all decisions, summed, and its gradient.

    They are those of a tree of nodes whose last level, which decides nothing, is the leaves.
    """
    n_nodes = router_scores.shape[-1]
    places = np.pad(router_scores, [(0, 0)] * (router_scores.ndim - 1) + [(0, n_nodes + 1)])
    loss, slopes = soft.hardening(places, gate, temperature)
    return loss, slopes[..., :n_nodes]


def backward(
    grad_y: Array,
    x: Array,
    routers: Array,
    leaves: Array,
    options: Options,
    grad_scores: Array | None = None,
    *,
    absolute: bool = False,
) -> tuple[Array, ...]:
    """Return the gradients of x, routers, leaves and the three biases.

    `grad_scores`, shaped like the scores of the routers, comes on top. The choice of the path has
    no gradient in the hard form. With `absolute`, return the sums of the absolute terms instead:
    the scale of an error.
    """
    run = forward(x, routers, leaves, options)
    x, routers, x_vectors, y_vectors, biases = _float64(x, routers, leaves, options)
    act, derivative = ACTIVATIONS[options.activation]
    on_top = np.zeros(run.router_scores.shape) if grad_scores is None else grad_scores
    terms = [x, routers, x_vectors, y_vectors, biases[2], np.asarray(grad_y, np.float64), on_top]
    terms += [act(run.scores), derivative(run.scores), _rises(run.router_scores, options)]
    if absolute:
        terms = [np.abs(term) for term in terms]
    x, routers, x_vectors, y_vectors, outer, grad_y, on_top, coefs, slopes, rises = terms
    weights = run.weights[..., None]
    back = np.einsum("so,tlko->tslk", grad_y, y_vectors)
    worths = (back * coefs).sum(axis=3) + np.einsum("so,tlo->tsl", grad_y, outer)
    grad_hidden = back * slopes * weights
    grad_choices = np.einsum("tsl,tsnl->tsn", worths, rises) + on_top
    grad_x = np.einsum("tslk,tlki->si", grad_hidden, x_vectors)
    grad_x += np.einsum("tsn,tni->si", grad_choices, routers)
    grad_x_vectors = np.einsum("tslk,si->tlki", grad_hidden, x)
    grad_y_vectors = np.einsum("tslk,so->tlko", coefs * weights, grad_y)
    return (
        grad_x,
        np.einsum("tsn,si->tni", grad_choices, x),
        np.concatenate([grad_x_vectors, grad_y_vectors], axis=3),
        grad_choices.sum(axis=1),
        grad_hidden.sum(axis=1),
        np.einsum("tsl,so->tlo", run.weights, grad_y),
    )


def _float64(
    x: Array, routers: Array, leaves: Array, options: Options
) -> tuple[Array, Array, Array, Array, list[Array]]:
    """Return x, the routers, the x and y vectors of the hidden neurons and biases in float64."""
    x, routers, leaves = (np.asarray(array, np.float64) for array in (x, routers, leaves))
    x_vectors, y_vectors = leaves[..., : x.shape[1]], leaves[..., x.shape[1] :]
    biases: Any = options.bias
    if biases is None:
        outputs = (*leaves.shape[:2], y_vectors.shape[3])
        biases = [np.zeros(shape) for shape in (routers.shape[:2], leaves.shape[:3], outputs)]
    biases = [np.asarray(bias, np.float64) for bias in biases]
    return x, routers, x_vectors, y_vectors, biases


def _shares(router_scores: Array, options: Options) -> Array:
    """Return what goes right at each router; a NaN score sends all to the left."""
    if options.temperature is None:
        return (router_scores >= 0).astype(float)
    shares = soft.GATES[options.gate][0](router_scores / options.temperature)
    return shares if options.leaks is None else np.where(options.leaks, 1 - shares, shares)


def _factors(shares: Array) -> Array:
    """Return the factor of each router in the weight of each leaf, (..., n_nodes, n_leaves)."""
    way, shares = ways(shares.shape[-1]), shares[..., None]
    return np.where(way > 0, shares, np.where(way < 0, 1 - shares, 1.0))


def _rises(router_scores: Array, options: Options) -> Array:
    """Return the derivative of each leaf's weight by each score, (..., n_nodes, n_leaves)."""
    n_nodes = router_scores.shape[-1]
    if options.temperature is None:
        return np.zeros((*router_scores.shape, n_nodes + 1))
    rise = soft.GATES[options.gate][1](router_scores / options.temperature) / options.temperature
    if options.leaks is not None:
        rise = np.where(options.leaks, -rise, rise)
    factors = _factors(_shares(router_scores, options))
    others = [np.delete(factors, node, axis=-2).prod(axis=-2) for node in range(n_nodes)]
    return np.stack(others, axis=-2) * ways(n_nodes) * rise[..., None]
