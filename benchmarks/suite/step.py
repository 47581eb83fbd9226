"""Training step of one layer: forward, backward, SGD."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable

import fffnb

from .problems import CASES, LR, Sizes, Timed, problem
from .truth import Truth, check_step


def step_with_rows(sizes: Sizes) -> Callable[[], None]:
    """Return a step, checked: forward, backward with row gradients, SGD."""
    from fffnb import nn

    x, nodes, grad_y, trace = problem(sizes)
    optimizer = nn.SGD({"nodes": nodes}, lr=LR)

    def step(lr: float = LR) -> None:
        optimizer.lr = lr
        _, trace = fffnb.fff_forward(x, nodes, return_trace=True)
        grads = fffnb.fff_backward(grad_y, x, nodes, trace, sparse=True)
        optimizer.step({"nodes": grads.nodes})

    check_step(step, Truth(x, nodes, trace.leaves), nodes, grad_y)
    return step


def fused_step(sizes: Sizes) -> Callable[[], None]:
    """Return a step, checked: forward, then backward and SGD in one."""
    from fffnb import nn

    x, nodes, grad_y, trace = problem(sizes)
    optimizer = nn.SGD({"nodes": nodes}, lr=LR)

    def step(lr: float = LR) -> None:
        optimizer.lr = lr
        _, trace = fffnb.fff_forward(x, nodes, return_trace=True)
        fffnb.fff_backward_update(grad_y, x, nodes, trace, optimizer.rule("nodes"))

    check_step(step, Truth(x, nodes, trace.leaves), nodes, grad_y)
    return step


with_rows = functools.cache(step_with_rows)
fused = functools.cache(fused_step)


class Step(Timed):
    """A training step with plain SGD."""

    params = (
        (
            "base",
            "batch=1",
            "batch=1024",
            "batch=8192",
            "width=2048",
            "width=128, depth=8",
            "width=128, depth=16",
            "trees=8, depth=9",
        ),
    )

    def time_fused(self, case: str) -> None:
        """Time forward, then backward and SGD in one."""
        fused(CASES[case])()


class Rows(Timed):
    """The same step by way of a row gradient, as a callback or clipping needs it."""

    params = (("base", "batch=1024", "width=128, depth=16"),)

    def time_rows(self, case: str) -> None:
        """Time forward, backward with row gradients, and SGD on them."""
        with_rows(CASES[case])()


def track_depth_16_over_depth_8() -> float:
    """Return the ratio of the step times, the depths in turn; twice the path is 2."""
    shallow, deep = (with_rows(CASES[f"width=128, depth={depth}"]) for depth in (8, 16))
    return statistics.median(_seconds(deep) / _seconds(shallow) for _ in range(50))


def _seconds(call: Callable[[], None]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin
