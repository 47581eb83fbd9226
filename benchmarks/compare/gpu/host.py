"""What a forward call costs the host, on every kind of array that is installed."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable, Iterator

import numpy as np
import torch

import fffnb

from ...peers.torch_layers import Dense
from ...suite.problems import CHECKED, Kind, check, draw_nodes
from ..cases import PUBLISHED
from .device import GPU, host_seconds
from .layer import BOUNDS, TENSORS, attempt

CASE = PUBLISHED[0]


def kinds() -> Iterator[tuple[str, Kind]]:
    """Yield the kinds of arrays that are installed."""
    yield "torch", TENSORS
    if importlib.util.find_spec("cupy"):
        cupy = importlib.import_module("cupy")
        yield "CuPy", Kind(cupy.asarray, cupy.asnumpy)
    if importlib.util.find_spec("numba_cuda"):
        cuda = importlib.import_module("numba.cuda")
        yield "Numba", Kind(cuda.to_device, lambda array: np.asarray(array.copy_to_host()))


def compare() -> dict[str, float]:
    """Print the microseconds of each call; return the seconds."""
    seconds: dict[str, float] = {}
    remarks: list[str] = []
    for name, kind in kinds():
        calls = attempt(remarks, name, TypeError, functools.partial(checked_calls, kind))
        for what, call in (calls or {}).items():
            seconds[f"{name}, {what}"] = host_seconds(call)
    x = torch.ones((CASE.batch, CASE.n_in), device=GPU)
    linear = Dense(CASE.n_in, CASE.n_out, device=GPU)
    seconds["nn.Linear"] = host_seconds(lambda: linear.forward(x))
    print(f"host time of a forward call, {CASE.name}, µs")
    for what, time in seconds.items():
        print(f"{what:24} {1e6 * time:6.1f}")
    for remark in remarks:
        print(f"  {remark}")
    return seconds


def checked_calls(kind: Kind) -> dict[str, Callable[[], object]]:
    """Return calls on arrays of one kind, checked against the reference."""
    rng = np.random.default_rng(0)
    values = draw_nodes(CASE.n_in, CASE.n_out, CASE.depth, rng)
    samples = rng.standard_normal((CHECKED, CASE.n_in), np.float32)
    grad_y = rng.standard_normal((CHECKED, CASE.n_out), np.float32)
    check(samples, values, grad_y, kind, BOUNDS[torch.float32])
    x, nodes, out = map(kind.send, (samples[:1], values, np.empty((1, CASE.n_out), np.float32)))
    return {
        "out=": lambda: fffnb.fff_forward(x, nodes, out=out),
        "new result": lambda: fffnb.fff_forward(x, nodes),
    }
