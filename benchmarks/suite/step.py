"""Training step of one layer: forward, backward, SGD."""

import functools
import statistics
import time
from collections.abc import Callable

from .problems import BATCHES, SHAPES, fused_step, step_with_rows

with_rows = functools.cache(step_with_rows)
fused = functools.cache(fused_step)


class Step:
    """A training step over shapes (n_in, n_out, depth) and batch sizes."""

    params = (SHAPES, BATCHES)
    param_names = ("shape", "batch")

    def time_rows(self, shape: tuple[int, int, int], batch: int) -> None:
        """Time forward, backward with row gradients, and SGD on them."""
        with_rows(*shape, batch)()

    def time_fused(self, shape: tuple[int, int, int], batch: int) -> None:
        """Time forward, then backward and SGD in one."""
        fused(*shape, batch)()


class Depth:
    """A training step at 256 → 256, batch 64: its cost grows with depth, not with nodes."""

    params = ((8, 12, 16, 20),)
    param_names = ("depth",)

    def time_rows(self, depth: int) -> None:
        """Time the step with row gradients."""
        with_rows(256, 256, depth, 64)()


def track_depth_16_over_depth_8() -> float:
    """Return the ratio of the step times, the depths in turn; twice the path is 2."""
    shallow, deep = (with_rows(256, 256, depth, 64) for depth in (8, 16))
    return statistics.median(_seconds(deep) / _seconds(shallow) for _ in range(50))


def _seconds(call: Callable[[], None]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin
