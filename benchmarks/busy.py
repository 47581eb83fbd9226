"""``python -m benchmarks.busy``: what a call costs while another process keeps one core busy.

Each shape of `benchmarks.compare.cpu`, forward and training step, is called 200 times with one core
taken by another process: as fffnb chooses, and on one thread. A region on all threads then waits
for the thread that shares its core.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

import fffnb
from fffnb import nn
from fffnb.cpu import jit

from .compare.cases import Case, add_only, picked
from .compare.cpu import CASES, draw_inputs
from .suite.problems import draw_nodes


@contextmanager
def busy_core() -> Iterator[None]:
    """Keep the last core of this process busy."""
    process = multiprocessing.get_context("spawn").Process(target=_spin, daemon=True)
    process.start()
    time.sleep(1)
    try:
        yield
    finally:
        process.terminate()
        process.join()


def _spin() -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    while True:
        pass


def calls(case: Case) -> dict[str, Callable[[], object]]:
    """Return the calls that are timed."""
    nodes = draw_nodes(case.n_in, case.n_out, case.depth, np.random.default_rng(0))
    inputs = itertools.cycle(draw_inputs(case))
    grad_y = np.random.default_rng(2).standard_normal((case.batch, case.n_out), np.float32)
    rule = nn.SGD({"nodes": nodes}, lr=1e-6).rule("nodes")

    def step() -> None:
        x = next(inputs)
        _, trace = fffnb.fff_forward(x, nodes, return_trace=True)
        fffnb.fff_backward_update(grad_y, x, nodes, trace, rule)

    return {"forward": lambda: fffnb.fff_forward(next(inputs), nodes), "step": step}


def seconds(call: Callable[[], object], n: int) -> list[float]:
    """Return the sorted wall times of n calls."""
    call()
    times = []
    for _ in range(n):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return sorted(times)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.busy", description=__doc__)
    add_only(parser)
    parser.add_argument("--calls", type=int, default=200, help="calls of each kind")
    options = parser.parse_args()
    cases = picked(parser, options.only, CASES)
    print(f"{'n_in→n_out, depth, batch':24} {'':8}  median ms     p95 ms  serial ms      ratio")
    for case in cases:
        for name, call in calls(case).items():
            call()  # compile before the core is taken
            with busy_core():
                times = seconds(call, options.calls)
                jit.forced = "serial"
                serial = statistics.median(seconds(call, options.calls))
                jit.forced = None
            median, p95 = statistics.median(times), times[int(0.95 * len(times))]
            print(
                f"{case.name:24} {name:8} {1e3 * median:10.3f} {1e3 * p95:10.3f} "
                f"{1e3 * serial:10.3f} {median / serial:10.2f}"
            )


if __name__ == "__main__":
    main()
