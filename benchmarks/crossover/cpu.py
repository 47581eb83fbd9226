"""On the CPU: medians of the wall time of whole Python calls on rotating inputs.

"dense" is the fastest of width 2^depth - 1 and 2^depth through NumPy and, where it is installed,
PyTorch; "Linear" the faster of both n_in → n_out, its step that of PyTorch. The roof is that of
`benchmarks.compare.cpu`.
"""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import llvmlite.binding
import numba
import numpy as np

import fffnb

from ..compare.cases import Case
from ..compare.cpu import ROTATE_BYTES, draw_inputs, roof
from ..machine import median_seconds, read_bandwidth, sgemm_rate
from ..suite.problems import CHECKED, check, draw_nodes, top_levels
from .layers import Call, check_step, keep_fastest, numpy_calls, step, torch_calls
from .lines import Result, versions


def machine() -> dict[str, Any]:
    """Return the machine's facts."""
    threads = numba.get_num_threads()
    return {
        "name": f"cpu-{threads}core",
        "llvm_cpu": llvmlite.binding.get_host_cpu_name(),
        "threads": threads,
        "versions": versions(),
        "sgemm": sgemm_rate(),
        "read": read_bandwidth(ROTATE_BYTES),
    }


def measure(cases: Iterable[Case]) -> Iterator[tuple[Case, Result]]:
    """Yield the results of cases."""
    for case in cases:
        yield case, measure_case(case)


def measure_case(case: Case) -> Result:
    """Check and time one case."""
    nodes = draw_nodes(case.n_in, case.n_out, case.depth, np.random.default_rng(0))
    inputs = draw_inputs(case)
    grad_y = np.random.default_rng(2).standard_normal((case.batch, case.n_out), np.float32)
    top = inputs[0, :CHECKED], top_levels(nodes, case.depth), grad_y[:CHECKED]
    check(*top)
    check_step(*top)
    leaves = fffnb.fff_forward(inputs[0], nodes, return_trace=True)[1].leaves
    ours = (
        Call("forward", "fffnb", lambda x: fffnb.fff_forward(x, nodes)),
        Call("step", "fffnb", step(nodes, grad_y)),
    )
    times: dict[str, dict[str, float]] = {}
    turn: Iterator[Any] = itertools.cycle(inputs)
    for call in itertools.chain(ours, numpy_calls(case, grad_y)):
        keep_fastest(times, call, seconds(call, turn))
    if importlib.util.find_spec("torch"):
        import torch

        turn = itertools.cycle(torch.from_numpy(inputs))
        for call in torch_calls(case, torch.from_numpy(grad_y)):
            keep_fastest(times, call, seconds(call, turn))
    return times | {"roof": roof(case, leaves, times["forward"]["fffnb"])["fraction"]}


def seconds(call: Call, turn: Iterator[Any]) -> float:
    """Return the median time of a call on rotating inputs."""
    return median_seconds(lambda: call.function(next(turn)), least=3, total=0.2)
