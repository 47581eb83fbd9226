"""The most memory that a call takes beside its arguments."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

from . import backward, step
from .forward import forward
from .problems import CASES


def peak_added(call: Callable[[], object]) -> int:
    """Return the bytes that a call adds, at its peak, to those there before, its result included.

    That is what NumPy and Python ask for, the same in every run; kernels allocate nothing. The
    resident set says little here, as the C library keeps what is freed.
    """
    from fffnb import buffers

    # Memory of earlier results would be taken again, unseen; old commits keep it in the module.
    waits = buffers.pool.waiting if hasattr(buffers, "pool") else vars(buffers)["_waiting"]
    waits.clear()
    tracemalloc.start()
    floor = tracemalloc.get_traced_memory()[0]
    call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak - floor


class Peak:
    """The peak over the floor."""

    params = (("batch=8192", "width=128, depth=16"),)
    param_names = ("case",)
    unit = "bytes"

    def track_forward(self, case: str) -> int:
        """Return that of `fff_forward`."""
        return peak_added(forward(CASES[case]))

    def track_backward_rows(self, case: str) -> int:
        """Return that of `fff_backward` with row gradients."""
        return peak_added(backward.rows(CASES[case]))

    def track_step_fused(self, case: str) -> int:
        """Return that of a training step."""
        return peak_added(step.fused(CASES[case]))
