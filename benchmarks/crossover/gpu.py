"""On the GPU: medians between CUDA events around single Python calls on rotating inputs.

Where the host is slower than the GPU the time is the host's; a shared host can be twice as slow for
some seconds, so all layers are timed in turn, `ROUNDS` times, and the shortest median counts. fffnb
computes in float32, dense layers in TF32; "dense" is the faster of width 2^depth - 1 and 2^depth,
"Linear" goes n_in → n_out. The roof is that of `benchmarks.compare.gpu`: the bytes of the visited
rows, x and y at the bandwidth of a copy.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from ..compare import record
from ..compare.cases import Case
from ..compare.gpu import device, generic_name, measured
from ..compare.gpu.forward import checked_call
from ..compare.gpu.layer import TENSORS, draw, leaves
from ..peers.torch_layers import Dense, tf32
from ..suite.problems import CHECKED, CHECKED_DEPTH
from .layers import Call, check_step, dense_calls, keep_fastest, step
from .lines import Result

#: How often every layer is timed.
ROUNDS = 5


def machine() -> dict[str, Any]:
    """Return the machine's facts."""
    return {
        **record.machine(generic_name()),
        "gpu": torch.cuda.get_device_name(),
        "copy": device.copy_bandwidth(),
        "tf32": device.product_rate(torch.float32),
    }


def measure(cases: Iterable[Case]) -> Iterator[tuple[Case, Result]]:
    """Yield the results of cases, memory given back after each."""
    cases = list(cases)
    yield from zip(cases, measured(measure_case, cases), strict=True)


def measure_case(case: Case) -> Result:
    """Check and time one case."""
    layer = draw(case)
    nodes, inputs, grad_y = layer
    top = nodes[:, : 2 ** min(case.depth, CHECKED_DEPTH) - 1]
    x, top, grad_top = (part.cpu().numpy() for part in (inputs[0, :CHECKED], top, grad_y[:CHECKED]))
    check_step(x, top, grad_top, TENSORS)
    n_bytes = case.row_bytes(leaves(layer)[0]) + 4 * case.batch * (case.n_in + case.n_out)
    times: dict[str, dict[str, float]] = {}
    calls = (
        *dense_calls(case, grad_y, functools.partial(Dense, device=device.GPU)),
        Call("forward", "fffnb", checked_call(nodes, inputs)[0]),
        Call("step", "fffnb", step(nodes, grad_y)),
    )
    with tf32():
        for call in calls * ROUNDS:
            keep_fastest(times, call, device.event_seconds(call.function, inputs))
    roof = n_bytes / device.copy_bandwidth()
    return times | {"roof": roof / times["forward"]["fffnb"]}
