"""Backward pass of one layer: with row gradients, with dense ones, and with the step of SGD."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

import fffnb

from .problems import CASES, LR, Array, Sizes, Timed, assert_close, problem, sgd
from .truth import Truth, check_step


@functools.cache
def rows(sizes: Sizes) -> Callable[[], Any]:
    """Return the pass with row gradients, checked."""
    x, nodes, grad_y, trace = problem(sizes)

    def call() -> Any:
        return fffnb.fff_backward(grad_y, x, nodes, trace, sparse=True)

    truth = Truth(x, nodes, trace.leaves)
    grad_x, grad_rows = truth.gradients(grad_y)
    grads = call()
    np.testing.assert_array_equal(grads.nodes.rows, truth.rows)
    assert_close(grads.x, grad_x, truth.bound)
    assert_close(grads.nodes.values, grad_rows, truth.bound)
    return call


@functools.cache
def dense(sizes: Sizes) -> Callable[[], fffnb.Gradients]:
    """Return the pass with a dense gradient, checked."""
    x, nodes, grad_y, trace = problem(sizes)

    def call() -> fffnb.Gradients:
        return fffnb.fff_backward(grad_y, x, nodes, trace)

    truth = Truth(x, nodes, trace.leaves)
    grad_x, grad_rows = truth.gradients(grad_y)
    grad_nodes = np.zeros((nodes.shape[0] * nodes.shape[1], nodes.shape[2]))
    grad_nodes[truth.rows] = grad_rows
    grads = call()
    assert_close(grads.x, grad_x, truth.bound)
    assert_close(grads.nodes, grad_nodes.reshape(nodes.shape), truth.bound)
    return call


@functools.cache
def update(sizes: Sizes) -> Callable[[], Array]:
    """Return the pass that takes the step of SGD, checked."""
    x, nodes, grad_y, trace = problem(sizes)

    def call(lr: float = LR) -> Array:
        return fffnb.fff_backward_update(grad_y, x, nodes, trace, sgd(lr))

    truth = Truth(x, nodes, trace.leaves)
    assert_close(call(), truth.gradients(grad_y)[0], truth.bound)
    check_step(call, truth, nodes, grad_y)
    return call


class Backward(Timed):
    """`fff_backward` with row gradients; compiling it for float64 would take half a minute."""

    params = (tuple(case for case in CASES if case != "dtype=float64"),)

    def time_rows(self, case: str) -> None:
        """Time the pass."""
        rows(CASES[case])()


class Update(Timed):
    """`fff_backward_update`, which takes the step of SGD and stores no gradient.

    Few cases: the training step is this and the forward pass.
    """

    params = (("base", "batch=1", "batch=1024", "width=128, depth=20"),)

    def time_update(self, case: str) -> None:
        """Time the pass."""
        update(CASES[case])()


class Dense(Timed):
    """`fff_backward` with a dense gradient, which costs as much as the layer has nodes."""

    params = (("base", "width=128, depth=16"),)

    def time_dense(self, case: str) -> None:
        """Time the pass."""
        dense(CASES[case])()
