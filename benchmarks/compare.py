"""``python -m benchmarks.compare cpu``: fffnb beside dense layers of the same width.

Time is the wall time of whole Python calls, medians, float32, on all threads that Numba and BLAS
use. Every layer is checked against the dense reference before it is timed. Inputs rotate, so that
x comes from memory wherever a program's would (`Case.inputs`); the weights of a case are as warm as
its own use leaves them. The roof is the larger of the useful operations at the rate of sgemm and of
the bytes of the visited rows, x and y at the measured bandwidth; both are measured in this run.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import fffnb
from fffnb import nn

from .machine import median_seconds, read_bandwidth, sgemm_rate
from .peers import dense
from .suite.problems import CHECKED, CHECKED_DEPTH, check, draw_nodes

Array = NDArray[Any]

#: Bytes over which the inputs of a case rotate.
ROTATE_BYTES = 128_000_000

#: A dense layer of more bytes than this is not timed.
DENSE_BYTES = 1_000_000_000


class Case(NamedTuple):
    """One layer and batch."""

    n_in: int
    n_out: int
    depth: int
    batch: int

    @property
    def name(self) -> str:
        """Return the case in words."""
        return f"{self.n_in}→{self.n_out}, {self.depth}, {self.batch}"

    def inputs(self) -> Array:
        """Return inputs (n, batch, n_in) that rotate."""
        n = max(2, min(64, ROTATE_BYTES // (4 * self.batch * self.n_in)))
        return np.random.default_rng(1).standard_normal((n, self.batch, self.n_in), np.float32)


CASES = (
    Case(128, 64, 7, 1),
    Case(2048, 1024, 11, 1),
    Case(768, 768, 12, 1),
    Case(768, 768, 12, 128),
    Case(768, 768, 12, 1024),
    Case(768, 768, 12, 4096),
    Case(768, 768, 12, 16384),
    Case(8000, 8000, 9, 100),
    Case(8192, 8192, 13, 128),
    Case(16384, 16384, 14, 1),
    Case(784, 500, 8, 128),
    Case(784, 500, 8, 4096),
    Case(256, 256, 16, 64),
)


def measure(case: Case) -> dict[str, Any]:
    """Measure one case."""
    nodes = draw_nodes(case.n_in, case.n_out, case.depth, np.random.default_rng(0))
    inputs = case.inputs()
    grad_y = np.random.default_rng(2).standard_normal((case.batch, case.n_out), np.float32)
    top = np.ascontiguousarray(nodes[:, : 2 ** min(case.depth, CHECKED_DEPTH) - 1])
    check(inputs[0, :CHECKED], top, grad_y[:CHECKED])
    optimizer = nn.SGD({"nodes": nodes}, lr=1e-6)
    turn = itertools.cycle(inputs)
    traced = itertools.cycle(
        [(x, fffnb.fff_forward(x, nodes, return_trace=True)[1]) for x in inputs[:8]]
    )

    def backward() -> None:
        x, trace = next(traced)
        fffnb.fff_backward(grad_y, x, nodes, trace, sparse=True)

    def step() -> None:
        x = next(turn)
        _, trace = fffnb.fff_forward(x, nodes, return_trace=True)
        fffnb.fff_backward_update(grad_y, x, nodes, trace, optimizer.rule("nodes"))

    times: dict[str, float | None] = {
        "forward": median_seconds(lambda: fffnb.fff_forward(next(turn), nodes)),
        "backward": median_seconds(backward),
        "step": median_seconds(step),
        **dense_times(case, turn, grad_y),
    }
    return {
        **case._asdict(),
        "seconds": times,
        "roof": roof(case, next(traced)[1], times["forward"] or 0.0),
    }


def dense_times(case: Case, turn: Iterator[Array], grad_y: Array) -> dict[str, float | None]:
    """Return the times of the dense layers, None where they would be too large."""
    times: dict[str, float | None] = {"linear": None, "ff": None, "ff_step": None}
    if 4 * case.n_in * case.n_out <= DENSE_BYTES:
        times["linear"] = timed(dense.linear(case.n_in, case.n_out), turn)
    widths = (2**case.depth - 1, 2**case.depth)  # the aligned one is often the faster
    if 4 * widths[1] * (case.n_in + case.n_out) <= DENSE_BYTES:
        shape = (case.n_in, case.n_out)
        times["ff"] = min(timed(dense.feed_forward(*shape, width), turn) for width in widths)
        times["ff_step"] = min(
            timed(functools.partial(dense.feed_forward_step(*shape, width), grad_y=grad_y), turn)
            for width in widths
        )
    return times


def timed(call: Callable[[Array], Array], turn: Iterator[Array]) -> float:
    """Return the median time of a call on rotating inputs."""
    return median_seconds(lambda: call(next(turn)), least=3)


def roof(case: Case, trace: fffnb.Trace, seconds: float) -> dict[str, float]:
    """Return both terms of the roof of a forward pass, and the fraction of it that was reached."""
    width = case.n_in + case.n_out
    n_rows = sum(
        len(np.unique(trace.leaves >> (case.depth - level))) for level in range(case.depth)
    )
    operations = 2 * case.batch * case.depth * width
    n_bytes = 4 * width * (n_rows + case.batch)
    compute = operations / sgemm_rate()
    # The bandwidth of what the rotation touches, not of the batch alone.
    memory = n_bytes / read_bandwidth(ROTATE_BYTES)
    return {
        "compute_seconds": compute,
        "memory_seconds": memory,
        "fraction": max(compute, memory) / seconds,
        "gflops": operations / seconds / 1e9,
    }


def lines(results: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the table in milliseconds."""
    yield (
        f"{'n_in→n_out, depth, batch':24} {'forward':>9} {'backward':>9} {'step':>9} {'linear':>9} "
        f"{'FF':>9} {'FF step':>9} {'GFLOP/s':>8} {'of roof':>8} {'FF / fff':>9}"
    )
    for result in results:
        seconds = result["seconds"]
        words = [
            "–" if value is None else f"{1e3 * value:.4g}"
            for value in (
                seconds[key] for key in ("forward", "backward", "step", "linear", "ff", "ff_step")
            )
        ]
        ratio = "–" if seconds["ff"] is None else f"{seconds['ff'] / seconds['forward']:.3g}×"
        yield (
            f"{Case(*(result[key] for key in Case._fields)).name:24} "
            + " ".join(f"{word:>9}" for word in words)
            + f" {result['roof']['gflops']:8.1f} {result['roof']['fraction']:8.2f} {ratio:>9}"
        )


def main() -> None:
    """Print the table, and write JSON where asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    parser.add_argument("device", choices=("cpu",))
    parser.add_argument("--only", default="", metavar="TEXT", help="cases whose name holds TEXT")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    options = parser.parse_args()
    results = [measure(case) for case in CASES if options.only in case.name]
    if not results:
        parser.error(f"--only must match one of {', '.join(case.name for case in CASES)}")
    print(
        f"sgemm {sgemm_rate() / 1e9:.0f} GFLOP/s, reading "
        f"{read_bandwidth(ROTATE_BYTES) / 1e9:.1f} GB/s; times in ms\n"
    )
    print("\n".join(lines(results)))
    if options.json:
        machine = {"sgemm": sgemm_rate(), "read": read_bandwidth(ROTATE_BYTES)}
        options.json.write_text(json.dumps({"machine": machine, "cases": results}, indent=2))


if __name__ == "__main__":
    main()
