"""Soft training of the tree: all nodes of UltraFastBERT's layer, and hard paths with side paths."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

import fffnb

from .problems import CASES, HOST, Array, Kind, Sizes, Timed, assert_close, problem

TEMPERATURE = 0.5


@functools.cache
def forward(sizes: Sizes, kind: Kind = HOST) -> Callable[[], tuple[Array, fffnb.SoftTrace]]:
    """Return the forward pass, checked."""
    from fffnb.reference import soft as reference

    given = problem(sizes)[:2]
    x, nodes = map(kind.send, given)

    def call() -> tuple[Array, fffnb.SoftTrace]:
        return fffnb.fff_forward_soft(x, nodes, temperature=TEMPERATURE, return_trace=True)

    options = reference.Options(temperature=TEMPERATURE)
    assert_close(kind.fetch(call()[0]), reference.forward(*given, options).y)
    return call


@functools.cache
def backward(sizes: Sizes, kind: Kind = HOST) -> Callable[[], fffnb.Gradients]:
    """Return the backward pass, checked."""
    from fffnb.reference import soft as reference

    given = problem(sizes).grad_y, *problem(sizes)[:2]
    grad_y, x, nodes = map(kind.send, given)
    trace = forward(sizes, kind)()[1]

    def call() -> fffnb.Gradients:
        return fffnb.fff_backward_soft(grad_y, x, nodes, trace)

    options = reference.Options(temperature=TEMPERATURE)
    right = reference.backward(*given, options)[:2]
    for found, wanted in zip(call()[:2], right, strict=True):
        assert_close(kind.fetch(found), wanted)
    return call


@functools.cache
def straight(sizes: Sizes) -> Callable[[], Array]:
    """Return the straight-through gradient, checked where no path and no side path is a tie."""
    from fffnb.reference import soft as reference
    from fffnb.reference import tree

    x, nodes, grad_y, trace = problem(sizes)

    def call() -> Array:
        return fffnb.straight_through(grad_y, x, nodes, trace, temperature=TEMPERATURE)

    run = tree.forward(x, nodes)
    eps = float(np.finfo(nodes.dtype).eps)
    clear = (np.abs(run.scores) > 16 * eps * run.size).all(axis=(0, 2))
    assert clear.mean() > 0.5
    options = reference.Options(temperature=TEMPERATURE)
    right = reference.straight_through(grad_y, x, nodes, options)[run.mask]
    right = right.reshape(sizes.n_trees, sizes.batch, sizes.depth).transpose(1, 0, 2)
    assert_close(call()[clear], right[clear])
    return call


class Soft(Timed):
    """`fff_forward_soft`, `fff_backward_soft` and `straight_through`."""

    params = (("base",),)

    def time_forward(self, case: str) -> None:
        """Time the whole call, checks and allocation included."""
        forward(CASES[case])()

    def time_backward(self, case: str) -> None:
        """Time the pass."""
        backward(CASES[case])()

    def time_straight(self, case: str) -> None:
        """Time the walk along the side paths."""
        straight(CASES[case])()
