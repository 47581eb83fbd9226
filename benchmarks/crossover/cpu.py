"""On the CPU: medians of the wall time of whole Python calls on rotating inputs.

"dense" is the fastest of width 2^depth - 1 and 2^depth through NumPy and, where it is installed,
PyTorch; "Linear" the faster of both n_in → n_out. The roof is that of
`benchmarks.compare.cpu`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import fffnb

from ..compare import record
from ..compare.cases import Case
from ..compare.cpu import generic_name, threads
from ..compare.cpu.layer import ROTATE_BYTES, draw, roof
from ..compare.cpu.timing import timed
from ..machine import read_bandwidth, sgemm_rate
from ..peers import dense, installed
from ..suite.problems import CHECKED, top_levels
from .layers import Call, check_step, dense_calls, keep_fastest, step
from .lines import Result


def machine() -> dict[str, Any]:
    """Return the machine's facts, every library having as many threads."""
    threads.share()
    rates = {"sgemm": sgemm_rate(), "read": read_bandwidth(ROTATE_BYTES)}
    return {**record.machine(generic_name()), **rates}


def measure(cases: Iterable[Case]) -> Iterator[tuple[Case, Result]]:
    """Yield the results of cases."""
    for case in cases:
        yield case, measure_case(case)


def measure_case(case: Case) -> Result:
    """Check and time one case."""
    nodes, inputs, grad_y = draw(case)
    check_step(inputs[0, :CHECKED], top_levels(nodes, case.depth), grad_y[:CHECKED])
    leaves = fffnb.fff_forward(inputs[0], nodes, return_trace=True)[1].leaves
    ours = (
        Call("forward", "fffnb", lambda x: fffnb.fff_forward(x, nodes)),
        Call("step", "fffnb", step(nodes, grad_y)),
    )
    times: dict[str, dict[str, float]] = {}
    turn: Iterator[Any] = itertools.cycle(inputs)
    for call in itertools.chain(ours, dense_calls(case, grad_y, dense.Dense)):
        keep_fastest(times, call, timed(call.function, turn))
    if installed("torch"):
        import torch

        from ..peers.torch_layers import Dense

        turn = itertools.cycle(torch.from_numpy(inputs))
        for call in dense_calls(case, torch.from_numpy(grad_y), Dense):
            keep_fastest(times, call, timed(call.function, turn))
    return times | {"roof": roof(case, leaves, times["forward"]["fffnb"])["fraction"]}
