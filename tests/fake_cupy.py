"""What the trainer needs of CuPy, without a GPU: streams whose work waits as long as it may."""

import random
import sys
from types import SimpleNamespace

import numpy as np


class DeviceArray(np.ndarray):
    """An array of which copies run on a stream."""

    machine = None

    def set(self, host, stream=None):
        assert type(host) is np.ndarray
        assert (host.dtype, host.shape) == (self.dtype, self.shape)
        (stream or self.machine.current).put(lambda: np.copyto(self, host))

    def get(self, out=None):
        out = np.empty(self.shape, self.dtype) if out is None else out
        out[...] = self
        return out


class Event:
    """A point that a stream reaches; `done` is what `record` was last called for."""

    def __init__(self, machine):
        self.machine, self.done = machine, [True]

    def synchronize(self):
        done = self.done
        self.machine.run_until(lambda: done[0])


class Stream:
    """Work in order; an eager one is done with it when `put` returns."""

    def __init__(self, machine, eager=False):
        self.machine, self.eager, self.queue = machine, eager, []
        machine.streams.append(self)

    def put(self, work, ready=lambda: True):
        self.queue.append((ready, work))
        if self.eager:
            self.machine.run_until(lambda: not self.queue)

    def record(self, event):
        event.done = done = [False]
        self.put(lambda: done.__setitem__(0, True))

    def wait_event(self, event):
        done = event.done
        self.put(lambda: None, lambda: done[0])


class Machine:
    """A machine that does what is ready in an order that the seed chooses."""

    def __init__(self, seed=0, eager=False):
        self.random, self.streams = random.Random(seed), []
        self.current = Stream(self, eager)

    def step(self):
        """Do one piece of work; return whether there was one."""
        ready = [stream for stream in self.streams if stream.queue and stream.queue[0][0]()]
        if ready:
            self.random.choice(ready).queue.pop(0)[1]()
        return bool(ready)

    def run_until(self, reached):
        while not reached():
            assert self.step(), "nothing can go on"

    def empty(self, shape, dtype):
        array = np.full(shape, 77, dtype).view(DeviceArray)
        return array

    def install(self, monkeypatch):
        """Stand in for CuPy."""
        monkeypatch.setattr(DeviceArray, "machine", self)
        events = SimpleNamespace(
            Event=lambda disable_timing: Event(self),
            Stream=lambda non_blocking: Stream(self),
            get_current_stream=lambda: self.current,
        )
        cupy = SimpleNamespace(empty=self.empty, cuda=events)
        pinned = SimpleNamespace(empty_pinned=np.empty)
        monkeypatch.setitem(sys.modules, "cupy", cupy)
        monkeypatch.setitem(sys.modules, "cupyx", pinned)
        return cupy
