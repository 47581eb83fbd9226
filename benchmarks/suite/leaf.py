"""The leaf form: hard inference, and a step of soft training without the optimiser."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

import fffnb

from .problems import HOST, Array, Kind, Timed, assert_close


class Sizes(NamedTuple):
    """A forest of one tree, and a batch."""

    n_in: int
    n_out: int
    depth: int
    width: int
    batch: int = 2048


#: The layers of the paper: MNIST, and BERT's.
CASES = {
    "784 → 10, width 8": Sizes(784, 10, 4, 8),
    "768 → 768, width 32": Sizes(768, 768, 4, 32),
}

#: Samples compared with the dense reference.
CHECKED = 64


class Problem(NamedTuple):
    """A layer, a batch and the gradient that comes back."""

    x: Array
    grad_y: Array
    routers: Array
    leaves: Array
    bias: fffnb.LeafBias


@functools.cache
def problem(sizes: Sizes) -> Problem:
    """Return a problem whose samples spread over the leaves."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((sizes.batch, sizes.n_in), np.float32)
    grad_y = rng.standard_normal((sizes.batch, sizes.n_out), np.float32)
    return Problem(x, grad_y, *fffnb.init_leaf(*sizes[:4], rng=rng))


def sent(sizes: Sizes, kind: Kind) -> Problem:
    """Return a problem as arrays of a kind."""
    x, grad_y, routers, leaves = map(kind.send, problem(sizes)[:4])
    return Problem(x, grad_y, routers, leaves, fffnb.LeafBias(*map(kind.send, problem(sizes).bias)))


@functools.cache
def inference(sizes: Sizes, kind: Kind = HOST) -> Callable[[], Array]:
    """Return the call, checked."""
    from fffnb.reference import leaf as reference

    x, _, routers, leaves, bias = problem(sizes)
    truth = reference.forward(x[:CHECKED], routers, leaves, reference.Options(bias))
    clear = ~truth.ambiguous(float(np.finfo(np.float32).eps))
    x, _, routers, leaves, bias = sent(sizes, kind)

    def call() -> Array:
        return fffnb.leaf_forward(x, routers, leaves, bias=bias)

    assert_close(kind.fetch(call())[:CHECKED][clear], truth.y[clear])
    return call


@functools.cache
def training(sizes: Sizes, kind: Kind = HOST) -> Callable[[], fffnb.LeafGradients]:
    """Return a forward and a backward pass, checked."""
    from fffnb.reference import leaf as reference

    x, grad_y, routers, leaves, bias = sent(sizes, kind)

    def run(x: Array, grad_y: Array) -> tuple[Array, fffnb.LeafGradients]:
        y, trace = fffnb.leaf_forward_soft(x, routers, leaves, bias=bias, return_trace=True)
        return y, fffnb.leaf_backward_soft(grad_y, x, routers, leaves, trace, bias=bias)

    y, grads = run(x[:CHECKED], grad_y[:CHECKED])
    assert grads.bias is not None
    found = (y, grads.x, grads.routers, grads.leaves, *grads.bias)
    given, options = problem(sizes), reference.Options(problem(sizes).bias, temperature=1.0)
    arguments = given.x[:CHECKED], given.routers, given.leaves, options
    gradients = reference.backward(given.grad_y[:CHECKED], *arguments)
    right = reference.forward(*arguments).y, *gradients
    for array, wanted in zip(found, right, strict=True):
        assert_close(kind.fetch(array), wanted)
    return lambda: run(x, grad_y)[1]


class Leaf(Timed):
    """`leaf_forward`, and `leaf_forward_soft` with `leaf_backward_soft`."""

    params = (tuple(CASES),)

    def time_inference(self, case: str) -> None:
        """Time hard paths, checks and allocation included."""
        inference(CASES[case])()

    def time_training(self, case: str) -> None:
        """Time both soft passes."""
        training(CASES[case])()
