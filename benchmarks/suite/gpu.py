"""Forward, backward and training step on the GPU, of the tree and the flat form, on CuPy arrays."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np

import fffnb

from .problems import CASES, LR, Kind, Problem, Sizes, Timed, assert_close, problem, sgd, skipped
from .truth import Truth


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
def gpu_problem(sizes: Sizes) -> tuple[Problem, Truth, Kind]:
    """Return a problem on the GPU, what must come out, and how arrays come back."""
    cupy = find_cupy()
    kind = Kind(cupy.asarray, cupy.asnumpy)
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
    found = kind.fetch(grads.nodes.rows)
    np.testing.assert_array_equal(found[found >= 0], truth.rows)
    assert_close(kind.fetch(grads.x), grad_x)
    assert_close(kind.fetch(grads.nodes.values)[found >= 0], grad_rows)
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


@functools.cache
def flat_forward(sizes: Sizes) -> Callable[[], Any]:
    """Return the forward pass of the flat form, checked."""
    from fffnb.reference.flat import nodes_of

    from .flat import flat

    cupy, x = find_cupy(), problem(sizes).x
    layer = flat(sizes)[:2]
    given = [cupy.asarray(array) for array in (x, *layer)]

    def call() -> Any:
        y = fffnb.flat_forward(*given)
        synchronize()
        return y

    _, trace = fffnb.flat_forward(*given, return_trace=True)
    truth = Truth(x, nodes_of(*layer), cupy.asnumpy(trace.leaves))
    assert_close(cupy.asnumpy(call()), truth.y)
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
        flat_forward(CASES[case])()
