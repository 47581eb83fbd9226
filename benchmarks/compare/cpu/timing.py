"""How long peers take."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

#: A first call that takes more seconds than this is the only one.
SLOW = 5.0

#: Seconds of calls that are enough from three calls on, and with fewer.
ENOUGH, ENOUGH_OF_FEW = 0.3, 1.0


def timed(call: Callable[..., object], turn: Iterator[Any]) -> float:
    """Return the median time of calls on rotating inputs, after one that may compile."""
    first = _seconds(call, turn)
    if first > SLOW:
        return first
    times: list[float] = []
    start = time.perf_counter()
    while time.perf_counter() - start < (ENOUGH if len(times) >= 3 else ENOUGH_OF_FEW):
        times.append(_seconds(call, turn))
    return statistics.median(times)


def _seconds(call: Callable[..., object], turn: Iterator[Any]) -> float:
    begin = time.perf_counter()
    call(next(turn))
    return time.perf_counter() - begin
