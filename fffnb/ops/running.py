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


class Running:
    """Context in which kernels run on the current stream of a device; enters as a `Call`.

    Memory that a call takes comes from the room that its stream keeps, or is new where that is too
    small.
    """

    def __init__(self, kind: Kind, like: Any, device: int) -> None:
        self.kind, self.like, self.device = kind, like, device
        self.used = -1  # nothing was taken

    def __enter__(self) -> Running:
        """Make the device current."""
        self.before = cuda.launch.enter(self.device)
        self.stream = self.kind.stream(self.device)
        return self

    def take(self, size: int, dtype: str) -> Any:
        """Return the address of `size` numbers."""
        if cuda.launch.SIMULATED:
            return self.kind.address(self.kind.empty((max(size, 1),), dtype, self.like))
        if self.used < 0:
            self.used, self.more = 0, list[Any]()
            self.key = self.kind.name, self.device, self.stream
            self.capturing = cuda.launch.is_capturing(self.stream)
            room = None if self.capturing else _rooms.of.get(self.key)
            _, self.start, self.size = room or (None, 0, 0)
        n_bytes, at = size * BYTES[dtype], self.used
        self.used = at + -(-n_bytes // ALIGNED) * ALIGNED
        if self.used <= self.size:
            return self.start + at
        self.more.append(self.kind.empty((n_bytes,), "uint8", self.like))
        return self.kind.address(self.more[-1])

    def __exit__(self, *error: object) -> None:
        """Leave the device."""
        try:
            self.keep()
        finally:
            if self.before is not None:
                cuda.launch.leave(self.before)

    def keep(self) -> None:
        """Give the stream a room in which the same call fits, or a captured graph what it uses."""
        if self.used < 0 or not self.more:
            return
        if not self.capturing:
            room = self.kind.empty((self.used,), "uint8", self.like)
            _rooms.of[self.key] = room, self.kind.address(room), self.used
        elif self.kind.keeps_captured:
            _captured.extend(self.more)
