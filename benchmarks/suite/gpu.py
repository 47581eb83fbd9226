"""Forward, backward and training step of one layer on the GPU, on CuPy arrays."""

import functools
import importlib
import importlib.util
from typing import Any

import fffnb

from .problems import (
    BATCHES,
    CHECKED,
    SHAPES,
    Kind,
    Problem,
    check,
    problem,
    sgd,
    top_levels,
)


@functools.cache
def find_cupy() -> Any:
    """Return CuPy; where it finds no GPU, raise what asv counts as a skipped benchmark."""
    skipped = importlib.import_module("asv_runner.benchmarks.mark").SkipNotImplemented
    if importlib.util.find_spec("cupy") is None:
        raise skipped("CuPy is not installed")
    cupy = importlib.import_module("cupy")
    if not cupy.cuda.is_available():
        raise skipped("CuPy finds no GPU")
    return cupy


@functools.cache
def gpu_problem(n_in: int, n_out: int, depth: int, batch: int) -> Problem:
    """Return a problem on the GPU, checked there."""
    cupy = find_cupy()
    x, nodes, grad_y, _ = problem(n_in, n_out, depth, batch)
    kind = Kind(cupy.asarray, cupy.asnumpy)
    check(x[:CHECKED], top_levels(nodes, depth), grad_y[:CHECKED], kind)
    x, nodes, grad_y = map(kind.send, (x, nodes, grad_y))
    return Problem(x, nodes, grad_y, fffnb.fff_forward(x, nodes, return_trace=True)[1])


def synchronize() -> None:
    """Wait for the GPU."""
    find_cupy().cuda.get_current_stream().synchronize()


class Layer:
    """All passes over shapes (n_in, n_out, depth) and batch sizes."""

    params = (SHAPES, BATCHES)
    param_names = ("shape", "batch")

    def time_forward(self, shape: tuple[int, int, int], batch: int) -> None:
        """Time the whole call, checks and allocation included."""
        x, nodes, _, _ = gpu_problem(*shape, batch)
        fffnb.fff_forward(x, nodes)
        synchronize()

    def time_backward_rows(self, shape: tuple[int, int, int], batch: int) -> None:
        """Time the backward pass with row gradients."""
        x, nodes, grad_y, trace = gpu_problem(*shape, batch)
        fffnb.fff_backward(grad_y, x, nodes, trace, sparse=True)
        synchronize()

    def time_step_fused(self, shape: tuple[int, int, int], batch: int) -> None:
        """Time forward, then backward and SGD in one."""
        x, nodes, grad_y, _ = gpu_problem(*shape, batch)
        _, trace = fffnb.fff_forward(x, nodes, return_trace=True)
        fffnb.fff_backward_update(grad_y, x, nodes, trace, sgd(1e-6))
        synchronize()
