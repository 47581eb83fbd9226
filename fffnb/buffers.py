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

#: Bytes of an array from which on its memory is kept.
KEPT_FROM = 1_000_000


class _Memory:
    """Bytes that start on a cache line."""

    def __init__(self, size: int) -> None:
        self.bytes = _on_line(size, np.dtype(np.uint8), size)


def _on_line(shape: int | tuple[int, ...], dtype: np.dtype[Any], size: int) -> NDArray[Any]:
    """Return an array of `size` bytes that starts on a cache line."""
    room = np.empty(size + LINE, np.uint8)
    offset = -room.__array_interface__["data"][0] % LINE
    return np.ndarray(shape, dtype, room, offset)


class _Pool:
    """Memory that waits, `most` bytes of it at most.

    An array may die in any thread, at any moment: `waiting` is a list, whose single operations need
    no lock. It may die last of all: `give` uses no name of this module, which may be gone.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.waiting: list[_Memory] = []

    def give(self, memory: _Memory) -> None:
        """Let memory wait, and what has waited longest go."""
        self.waiting.append(memory)
        while sum(memory.bytes.size for memory in self.waiting) > self.most:
            del self.waiting[:1]

    def take(self, size: int) -> _Memory:
        """Return memory of at least `size` bytes, and at most twice as many."""
        fitting = [memory for memory in self.waiting if size <= memory.bytes.size <= 2 * size]
        for memory in sorted(fitting, key=lambda memory: memory.bytes.size):
            with contextlib.suppress(ValueError):  # another thread was faster
                self.waiting.remove(memory)
                return memory
        return _Memory(size)


#: Where the memory of large arrays waits.
pool = _Pool(256_000_000)


class _Loan:
    """What an array and its views hold on to while they use some memory."""

    def __init__(self, memory: _Memory, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._memory, self._pool = memory, pool
        self.__array_interface__ = {
            "version": 3,
            "data": (memory.bytes.ctypes.data, False),
            "shape": shape,
            "typestr": dtype.str,
        }

    def __del__(self) -> None:
        self._pool.give(self._memory)


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
    if KEPT_FROM <= size <= pool.most:
        return np.asarray(_Loan(pool.take(size), shape, dtype))
    return _on_line(shape, dtype, size)
