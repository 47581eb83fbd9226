"""Running kernels on the caller's device and stream, with memory that lasts for one call."""

from __future__ import annotations

import threading
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
        self.used = -1  # nothing was taken
        self.more: list[Any] = []
        self.capturing = False
        self.room: tuple[Any, int, int] | None = None

    def take(self, size: int, dtype: str) -> Any:
        """Return the address of `size` numbers."""
        if self.used < 0:
            self.used = 0
            self.capturing = cuda.launch.is_capturing(self.key[2])
            self.room = None if self.capturing else _rooms.of.get(self.key)
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


class Running:
    """Context in which kernels run on the current stream of a device; enters as a `Call`."""

    def __init__(self, kind: Kind, like: Any, device: int) -> None:
        self.kind, self.like, self.device = kind, like, device

    def __enter__(self) -> Any:
        """Make the device current."""
        self.before = cuda.launch.enter(self.device)
        stream = self.kind.stream(self.device)
        self.scratch = Scratch(self.kind, self.like, self.device, stream)
        return cuda.launch.Call(self.device, stream, self.scratch.take)

    def __exit__(self, *error: object) -> None:
        """Keep the scratch for the next call."""
        try:
            self.scratch.close()
        finally:
            cuda.launch.leave(self.before)
