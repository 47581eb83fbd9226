"""The one allocator of results and scratch; kernels allocate nothing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

#: Bytes of a cache line, and of an array from which on it is worth starting on one.
LINE, ALIGNED_FROM = 64, 16_384


def empty(shape: int | tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Return an uninitialised C-contiguous array; a kernel must write every element of it.

    NumPy's large arrays start 16 bytes after a cache line, so that every second load of a vector
    would touch two lines.
    """
    size = np.dtype(dtype).itemsize * (math.prod(shape) if isinstance(shape, tuple) else shape)
    if size < ALIGNED_FROM:
        return np.empty(shape, dtype)
    room = np.empty(size + LINE, np.uint8)
    start = -room.ctypes.data % LINE
    return room[start : start + size].view(dtype).reshape(shape)
