"""Samples on their way to the GPU, batch by batch, through pinned memory."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from .layer import Array


class Staged:
    """Samples of the host; indexing gathers some of them and returns them on the GPU.

    There are two buffers, used in turn. The host gathers a batch into pinned memory, and a stream
    of its own copies it, while the GPU still computes with the batch before.

    Parameters
    ----------
    samples : ndarray, shape (n, ...)
        The samples; they stay where they are.
    most : int
        How many samples an index may pick at most.
    """

    def __init__(self, samples: Array, most: int) -> None:
        self.cupy: Any = importlib.import_module("cupy")
        pinned: Any = importlib.import_module("cupyx").empty_pinned
        self.samples, self.shape = samples, samples.shape
        self.places = np.arange(len(samples))
        shape = (min(most, len(samples)), *samples.shape[1:])
        dtype = samples.dtype.newbyteorder("=")
        self.pinned = [pinned(shape, dtype) for _ in range(2)]
        self.buffers = [self.cupy.empty(shape, dtype) for _ in range(2)]
        self.filled, self.free = (
            [self.cupy.cuda.Event(disable_timing=True) for _ in range(2)] for _ in range(2)
        )
        self.copying = self.cupy.cuda.Stream(non_blocking=True)
        self.turn = 0
        for event in self.free:  # the current stream may still use the memory of the buffers
            self.cupy.cuda.get_current_stream().record(event)

    def __getitem__(self, index: Any) -> Any:
        """Return samples on the GPU; the next index but one overwrites them."""
        turn, self.turn = self.turn, 1 - self.turn
        current = self.cupy.cuda.get_current_stream()
        current.record(self.free[self.turn])  # all that reads the last batch has been queued
        self.filled[turn].synchronize()  # the pinned buffer was copied: the host may write to it
        picked = self.places[index]
        batch, target = self.pinned[turn][: len(picked)], self.buffers[turn][: len(picked)]
        np.take(self.samples, picked, axis=0, out=batch, mode="clip")  # "raise" would copy twice
        self.copying.wait_event(self.free[turn])
        target.set(batch, stream=self.copying)
        self.copying.record(self.filled[turn])
        current.wait_event(self.filled[turn])
        return target
