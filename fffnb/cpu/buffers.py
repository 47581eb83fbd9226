"""The one allocator of results and scratch; kernels allocate nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


def empty(shape: int | tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Return an uninitialised C-contiguous array; a kernel must write every element of it."""
    return np.empty(shape, dtype)
