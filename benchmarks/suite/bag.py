"""The bag, by its best or its positive nodes, and product keys over a million nodes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

import fffnb

from .problems import CHECKED, HOST, Array, Kind, Sizes, Timed, assert_close, problem, rows_of


class Bag(NamedTuple):
    """A bag, how many of its nodes a sample chooses, and the widths and the batch."""

    n_nodes: int
    k: int | None
    sizes: Sizes = Sizes(depth=1)


class Keys(NamedTuple):
    """Product keys, how many nodes a sample chooses, and the widths and the batch."""

    n_keys: int
    k: int
    sizes: Sizes = Sizes(256, 256, depth=1)


BAGS = {"64 nodes, best 8": Bag(64, 8), "64 nodes, positive": Bag(64, None)}
KEYS = {"2**20 nodes, best 16": Keys(1024, 16)}


@functools.cache
def nodes_of(bag: Bag) -> Array:
    """Return the nodes of a bag."""
    return fffnb.init_bag(bag.sizes.n_in, bag.sizes.n_out, bag.n_nodes)


@functools.cache
def forward(bag: Bag, kind: Kind = HOST) -> Callable[[], Array]:
    """Return the call, checked."""
    from fffnb.reference import bag as reference

    right = reference.forward(problem(bag.sizes).x, nodes_of(bag), bag.k)
    x, nodes = map(kind.send, (problem(bag.sizes).x, nodes_of(bag)))

    def call() -> Array:
        return fffnb.bag_forward(x, nodes, k=bag.k)

    assert_close(kind.fetch(call()), right.y)
    return call


@functools.cache
def rows(bag: Bag, kind: Kind = HOST) -> Callable[[], fffnb.Gradients]:
    """Return the backward pass, checked."""
    from fffnb.reference import bag as reference

    given = problem(bag.sizes).grad_y, problem(bag.sizes).x, nodes_of(bag)
    right_x, right_nodes, _ = reference.backward(*given, bag.k)
    grad_y, x, nodes = map(kind.send, given)
    trace = fffnb.bag_forward(x, nodes, k=bag.k, return_trace=True)[1]

    def call() -> fffnb.Gradients:
        return fffnb.bag_backward(grad_y, x, nodes, trace, sparse=True)

    grads = call()
    visited, values = rows_of(grads.nodes, kind)
    assert_close(kind.fetch(grads.x), right_x)
    assert_close(values, right_nodes.reshape(-1, nodes.shape[2])[visited])
    return call


@functools.cache
def by_keys(case: Keys, kind: Kind = HOST) -> Callable[[], Array]:
    """Return the forward pass of product keys, checked by all sums of some samples."""
    x = problem(case.sizes).x
    keys, y_vectors = fffnb.init_keys(case.sizes.n_in, case.sizes.n_out, case.n_keys)
    given = [kind.send(array) for array in (x, keys, y_vectors)]

    def call() -> Array:
        return fffnb.keys_forward(*given, k=case.k)

    _, trace = fffnb.keys_forward(*given, k=case.k, return_trace=True)
    y = kind.fetch(call())
    for s, chosen in enumerate(kind.fetch(trace.rows)[:CHECKED, 0]):
        halves = np.split(x[s].astype(np.float64), 2)
        first, second = (each @ half for each, half in zip(keys[0], halves, strict=True))
        sums = np.add.outer(first, second).ravel()
        scores, sums[chosen] = sums[chosen], -np.inf
        assert scores.min() >= sums.max() - 1e-5, f"sample {s} chose other nodes than the best"
        assert_close(y[s], scores @ y_vectors[chosen])
    return call


class BagForward(Timed):
    """`bag_forward`."""

    params = (tuple(BAGS),)

    def time_forward(self, case: str) -> None:
        """Time the whole call, checks and allocation included."""
        forward(BAGS[case])()


class BagBackward(Timed):
    """`bag_backward` with row gradients."""

    params = (tuple(BAGS),)

    def time_rows(self, case: str) -> None:
        """Time the pass."""
        rows(BAGS[case])()


class KeysForward(Timed):
    """`keys_forward`."""

    params = (tuple(KEYS),)

    def time_forward(self, case: str) -> None:
        """Time the whole call, checks and allocation included."""
        by_keys(KEYS[case])()
