"""Running kernels on the caller's device and stream, with memory that lasts for one call."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .. import cuda
from .device import BYTES, Kind

#: Bytes on whose multiples pieces of scratch start.
ALIGNED = 256


class _Rooms(threading.local):
    """The scratch of each stream that this thread has used: array, address, bytes."""

    def __init__(self) -> None:
        self.of: dict[tuple[Any, ...], tuple[Any, int, int]] = {}


_rooms = _Rooms()

# What captured graphs use, where their framework would give it to others.
_captured: list[Any] = []


class Scratch:
    """Memory for one call, from the room that its stream keeps, or new where that is too small."""

    def __init__(self, kind: Kind, like: Any, device: int, stream: int) -> None:
        self.kind, self.like = kind, like
        self.key = (kind.name, device, stream)
        self.used = 0
        self.more: list[Any] = []
        self.capturing = cuda.launch.is_capturing(stream)
        self.room = None if self.capturing else _rooms.of.get(self.key)

    def take(self, size: int, dtype: str) -> Any:
        """Return the address of `size` numbers."""
        if cuda.launch.SIMULATED:
            return self.kind.address(self.kind.empty((max(size, 1),), dtype, self.like))
        n_bytes, at = size * BYTES[dtype], self.used
        self.used += -(-n_bytes // ALIGNED) * ALIGNED
        if self.room is not None and self.used <= self.room[2]:
            return self.room[1] + at
        self.more.append(self.kind.empty((n_bytes,), "uint8", self.like))
        return self.kind.address(self.more[-1])

    def close(self) -> None:
        """Give the stream a room in which the same call fits."""
        if self.capturing:
            if self.kind.keeps_captured:
                _captured.extend(self.more)
        elif self.more:
            room = self.kind.empty((self.used,), "uint8", self.like)
            _rooms.of[self.key] = room, self.kind.address(room), self.used


@contextmanager
def running(kind: Kind, like: Any, device: int) -> Iterator[Any]:
    """Yield the `Call` by which kernels run on the current stream of a device."""
    stream = kind.stream(device)
    with cuda.launch.on_device(device):
        scratch = Scratch(kind, like, device, stream)
        yield cuda.tree.Call(stream, scratch.take)
        scratch.close()
