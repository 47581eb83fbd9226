"""All forms on the GPU, on CuPy arrays; problems and checks are those of the other topics."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np

import fffnb

from . import bag, flat, leaf, soft
from .problems import (
    CASES,
    LR,
    Kind,
    Problem,
    Sizes,
    Timed,
    assert_close,
    problem,
    rows_of,
    sgd,
    skipped,
)
from .truth import Truth

#: Large bags are scored by products in tiles, small ones wait for the host.
BAGS = {
    "64 nodes, best 8": bag.BAGS["64 nodes, best 8"],
    "4096 nodes, best 16, batch=4096": bag.Bag(4096, 16, Sizes(depth=1, batch=4096)),
}


@functools.cache
def find_cupy() -> Any:
    """Return CuPy; where it finds no GPU, raise what asv counts as a skipped benchmark."""
    if importlib.util.find_spec("cupy") is None:
        raise skipped("CuPy is not installed")
    cupy = importlib.import_module("cupy")
    if not cupy.cuda.is_available():
        raise skipped("CuPy finds no GPU")
    return cupy


def synchronize() -> None:
    """Wait for the GPU."""
    find_cupy().cuda.get_current_stream().synchronize()


@functools.cache
def on_gpu() -> Kind:
    """Return how arrays come to the GPU, and back."""
    return Kind(find_cupy().asarray, find_cupy().asnumpy)


def run(make: Callable[[Any, Kind], Callable[[], Any]], case: Any) -> None:
    """Do the call that a topic makes of a case, and wait for it."""
    make(case, on_gpu())()
    synchronize()


@functools.cache
def gpu_problem(sizes: Sizes) -> tuple[Problem, Truth, Kind]:
    """Return a problem on the GPU, what must come out, and how arrays come back."""
    kind = on_gpu()
    x, nodes, grad_y = map(kind.send, problem(sizes)[:3])
    _, trace = fffnb.fff_forward(x, nodes, return_trace=True)
    truth = Truth(*problem(sizes)[:2], kind.fetch(trace.leaves))
    return Problem(x, nodes, grad_y, trace), truth, kind


@functools.cache
def forward(sizes: Sizes) -> Callable[[], Any]:
    """Return the forward pass, checked."""
    (x, nodes, _, _), truth, kind = gpu_problem(sizes)

    def call() -> Any:
        y = fffnb.fff_forward(x, nodes)
        synchronize()
        return y

    assert_close(kind.fetch(call()), truth.y)
    return call


@functools.cache
def rows(sizes: Sizes) -> Callable[[], Any]:
    """Return the backward pass with row gradients, checked."""
    (x, nodes, grad_y, trace), truth, kind = gpu_problem(sizes)

    def call() -> Any:
        grads = fffnb.fff_backward(grad_y, x, nodes, trace, sparse=True)
        synchronize()
        return grads

    grads = call()
    grad_x, grad_rows = truth.gradients(problem(sizes).grad_y)
    visited, values = rows_of(grads.nodes, kind)
    np.testing.assert_array_equal(visited, truth.rows)
    assert_close(kind.fetch(grads.x), grad_x)
    assert_close(values, grad_rows)
    return call


@functools.cache
def step(sizes: Sizes) -> Callable[[], None]:
    """Return the training step, forward, then backward and SGD in one, checked."""
    (x, nodes, grad_y, _), truth, kind = gpu_problem(sizes)

    def call(lr: float = LR) -> None:
        _, trace = fffnb.fff_forward(x, nodes, return_trace=True)
        fffnb.fff_backward_update(grad_y, x, nodes, trace, sgd(lr))
        synchronize()

    before = kind.fetch(nodes).copy()
    call(1.0)
    table = kind.fetch(nodes).reshape(-1, nodes.shape[2])
    right = before.reshape(table.shape)[truth.rows].astype(np.float64)
    assert_close(table[truth.rows], right - truth.gradients(problem(sizes).grad_y)[1])
    nodes[...] = kind.send(before)
    return call


class Layer(Timed):
    """All passes of the tree on the GPU."""

    params = (("base", "batch=1", "batch=8192", "width=128, depth=16"),)

    def time_forward(self, case: str) -> None:
        """Time the whole call, checks and allocation included."""
        forward(CASES[case])()

    def time_backward_rows(self, case: str) -> None:
        """Time the backward pass with row gradients."""
        rows(CASES[case])()

    def time_step_fused(self, case: str) -> None:
        """Time forward, then backward and SGD in one."""
        step(CASES[case])()


class Flat(Timed):
    """The flat form on the GPU."""

    params = (("base", "batch=8192"),)

    def time_forward(self, case: str) -> None:
        """Time the whole call, checks and allocation included."""
        run(flat.forward, CASES[case])

    def time_backward_rows(self, case: str) -> None:
        """Time the backward pass with row gradients of the y vectors."""
        run(flat.rows, CASES[case])

    def time_patterns(self, case: str) -> None:
        """Time the forward pass with y vectors for all patterns of signs."""
        run(flat.patterns, CASES[case])


class Bag(Timed):
    """The bag on the GPU."""

    params = (tuple(BAGS),)

    def time_forward(self, case: str) -> None:
        """Time the whole call, checks and allocation included."""
        run(bag.forward, BAGS[case])

    def time_backward_rows(self, case: str) -> None:
        """Time the backward pass with row gradients."""
        run(bag.rows, BAGS[case])


class Keys(Timed):
    """Product keys on the GPU."""

    params = (tuple(bag.KEYS),)

    def time_forward(self, case: str) -> None:
        """Time the whole call, checks and allocation included."""
        run(bag.by_keys, bag.KEYS[case])


class Leaf(Timed):
    """The leaf form on the GPU."""

    params = (tuple(leaf.CASES),)

    def time_inference(self, case: str) -> None:
        """Time hard paths, checks and allocation included."""
        run(leaf.inference, leaf.CASES[case])

    def time_training(self, case: str) -> None:
        """Time both soft passes."""
        run(leaf.training, leaf.CASES[case])


class Soft(Timed):
    """Soft training of the tree on the GPU."""

    params = (("base",),)

    def time_forward(self, case: str) -> None:
        """Time the whole call, checks and allocation included."""
        run(soft.forward, CASES[case])

    def time_backward(self, case: str) -> None:
        """Time the pass."""
        run(soft.backward, CASES[case])
