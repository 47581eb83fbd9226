"""Seeded problems, built once a process and checked against the reference before they are timed.

Benchmarks have no `setup`: asv_runner would then time single calls.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import fffnb
from fffnb import nn
from fffnb.reference import tree as reference

Array = NDArray[Any]

#: n_in, n_out, depth: the original project's layers, its MNIST layer, and UltraFastBERT's.
SHAPES = ((128, 64, 7), (784, 500, 8), (768, 768, 12))
BATCHES = (1, 128, 4096)

#: Samples compared with the dense reference, and the depth from which it would need gigabytes:
#: there the first levels are compared, as trees of their own.
CHECKED, CHECKED_DEPTH = 64, 12


class Kind(NamedTuple):
    """A kind of array: how to make one from a NumPy array, and the way back."""

    send: Callable[[Array], Any]
    fetch: Callable[[Any], Array]


HOST = Kind(np.asarray, np.asarray)


class Problem(NamedTuple):
    """A layer, a batch, its trace, and the gradient that comes back."""

    x: Array
    nodes: Array
    grad_y: Array
    trace: fffnb.Trace


@functools.cache
def problem(n_in: int, n_out: int, depth: int, batch: int) -> Problem:
    """Return a checked problem whose paths spread over the tree."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, n_in), np.float32)
    nodes = draw_nodes(n_in, n_out, depth, rng)
    grad_y = rng.standard_normal((batch, n_out), np.float32)
    check(x[:CHECKED], top_levels(nodes, depth), grad_y[:CHECKED])
    _, trace = fffnb.fff_forward(x, nodes, return_trace=True)
    return Problem(x, nodes, grad_y, trace)


def draw_nodes(n_in: int, n_out: int, depth: int, rng: np.random.Generator) -> Array:
    """Return nodes without a second copy of them, which a deep tree could not afford.

    Their memory starts on a cache line, as that of `fffnb.init_nodes` does.
    """
    shape = (1, 2**depth - 1, n_in + n_out)
    nodes = np.empty(math.prod(shape) + 16, np.float32)
    start = -nodes.ctypes.data // 4 % 16
    nodes = nodes[start : start + math.prod(shape)].reshape(shape)
    rng.random(dtype=np.float32, out=nodes)
    nodes -= 0.5
    nodes *= np.float32((12 / n_in) ** 0.5)
    return nodes


def top_levels(nodes: Array, depth: int) -> Array:
    """Return the levels of a forest that are compared with the reference."""
    return np.ascontiguousarray(nodes[:, : 2 ** min(depth, CHECKED_DEPTH) - 1])


def clear_samples(x: Array, nodes: Array) -> Array:
    """Return which samples come nowhere so near to a decision that rounding could turn it."""
    return ~reference.forward(x, nodes).ambiguous(float(np.finfo(np.float32).eps))


def assert_close(found: Any, right: Array, bound: float = 1e-5) -> None:
    """Raise AssertionError where two results differ by more than rounding explains."""
    assert found.shape == right.shape, f"got {found.shape}, right is {right.shape}"
    error, size = np.linalg.norm(found - right), np.linalg.norm(right)
    assert error <= bound * size, f"error {error:.3g} exceeds {bound:.3g} of {size:.3g}"


def check(x: Array, nodes: Array, grad_y: Array, kind: Kind = HOST, bound: float = 1e-5) -> None:
    """Raise AssertionError where forward or backward on a kind of array differ from the truth."""
    clear = clear_samples(x, nodes)
    x, grad_y = x[clear], grad_y[clear]
    right = (reference.forward(x, nodes).y, *reference.backward(grad_y, x, nodes)[:2])
    x, nodes, grad_y = map(kind.send, (x, nodes, grad_y))
    y, trace = fffnb.fff_forward(x, nodes, return_trace=True)
    grads = fffnb.fff_backward(grad_y, x, nodes, trace)
    for found, wanted in zip((y, grads.x, grads.nodes), right, strict=True):
        assert_close(kind.fetch(found), wanted, bound)


def sgd(lr: float) -> fffnb.UpdateRule:
    """Return the rule of plain SGD."""
    numbers = {"lr": lr, "momentum": 0.0, "weight_decay": 0.0, "nesterov": 0.0}
    return fffnb.UpdateRule("sgd", numbers, {})


def step_with_rows(n_in: int, n_out: int, depth: int, batch: int) -> Callable[[], None]:
    """Return a training step: forward, backward with row gradients, SGD."""
    x, nodes, grad_y, _ = problem(n_in, n_out, depth, batch)
    optimizer = nn.SGD({"nodes": nodes}, lr=1e-6)

    def step() -> None:
        _, trace = fffnb.fff_forward(x, nodes, return_trace=True)
        grads = fffnb.fff_backward(grad_y, x, nodes, trace, sparse=True)
        optimizer.step({"nodes": grads.nodes})

    return step


def fused_step(n_in: int, n_out: int, depth: int, batch: int) -> Callable[[], None]:
    """Return a training step: forward, then backward and SGD in one."""
    x, nodes, grad_y, _ = problem(n_in, n_out, depth, batch)
    optimizer = nn.SGD({"nodes": nodes}, lr=1e-6)

    def step() -> None:
        _, trace = fffnb.fff_forward(x, nodes, return_trace=True)
        fffnb.fff_backward_update(grad_y, x, nodes, trace, optimizer.rule("nodes"))

    return step
