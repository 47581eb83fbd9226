"""Compiling and starting CPU kernels: the only place with JIT options and the choice of threads.

Every kernel is compiled twice at most, serially and in parallel, each on its first use: a parallel
kernel starts Numba's thread pool as soon as it exists, and a process forked after that must never
enter the pool of GNU OpenMP again. Both forms run the same body per item, so they give the same
bits.
"""

from __future__ import annotations

import functools
import hashlib
import os
import sys
import threading
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numba

#: Enough for vector FMA with several accumulators; NaN and infinity keep their meaning.
FASTMATH = {"reassoc", "contract", "nsz"}

#: Floating-point operations from which a parallel region is worth its start, by threading layer
#: (a region costs 2 to 5 µs with OpenMP and 28 µs with the workqueue; 1 MFLOP takes 50 to 100 µs).
PARALLEL_WORK = {"omp": 1_000_000, "tbb": 1_000_000, "workqueue": 10_000_000}
_LEAST_PARALLEL_WORK = min(PARALLEL_WORK.values())

#: Chosen form of every kernel, for tests and benchmarks; None leaves it to `choose`.
forced: Literal["serial", "parallel"] | None = None

_pool_lost_in_fork = False
_workqueue = threading.Lock()

# Without wrappers for Python and C, which nobody calls, compiling takes less time.
_helper_options: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}

#: Decorates what kernels call; it becomes part of them.
helper = numba.njit(fastmath=FASTMATH, error_model="numpy", **_helper_options)


class Kernel:
    """A jitted function in a serial and a parallel form, one of which each call chooses."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    @functools.cached_property
    def serial(self) -> Any:
        """The form without threads; it releases the GIL."""
        return _compile(self._function, parallel=False)

    @functools.cached_property
    def parallel(self) -> Any:
        """The form in which `prange` runs on Numba's thread pool."""
        return _compile(self._function, parallel=True)

    def __call__(self, work: int, *arguments: Any) -> Any:
        """Run on `arguments`; `work` is the number of floating-point operations."""
        if choose(work) == "serial":
            return self.serial(*arguments)
        if threading_layer() != "workqueue":
            return self.parallel(*arguments)
        # The workqueue aborts the process when two threads enter it: the second goes serially.
        if not _workqueue.acquire(blocking=False):
            return self.serial(*arguments)
        try:
            return self.parallel(*arguments)
        finally:
            _workqueue.release()


def choose(work: int) -> Literal["serial", "parallel"]:
    """Return the form in which to run `work` floating-point operations."""
    if forced is not None:
        return forced
    if (
        work < _LEAST_PARALLEL_WORK or _pool_lost_in_fork or numba.config.NUMBA_NUM_THREADS == 1  # type: ignore[attr-defined]
    ):
        return "serial"
    layer = threading_layer()
    if layer is None or work < PARALLEL_WORK[layer] or numba.get_num_threads() == 1:
        return "serial"
    return "parallel"


def threads_for(work: int) -> int:
    """Return how many threads at most will share `work` floating-point operations."""
    return numba.get_num_threads() if choose(work) == "parallel" else 1


@functools.cache
def threading_layer() -> str | None:
    """Start the thread pool and return its kind, or None (said once) when there is none."""
    try:
        numba.get_num_threads()
        return str(numba.threading_layer())  # type: ignore[attr-defined]
    except ValueError as error:
        warnings.warn(
            f"fffnb runs on one thread, Numba found no threading layer: {error}",
            RuntimeWarning,
            stacklevel=4,
        )
        return None


def _compile(function: Callable[..., Any], *, parallel: bool) -> Any:
    # Numba's disk cache sees the name and the file of a kernel, but neither its options nor the
    # helpers that it calls; both go into the name.
    name = f"{function.__qualname__}_{'parallel' if parallel else 'serial'}_{_revision()}"
    named = types.FunctionType(function.__code__, function.__globals__, function.__name__)
    named.__qualname__ = name
    njit: Any = functools.partial(
        numba.njit,
        parallel=parallel,
        nogil=True,
        fastmath=FASTMATH,
        error_model="numpy",
    )
    try:
        return njit(cache=True)(named)
    except RuntimeError:  # no cache directory can be had
        return njit()(named)


@functools.cache
def _revision() -> str:
    """Return a digest of all sources that end up in CPU kernels."""
    digest = hashlib.sha256()
    here = Path(__file__).parent
    for source in [*sorted(here.glob("*.py")), here.parent / "activations.py"]:
        digest.update(source.read_bytes())
    return digest.hexdigest()[:12]


def _after_fork() -> None:
    """Note in a forked child whether the thread pool of its parent is gone for good.

    PyTorch loads GNU OpenMP for all, and may have started its pool.
    """
    global _pool_lost_in_fork, _workqueue
    _workqueue = threading.Lock()
    try:
        lost = numba.threading_layer() == "omp"  # type: ignore[attr-defined]
    except ValueError:  # no pool was started from here before the fork
        lost = "torch" in sys.modules
    _pool_lost_in_fork = _pool_lost_in_fork or lost


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
