"""The one allocator of results and scratch; kernels allocate nothing.

Memory that the system has just handed out costs a page fault every 4 kB, more than a fast kernel
takes to fill it. So the memory of large arrays, when their last view is gone, waits here for the
next ones.
"""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

#: Bytes of a cache line, and of an array from which on it is worth starting on one.
LINE, ALIGNED_FROM = 64, 16_384

#: Bytes of an array from which on its memory is kept, and of all memory that waits, at most.
KEPT_FROM, KEPT = 1_000_000, 256_000_000

# A list, whose single operations need no lock: an array may die in any thread, at any moment.
_waiting: list[_Memory] = []


class _Memory:
    """Bytes that start on a cache line."""

    def __init__(self, size: int) -> None:
        room = np.empty(size + LINE, np.uint8)
        self.bytes = room[-room.ctypes.data % LINE :][:size]


class _Loan:
    """What an array and its views hold on to while they use some memory."""

    def __init__(self, memory: _Memory, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._memory = memory
        self.__array_interface__ = {
            "version": 3,
            "data": (memory.bytes.ctypes.data, False),
            "shape": shape,
            "typestr": dtype.str,
        }

    def __del__(self, waiting: list[_Memory] = _waiting) -> None:
        waiting.append(self._memory)
        with contextlib.suppress(IndexError):  # another thread emptied the list
            while sum(memory.bytes.size for memory in waiting) > KEPT:
                waiting.pop(0)


def empty(shape: int | tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Return an uninitialised C-contiguous array; a kernel must write every element of it.

    Large ones start on a cache line; NumPy's start 16 bytes after one, so that every second load of
    a vector would touch two lines.
    """
    plain = np.empty(shape, dtype)  # costs next to nothing while nobody touches it
    if plain.nbytes < ALIGNED_FROM:
        return plain
    size, shape, dtype = plain.nbytes, plain.shape, plain.dtype
    del plain  # its memory may serve again at once
    if KEPT_FROM <= size <= KEPT:
        return np.asarray(_Loan(_take(size), shape, dtype))
    return _Memory(size).bytes.view(dtype).reshape(shape)


def _take(size: int) -> _Memory:
    """Return memory of at least `size` bytes, and at most twice as many."""
    fitting = [memory for memory in _waiting if size <= memory.bytes.size <= 2 * size]
    for memory in sorted(fitting, key=lambda memory: memory.bytes.size):
        with contextlib.suppress(ValueError):  # another thread was faster
            _waiting.remove(memory)
            return memory
    return _Memory(size)
