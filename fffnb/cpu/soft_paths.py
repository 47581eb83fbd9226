"""Soft paths: what share of a sample reaches every place of a tree, and the way back.

A sample at a node goes on to both children, in two shares that sum to one. Places 0, 1, 2, ... of a
tree are its nodes; if `weights` has more places than `scores` has nodes, those that follow are the
leaves below the last nodes. The nodes that send something on are those with two places below them.

Shapes: `scores`, `slopes` and `coefs` (batch, n_trees, n_nodes), `weights` and `values` (batch,
n_trees, n_places); `leaks` is of bool and shaped like the scores, or empty. Every sample has one
owner.
"""

import math

from numba import prange

from .jit import Kernel, helper
from .tree_backward import derivative
from .tree_mix import activate

#: Codes of the gates, in the order of their names in `ops.paths`.
SIGMOID, SMOOTH_STEP = range(2)


@helper
def shares(gate, z):
    """Return the shares that go left and right at a score in units of the temperature."""
    if gate == SIGMOID:
        e = math.exp(-abs(z))
        near = 1 / (1 + e)
        far = e * near
    else:
        u = edge(z)
        far = u * u * (3 - 2 * u)
        near = 1 - far
    return (near, far) if z < 0 else (far, near)


@helper
def slope(gate, z, left, right):
    """Return the derivative of the share that goes right, given both shares."""
    if gate == SIGMOID:
        return left * right
    u = edge(z)
    return 6 * u * (1 - u)


@helper
def edge(z):
    """Return how far a score lies within the nearer edge of the smooth step, 0 beyond it."""
    u = 0.5 - abs(z)
    return 0.0 if u < 0 else u  # NaN stays NaN


@helper
def scaled(scores, leaks, temperature, s, t, k):
    """Return a score in units of the temperature, of the other sign where its node leaks."""
    z = scores[s, t, k] / temperature
    return -z if len(leaks) > 0 and leaks[s, t, k] else z


@Kernel
def weigh(scores, leaks, gate, temperature, weights):
    """Write the weight of every place: the product of the shares on the way to it."""
    for s in prange(len(scores)):
        for t in range(scores.shape[1]):
            weights[s, t, 0] = 1
            for k in range(weights.shape[2] // 2):
                z = scaled(scores, leaks, temperature, s, t, k)
                left, right = shares(gate, z)
                weights[s, t, 2 * k + 1] = weights[s, t, k] * left
                weights[s, t, 2 * k + 2] = weights[s, t, k] * right


@Kernel
def route(scores, leaks, gate, temperature, weights, values, slopes):
    """Add to `slopes` the gradient that scores have because they decide on the weights.

    `values` comes as the gradient of each weight; it ends as what a unit of weight is worth that
    arrives at a place, with all that it sends on.
    """
    for s in prange(len(scores)):
        for t in range(scores.shape[1]):
            for k in range(weights.shape[2] // 2 - 1, -1, -1):
                z = scaled(scores, leaks, temperature, s, t, k)
                left, right = shares(gate, z)
                worth_left, worth_right = values[s, t, 2 * k + 1], values[s, t, 2 * k + 2]
                values[s, t, k] += left * worth_left + right * worth_right
                gain = weights[s, t, k] * (worth_right - worth_left)
                gain *= slope(gate, z, left, right) / temperature
                slopes[s, t, k] += -gain if len(leaks) > 0 and leaks[s, t, k] else gain


@Kernel
def entropies(scores, n_deciding, gate, temperature, sums, slopes):
    """Write the entropy of the first n_deciding nodes, summed by sample, and its gradient."""
    for s in prange(len(scores)):
        total = 0.0
        for t in range(scores.shape[1]):
            for k in range(scores.shape[2]):
                slopes[s, t, k] = 0
                if k < n_deciding:
                    z = scores[s, t, k] / temperature
                    left, right = shares(gate, z)
                    if left != 0 and right != 0:
                        log_left, log_right = math.log(left), math.log(right)
                        total -= left * log_left + right * log_right
                        rise = (log_left - log_right) / temperature
                        slopes[s, t, k] = rise * slope(gate, z, left, right)
        sums[s] = total


@Kernel
def mix_coefs(activation, scores, weights, coefs):
    """Write how often each node's y vector counts: its weight times act(score)."""
    for s in prange(len(scores)):
        for t in range(scores.shape[1]):
            for k in range(scores.shape[2]):
                coefs[s, t, k] = weights[s, t, k] * activate(activation, scores[s, t, k])


@Kernel
def mix_slopes(activation, scores, weights, values, coefs, slopes):
    """Do what `mix_coefs` does, on the way back.

    `values` comes as the dot product of each node's y vector with the gradient of the output, and
    ends as the gradient of its weight; `slopes` are those of the scores at fixed weights.
    """
    for s in prange(len(scores)):
        for t in range(scores.shape[1]):
            for k in range(scores.shape[2]):
                score, weight, value = scores[s, t, k], weights[s, t, k], values[s, t, k]
                active = activate(activation, score)
                coefs[s, t, k] = weight * active
                slopes[s, t, k] = weight * derivative(activation, score) * value
                values[s, t, k] = active * value


@Kernel
def scale_by_slope(scores, gate, temperature, out):
    """Multiply by the derivative of the share that goes right, by the score."""
    for s in prange(len(scores)):
        for t in range(scores.shape[1]):
            for k in range(scores.shape[2]):
                z = scores[s, t, k] / temperature
                left, right = shares(gate, z)
                out[s, t, k] *= slope(gate, z, left, right) / temperature
