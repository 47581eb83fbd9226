"""Soft paths on the GPU: what share of a sample reaches every place of a tree, and the way back.

Places, weights and worths as on the CPU: places 0, 1, 2, ... of a tree are its nodes, and, in the
leaf form, after its routers its leaves. What speaks at a place is its node, or `width` neurons of
its leaf. A block takes one sample through one tree, level by level.

Arrays are flat: `choices` (batch, n_trees, n_choices) are the scores of what decides, `scores`
(batch, n_trees, n_scores) those of what speaks; in the tree both are those of the nodes.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

from numba import cuda

from .launch import Kernel
from .layer import team_of
from .simt import REAL, helper
from .tree_walk import activate, derivative

#: Codes of the gates, in the order of their names in `ops.paths`.
SIGMOID, SMOOTH_STEP = range(2)

#: Scores of a sample that a thread takes, as far as blocks may grow.
SHARE = 4

BITS = (1 << 32) - 1


class Places(NamedTuple):
    """What is known of the places of a tree when kernels are compiled."""

    kind: str
    levels: int
    width: int  # neurons of a leaf; 0 in the tree, where nodes speak
    activation: int
    gate: int
    leaks: bool

    @property
    def n_places(self) -> int:
        """Places of a tree."""
        return (1 << self.levels) - 1

    @property
    def n_deciding(self) -> int:
        """Places that send a sample on."""
        return self.n_places // 2

    @property
    def n_choices(self) -> int:
        """Scores of a tree among which those are that decide."""
        return self.n_deciding if self.width else self.n_places

    @property
    def n_scores(self) -> int:
        """Scores of a tree that speak."""
        return (self.n_deciding + 1) * self.width if self.width else self.n_places

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return team_of(self.n_scores, SHARE)[0]


@functools.cache
def gate_of(kind, gate):
    """Return shares(z), what goes left and right at a score in units of the temperature, and slope.

    ``slope(z, left, right)`` is the derivative of the share that goes right.
    """
    real = REAL[kind]

    @helper
    def edge(z):
        """Return how far a score lies within the nearer edge of the smooth step, 0 beyond it."""
        u = real(0.5) - abs(z)
        return real(0) if u < real(0) else u  # NaN stays NaN

    @helper
    def shares(z):
        if gate == SIGMOID:
            e = real(math.exp(-abs(z)))
            near = real(1) / (real(1) + e)
            far = e * near
        else:
            u = edge(z)
            far = u * u * (real(3) - real(2) * u)
            near = real(1) - far
        return (near, far) if z < real(0) else (far, near)

    @helper
    def slope(z, left, right):
        if gate == SIGMOID:
            return left * right
        u = edge(z)
        return real(6) * u * (real(1) - u)

    return shares, slope


@helper
def scatter(bits):
    """Return 32 bits that depend on all of 32 others, as the last step of MurmurHash3 does it."""
    bits = (bits ^ bits >> 16) * 0x85EBCA6B & BITS
    bits = (bits ^ bits >> 13) * 0xC2B2AE35 & BITS
    return bits ^ bits >> 16


@helper
def draw(seed, i):
    """Return a number of 32 random bits, the i-th of a seed of 62 bits."""
    bits = scatter(seed >> 31 ^ scatter(i >> 32 ^ scatter(i & BITS)))
    return scatter(bits ^ seed & BITS)


@functools.cache
def share_out(places):
    """Return the kernel that writes weights, and coefs: what speaks times its weight.

    With leaks, these are drawn, each with the probability `leak`, and written too.
    """
    real, leaky, levels = REAL[places.kind], places.leaks, places.levels
    shares, _ = gate_of(places.kind, places.gate)
    n_places, n_choices, n_scores = places.n_places, places.n_choices, places.n_scores
    first, width = (places.n_deciding, places.width) if places.width else (0, 1)
    activation, threads, scale = places.activation, places.threads, float(BITS + 1)

    def body(choices, leaks, scores, weights, coefs, seed, leak, temperature):
        thread, visit, cold = cuda.threadIdx.x, cuda.blockIdx.x, real(temperature)
        choice, reached, spoken = visit * n_choices, visit * n_places, visit * n_scores
        if leaky:
            for k in range(choice + thread, choice + n_choices, threads):
                leaks[k] = 1 if draw(seed, k) < leak * scale else 0
        if thread == 0:
            weights[reached] = real(1)
        cuda.syncthreads()
        for level in range(levels - 1):
            for k in range((1 << level) - 1 + thread, (2 << level) - 1, threads):
                z = choices[choice + k] / cold
                if leaky and leaks[choice + k]:
                    z = -z
                left, right = shares(z)
                weight = weights[reached + k]
                weights[reached + 2 * k + 1] = weight * left
                weights[reached + 2 * k + 2] = weight * right
            cuda.syncthreads()
        for j in range(thread, n_scores, threads):
            active = real(activate(activation, scores[spoken + j]))
            coefs[spoken + j] = weights[reached + first + j // width] * active

    signature = ("real", "bool", "real", "real", "real", "int", "float", "float")
    return Kernel(body, places.kind, signature)


@functools.cache
def entropies(kind, gate, n_choices, n_deciding, block):
    """Return the kernel that writes the entropy of each decision, and its gradient.

    Both are multiplied by `scale`, and zero for those of n_choices that decide nothing.
    """
    real, (shares, slope) = REAL[kind], gate_of(kind, gate)

    def body(choices, found, slopes, n, temperature, scale):
        i, cold = cuda.blockIdx.x * block + cuda.threadIdx.x, real(temperature)
        if i < n:
            entropy, rise = real(0), real(0)
            if i % n_choices < n_deciding:
                z = choices[i] / cold
                left, right = shares(z)
                if left != 0 and right != 0:
                    log_left, log_right = real(math.log(left)), real(math.log(right))
                    entropy = -real(scale) * (left * log_left + right * log_right)
                    rise = real(scale) * (log_left - log_right) * slope(z, left, right) / cold
            found[i] = entropy
            slopes[i] = rise

    return Kernel(body, kind, ("real", "real", "real", "int", "float", "float"))


@functools.cache
def collect(places, outputs, more):
    """Return the kernel that goes the way back.

    `values` come as the products of the y vectors with the gradient of y, and become `worths`: what
    a unit of weight is worth that speaks or, in the leaf form summed by place, arrives. With
    `outputs`, `outer` holds what the output of a leaf adds to that. `coefs` are as in `share_out`,
    `slopes` the gradients of the scores, `turns` of the choices; in the tree these are the same
    array, as are worths and values. With `more`, `extra` is added to turns.
    """
    real, leaky, levels = REAL[places.kind], places.leaks, places.levels
    shares, slope = gate_of(places.kind, places.gate)
    n_places, n_choices, n_scores = places.n_places, places.n_choices, places.n_scores
    n_deciding, width, threads = places.n_deciding, places.width, places.threads
    first, among = (n_deciding, width) if width else (0, 1)
    activation, n_leaves = places.activation, n_deciding + 1

    @helper
    def sum_leaf(values, outer, at, leaf):
        """Return what a unit of weight is worth at a leaf."""
        worth = real(0)
        if outputs:
            worth = outer[leaf]
        for m in range(width):
            worth += values[at + m]
        return worth

    def body(
        choices,
        leaks,
        scores,
        weights,
        outer,
        extra,
        values,
        worths,
        coefs,
        slopes,
        turns,
        temperature,
    ):
        thread, visit, cold = cuda.threadIdx.x, cuda.blockIdx.x, real(temperature)
        choice, reached, spoken = visit * n_choices, visit * n_places, visit * n_scores
        for j in range(thread, n_scores, threads):
            score, value = scores[spoken + j], values[spoken + j]
            weight = weights[reached + first + j // among]
            active = real(activate(activation, score))
            coefs[spoken + j] = weight * active
            rise = weight * real(derivative(activation, score)) * value
            if more and width == 0:
                rise += extra[spoken + j]
            slopes[spoken + j] = rise
            values[spoken + j] = active * value
        cuda.syncthreads()
        if width:
            for k in range(thread, n_leaves, threads):
                leaf = visit * n_leaves + k
                worths[reached + first + k] = sum_leaf(values, outer, leaf * width, leaf)
            cuda.syncthreads()
        for up in range(levels - 1):
            level = levels - 2 - up
            for k in range((1 << level) - 1 + thread, (2 << level) - 1, threads):
                z = choices[choice + k] / cold
                if leaky and leaks[choice + k]:
                    z = -z
                left, right = shares(z)
                worth_left = worths[reached + 2 * k + 1]
                worth_right = worths[reached + 2 * k + 2]
                worth = left * worth_left + right * worth_right
                gain = weights[reached + k] * (worth_right - worth_left)
                gain *= slope(z, left, right) / cold
                if leaky and leaks[choice + k]:
                    gain = -gain
                if width == 0:
                    worth += worths[reached + k]
                    gain += turns[choice + k]
                elif more:
                    gain += extra[choice + k]
                worths[reached + k] = worth
                turns[choice + k] = gain
            cuda.syncthreads()

    signature = ("real", "bool", *["real"] * 9, "float")
    return Kernel(body, places.kind, signature)
