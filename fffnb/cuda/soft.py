"""Soft training of the tree on the GPU: all nodes of all trees, by products of matrices.

As in `tree`; what leads to which node is up to `soft_paths`. Leaks are bytes, 1 where a node leaks;
where there are none, any array stands in for them, as for a bias.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

from .dense import BLOCK, Sizes, add_up, backward_products, forward_products
from .launch import KEPT, Call
from .soft_paths import Places, collect, entropies, share_out
from .tree import Operand

__all__ = ["Forest", "Gating", "Places", "backward", "entropy", "forward"]

#: The least temperature of each dtype: below it scores are as good as infinite.
COLDEST = {"float32": 2.0**-126, "float64": 2.0**-1022}


class Forest(NamedTuple):
    """What is known of a call before its arrays: sizes, and numbers that one load may take."""

    places: Places
    n_in: int
    n_out: int
    n_trees: int
    batch: int
    length: int
    device: int

    @property
    def kind(self) -> str:
        """The kind of all numbers."""
        return self.places.kind

    def sizes(self, n_rows: int) -> Sizes:
        """Return the sizes of products of so many rows, of all trees, with all samples."""
        own = self.kind, self.n_in, self.n_out
        return Sizes(*own, n_rows, self.batch, self.length, self.device)


class Gating(NamedTuple):
    """What shares out a sample beside the scores: leaks, by seed and probability; temperature."""

    seed: int
    leak: float
    temperature: float


@functools.lru_cache(KEPT)
def forward(forest: Forest, has_bias: bool) -> Callable[..., None]:
    """Return run(...), a forward pass made ready.

    ``run(call, x, nodes, bias, leaks, scores, weights, y, gating)`` writes leaks, scores and
    weights (batch, n_trees, n_nodes) and y (batch, n_out).
    """
    places, _, _, n_trees, batch, _, device = forest
    kind, n_nodes = forest.kind, n_trees * places.n_places
    scored, mixed = forward_products(forest.sizes(n_nodes), has_bias)
    share = share_out(places).bind(device, (batch * n_trees, 1, 1), places.threads)

    def run(call: Call, *arrays: Operand) -> None:
        x, nodes, bias, leaks, scores, weights, y, gating = arrays
        coefs = call.take(batch * n_nodes, kind)
        scored(call, x, nodes, scores, bias)
        found, temperature = (scores, weights, coefs), cooled(kind, gating.temperature)
        share(call.stream, scores, leaks, *found, gating.seed, gating.leak, temperature)
        mixed(call, coefs, nodes, y)

    return run


@functools.lru_cache(KEPT)
def backward(forest: Forest, more: bool) -> Callable[..., None]:
    """Return run(...), a backward pass made ready; with `more` it takes gradients of scores.

    ``run(call, grad_y, x, nodes, leaks, scores, weights, extra, grad_x, grad_nodes, grad_bias,
    temperature)`` writes the gradients of x, of nodes and, if it is not None, of the bias.
    """
    places, _, _, n_trees, batch, _, device = forest
    kind, n_nodes = forest.kind, n_trees * places.n_places
    valued, to_x, to_table = backward_products(forest.sizes(n_nodes))
    collected = collect(places, False, more).bind(device, (batch * n_trees, 1, 1), places.threads)
    to_bias = add_up(kind, batch, n_nodes, device)

    def run(call: Call, *arrays: Operand) -> None:
        grad_y, x, nodes, leaks, scores, weights, extra, *grads, temperature = arrays
        grad_x, grad_nodes, grad_bias = grads
        values, coefs, slopes = (call.take(batch * n_nodes, kind) for _ in range(3))
        valued(call, grad_y, nodes, values)
        paths = scores, leaks, scores, weights, values, extra
        written = values, values, coefs, slopes, slopes
        collected(call.stream, *paths, *written, cooled(kind, temperature))
        to_x(call, slopes, nodes, grad_x)
        to_table(call, slopes, coefs, x, grad_y, grad_nodes)
        if grad_bias is not None:
            to_bias(call, slopes, grad_bias)

    return run


@functools.lru_cache(KEPT)
def entropy(
    kind: str, gate: int, n_choices: int, n_deciding: int, n_visits: int, device: int
) -> Callable[..., None]:
    """Return run(...), the hardening loss made ready.

    ``run(call, choices, loss, slopes, temperature, scale)`` writes the entropies of the first
    n_deciding of n_choices scores of each visit, summed and times `scale`, and its gradient.
    """
    n = n_visits * n_choices
    kernel = entropies(kind, gate, n_choices, n_deciding, BLOCK)
    found = kernel.bind(device, (-(-n // BLOCK), 1, 1), BLOCK)
    by_choice = add_up(kind, n_visits, n_choices, device)
    whole = add_up(kind, n_choices, 1, device)

    def run(call: Call, choices: Operand, loss: Operand, slopes: Operand, *numbers: float) -> None:
        temperature, scale = numbers
        each, sums = call.take(n, kind), call.take(n_choices, kind)
        found(call.stream, choices, each, slopes, n, cooled(kind, temperature), scale)
        by_choice(call, each, sums)
        whole(call, sums, loss)

    return run


def cooled(kind: str, temperature: float) -> float:
    """Return a temperature that is not zero as a number of a kind."""
    return max(temperature, COLDEST[kind])
