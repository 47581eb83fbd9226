"""What the bridges to other libraries cost, beside the same work through NumPy."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping


def medians(
    calls: Mapping[str, Callable[[], object]], rounds: int = 30, *, slow: tuple[str, ...] = ()
) -> dict[str, float]:
    """Return the median seconds of each call, all called in turn, after a turn that may compile.

    Those that are `slow` are called after the others, a tenth as often: they would leave nothing
    of the others in the caches.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    fast = [name for name in calls if name not in slow]
    for names, turns in ((fast, rounds), (slow, max(3, rounds // 10))):
        for turn in range(turns + 1):
            for name in names:
                begin = time.perf_counter()
                calls[name]()
                if turn > 0:
                    times[name].append(time.perf_counter() - begin)
    return {name: statistics.median(each) for name, each in times.items()}
