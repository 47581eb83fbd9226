"""fffnb on the GPU beside trees in PyTorch and Triton and dense layers.

Time is the median between CUDA events around single Python calls: where the host is slower than
the GPU it is the host's. A shared host can be twice as slow for some seconds, so every case is
measured `PASSES` times and each time is the shortest of its medians. Under "graph" the calls are
captured as one CUDA graph, so that it is the GPU's alone. Inputs rotate over four times the
second-level cache, at most 256 of them. Weights are cold where the rows that the rotation visits
exceed that cache, else warm. Weights of dense layers are read whole by every call.

Everything is checked before it is timed, on samples that come nowhere near to another path: fffnb
against the dense reference (the first levels) and against a walk in float64 (the whole batch),
trees against the same walk, gradients of fffnb against those of the trees. FFF is the faster of two
forms in PyTorch (`benchmarks.peers.torch_layers`), FF the faster of width 2^depth - 1 and 2^depth.
The floor is the bytes of the visited rows, x and y at the measured bandwidth.
"""

from __future__ import annotations

import functools
import gc
import re
from collections.abc import Callable, Iterator
from typing import Any

import torch

from ...peers import missing
from .. import record
from ..cases import Case
from ..table import Result
from . import device, forward, host, step

CASES = tuple(dict.fromkeys(forward.CASES + step.CASES))

#: How often every case is measured.
PASSES = 3


def generic_name() -> str:
    """Return the model in the name of the device, as "h100" in "NVIDIA H100 80GB HBM3"."""
    device = torch.cuda.get_device_name()
    found = re.search(r"\b[A-Za-z]*\d+[A-Za-z]*\b", device)
    return (found.group() if found else device).lower()


def compare(cases: list[Case], name: str, *, compiled: bool) -> dict[str, Any]:
    """Print the tables; return all figures of the machine of this name."""
    for sentence in missing("triton"):
        print(sentence)
    machine = {
        **record.machine(name),
        "gpu": torch.cuda.get_device_name(),
        "copy": device.copy_bandwidth(),
        "tf32": device.product_rate(torch.float32),
        "bf16": device.product_rate(torch.bfloat16),
    }
    print(
        f"{machine['gpu']}, torch {torch.__version__}: copying {machine['copy'] / 1e9:.0f} GB/s, "
        f"products TF32 {machine['tf32'] / 1e12:.0f} and BF16 {machine['bf16'] / 1e12:.0f} TFLOP/s"
    )
    figures: dict[str, Any] = {"machine": machine}
    chosen = [case for case in forward.CASES if case in cases]
    if chosen:
        print("\nforward, ms")
        measure = functools.partial(forward.measure, compiled=compiled)
        figures["forward"] = forward.TABLE.show(measured(in_passes(measure), chosen))
    chosen = [case for case in step.CASES if case in cases]
    if chosen:
        print("training step, ms")
        figures["step"] = step.TABLE.show(measured(in_passes(step.measure), chosen))
        step.print_depths(figures["step"])
    if host.CASE in cases:
        figures["host"] = host.compare()
    return figures


def in_passes(measure: Callable[[Case], Result]) -> Callable[[Case], Result]:
    """Return a function that measures a case in passes and keeps the shortest of each time."""

    def shortest(case: Case) -> Result:
        passes = [measure(case) for _ in range(PASSES)]
        result = passes[-1]
        for column in {column for each in passes for column in each["seconds"]}:
            times = (each["seconds"].get(column) for each in passes)
            found = (time for time in times if time is not None)
            result["seconds"][column] = min(found, default=None)
        return result

    return shortest


def measured(measure: Callable[[Case], Result], cases: list[Case]) -> Iterator[Result]:
    """Yield the results of the cases, memory given back after each."""
    for case in cases:
        yield measure(case)
        gc.collect()
        torch.cuda.empty_cache()
