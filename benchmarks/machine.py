"""What the machine can do, measured in the run that uses it: matrix products and reading memory."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import numba
import numpy as np


def median_seconds(call: Callable[[], Any], *, least: int = 7, total: float = 0.5) -> float:
    """Return the median wall time of at least `least` calls that take `total` seconds together."""
    call()
    times: list[float] = []
    start = time.perf_counter()
    while len(times) < least or time.perf_counter() - start < total:
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


@functools.cache
def sgemm_rate() -> float:
    """Return the floating-point operations a second of a float32 matrix product through BLAS."""
    n = 2048
    a, b, c = np.random.default_rng(0).standard_normal((3, n, n), np.float32)
    return 2 * n**3 / median_seconds(lambda: np.matmul(a, b, out=c))


@functools.cache
def read_bandwidth(n_bytes: int) -> float:
    """Return the bytes a second at which all threads read an array of `n_bytes`."""
    array = np.ones(max(1024, n_bytes // 4), np.float32)
    return array.nbytes / median_seconds(lambda: _sum(array))


@numba.njit(parallel=True, fastmath=True, cache=True)
def _sum(array):  # type: ignore[no-untyped-def]
    total = np.float32(0)
    for i in numba.prange(len(array)):
        total += array[i]
    return total
