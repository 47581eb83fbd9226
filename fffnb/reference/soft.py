"""Soft training of the tree, densely: the weight of a node is a product over the path to it.

Shapes as in `reference.tree`; `leaks` (n_trees, batch, n_nodes) of bool or None; everything is
computed in float64. A gate is a pair: the share c that goes right at z = score / temperature, and
its derivative.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr, expit

from .tree import ACTIVATIONS, _float64

Array = NDArray[Any]

GATES: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "sigmoid": (expit, lambda z: expit(z) * expit(-z)),
    "smooth_step": (
        lambda z: _within(z) ** 2 * (3 - 2 * _within(z)),
        lambda z: 6 * _within(z) * _within(-z),
    ),
}


def _within(z: Array) -> Array:
    """Return how far z lies within the smooth step, from 0 at its lower edge to 1 at its upper."""
    return np.clip(0.5 + z, 0, 1)


class Options(NamedTuple):
    """How a forest is used: as the keywords of the op."""

    bias: Array | None = None
    activation: str = "identity"
    gate: str = "sigmoid"
    temperature: float = 1.0
    leaks: Array | None = None


class Forward(NamedTuple):
    """What the reference says of a forward pass.

    Attributes
    ----------
    y : ndarray, shape (batch, n_out)
        The output.
    scores, weights : ndarray, shape (n_trees, batch, n_nodes)
        Score and weight of every node.
    shares : ndarray, shape (n_trees, batch, n_nodes)
        What goes right at every node.
    size : ndarray, shape (batch, n_out)
        Sum of the absolute terms of the output, the scale of an error.
    """

    y: Array
    scores: Array
    weights: Array
    shares: Array
    size: Array


def forward(x: Array, nodes: Array, options: Options) -> Forward:
    """Return the output, and scores, shares and weights of all nodes."""
    x, x_vectors, y_vectors, biases = _float64(x, nodes, options.bias)
    scores = x @ x_vectors.transpose(0, 2, 1) + biases[:, None, :]
    shares = GATES[options.gate][0](scores / options.temperature)
    if options.leaks is not None:
        shares = np.where(options.leaks, 1 - shares, shares)
    weights = np.ones(scores.shape)
    for node in range(nodes.shape[1]):
        for parent, right in path_to(node):
            weights[:, :, node] *= _taken(shares[:, :, parent], right)
    coefs = weights * ACTIVATIONS[options.activation][0](scores)
    y, size = (coefs @ y_vectors).sum(axis=0), (np.abs(coefs) @ np.abs(y_vectors)).sum(axis=0)
    return Forward(y, scores, weights, shares, size)


def backward(
    grad_y: Array,
    x: Array,
    nodes: Array,
    options: Options,
    grad_scores: Array | None = None,
    *,
    absolute: bool = False,
) -> tuple[Array, Array, Array]:
    """Return grad_x, grad_nodes and grad_bias; grad_scores (n_trees, batch, n_nodes) comes on top.

    With `absolute`, return the sums of the absolute terms instead: the scale of an error.
    """
    run = forward(x, nodes, options)
    x, x_vectors, y_vectors, _ = _float64(x, nodes, options.bias)
    grad_y = np.asarray(grad_y, np.float64)
    act, derivative = ACTIVATIONS[options.activation]
    size: Callable[[Array], Array] = np.abs if absolute else np.asarray
    gains = grad_y @ y_vectors.transpose(0, 2, 1)  # of the coefficients of the y vectors
    rises = _rises(run.scores, options)
    grad_total = _through_decisions(gains * act(run.scores), run.shares, rises, size)
    grad_total += size(gains * run.weights * derivative(run.scores))
    if grad_scores is not None:
        grad_total += size(grad_scores)
    coefs = size(run.weights * act(run.scores))
    grad_x = (grad_total @ size(x_vectors)).sum(axis=0)
    grad_x_vectors = grad_total.transpose(0, 2, 1) @ size(x)
    grad_y_vectors = coefs.transpose(0, 2, 1) @ size(grad_y)
    grad_nodes = np.concatenate([grad_x_vectors, grad_y_vectors], axis=2)
    return grad_x, grad_nodes, grad_total.sum(axis=1)


def hardening(scores: Array, gate: str, temperature: float) -> tuple[float, Array]:
    """Return the entropy of all nodes but those of the last level, summed, and its gradient."""
    deciding = np.arange(scores.shape[-1]) < scores.shape[-1] // 2
    z = np.asarray(scores, np.float64) / temperature
    gate_of, derivative = GATES[gate]
    left, right, rise = gate_of(-z), gate_of(z), derivative(z) / temperature
    loss = (deciding * (entr(left) + entr(right))).sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = np.where(rise == 0, 0, np.log(left / right) * rise)
    return float(loss), deciding * slope


def straight_through(
    grad_y: Array, x: Array, nodes: Array, options: Options, *, absolute: bool = False
) -> Array:
    """Return the gradient of all scores (n_trees, batch, n_nodes) through hard decisions.

    With `absolute`, return the sums of the absolute terms instead: the scale of an error.
    """
    run = forward(x, nodes, options)
    y_vectors = _float64(x, nodes, options.bias)[2]
    gains = np.asarray(grad_y, np.float64) @ y_vectors.transpose(0, 2, 1)
    worths = gains * ACTIVATIONS[options.activation][0](run.scores)
    size: Callable[[Array], Array] = np.abs if absolute else np.asarray
    decisions = (run.scores > 0).astype(float)
    return _through_decisions(worths, decisions, _rises(run.scores, options), size)


def _rises(scores: Array, options: Options) -> Array:
    """Return the derivatives of the shares that go right, by the scores."""
    rises = GATES[options.gate][1](scores / options.temperature) / options.temperature
    return rises if options.leaks is None else np.where(options.leaks, -rises, rises)


def _through_decisions(
    worths: Array, shares: Array, rises: Array, size: Callable[[Array], Array]
) -> Array:
    """Return the gradient that scores have because they decide on the weights.

    The weight of a node is the product of the shares on the path to it: the derivative by each is
    the product of the others, and their `size` is summed.
    """
    total = np.zeros(worths.shape)
    for node in range(worths.shape[2]):
        path = path_to(node)
        taken = [_taken(shares[:, :, parent], right) for parent, right in path]
        for i, (parent, right) in enumerate(path):
            others = np.prod(taken[:i] + taken[i + 1 :], axis=0)
            rise = rises[:, :, parent] if right else -rises[:, :, parent]
            total[:, :, parent] += size(worths[:, :, node] * rise * others)
    return total


def path_to(node: int) -> list[tuple[int, bool]]:
    """Return the nodes on the way to a node, and whether it goes right there."""
    path = []
    while node > 0:
        path.append(((node - 1) // 2, node % 2 == 0))
        node = (node - 1) // 2
    return path


def _taken(share: Array, right: bool) -> Array:
    """Return what goes on in a direction where a share goes right."""
    return share if right else 1 - share
