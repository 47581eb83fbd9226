"""How long calls take on the GPU, and what it can do, measured in the run that uses it."""

from __future__ import annotations

import functools
import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ...peers.torch_layers import tf32

GPU = "cuda"

#: Calls on these many inputs make one graph.
GRAPH_CALLS = 64

Call = Callable[[Any], object]


def event_seconds(call: Call, inputs: Sequence[Any], *, total: float = 0.06) -> float:
    """Return the median time between events around calls that take `total` seconds together.

    A call whose host time is longer than its GPU time takes its host time.
    """
    turn = itertools.cycle(list(inputs))
    for _ in range(3):  # compile, choose algorithms, fill the allocator
        call(next(turn))
    torch.cuda.synchronize()
    begin = time.perf_counter()
    call(next(turn))
    torch.cuda.synchronize()
    n = int(total / (time.perf_counter() - begin))
    pairs = [(_event(), _event()) for _ in range(min(2000, max(5, n)))]
    for start, stop in pairs:
        start.record()
        call(next(turn))
        stop.record()
    torch.cuda.synchronize()
    return statistics.median([float(start.elapsed_time(stop)) for start, stop in pairs]) / 1e3


def _event() -> Any:
    """Return an event that CUDA knows already: the first record creates it."""
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


class Graph:
    """Calls on inputs, one after the other, captured as one CUDA graph."""

    def __init__(self, call: Call, inputs: Sequence[Any]):
        self.inputs = list(inputs[:GRAPH_CALLS])
        self.graph = torch.cuda.CUDAGraph()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        # A capture that fails leaves its stream current; the outer `with` puts ours back.
        with torch.cuda.stream(stream):
            for x in self.inputs[:3]:
                call(x)
            with torch.cuda.graph(self.graph, stream=stream):
                for x in self.inputs:
                    call(x)
        torch.cuda.current_stream().wait_stream(stream)

    def replay(self) -> None:
        """Do all calls again."""
        self.graph.replay()

    def seconds(self) -> float:
        """Return the time of one call, without host time."""
        return event_seconds(lambda _: self.replay(), [None]) / len(self.inputs)


def host_seconds(call: Callable[[], object]) -> float:
    """Return the mean host time of a call, in turns so short that the queue never fills."""
    means = []
    for _ in range(50):
        begin = time.perf_counter()
        for _ in range(200):
            call()
        means.append((time.perf_counter() - begin) / 200)
        torch.cuda.synchronize()
    return statistics.median(means)


@functools.cache
def copy_bandwidth() -> float:
    """Return the bytes a second that a copy of 1 GiB reads and writes."""
    source, target = torch.empty((2, 2**28), device=GPU)
    return 2 * int(source.nbytes) / event_seconds(target.copy_, [source])


def product_rate(dtype: torch.dtype, n: int = 8192) -> float:
    """Return the operations a second of a product of n x n matrices; float32 ones as TF32."""
    a, b = torch.randn((2, n, n), device=GPU, dtype=dtype)
    with tf32():
        return 2 * n**3 / event_seconds(lambda _: a @ b, [None])


def cache_bytes() -> int:
    """Return the size of the second-level cache."""
    return int(torch.cuda.get_device_properties(GPU).L2_cache_size)
