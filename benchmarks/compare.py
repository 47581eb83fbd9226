"""``python -m benchmarks.compare cpu``: fffnb beside plain PyTorch trees and dense layers.

Time is the wall time of whole Python calls, medians, float32, on all threads that Numba, BLAS and
PyTorch use. Every layer is checked before it is timed: fffnb against the dense reference, the trees
of PyTorch (where it is installed) against fffnb, gradients included. Inputs rotate, so that x comes
from memory wherever a program's would (`Case.inputs`). Weights are cold where those that the
rotation visits exceed the last-level cache by far, else warm, as a program's would be. The roof is
the larger of the useful operations at the rate of sgemm and of the bytes of the visited rows, x and
y at the measured bandwidth; both are measured in this run.
"""

from __future__ import annotations

import argparse
import functools
import gc
import importlib.util
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
from .suite.problems import (
    CHECKED,
    assert_close,
    check,
    clear_samples,
    draw_nodes,
    top_levels,
)

Array = NDArray[Any]

#: Bytes over which the inputs of a case rotate, and the most inputs that do.
ROTATE_BYTES, ROTATE_MOST = 128_000_000, 256

#: A peer whose weights take more bytes than this is not timed.
PEER_BYTES = 1_100_000_000


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
        n = max(2, min(ROTATE_MOST, ROTATE_BYTES // (4 * self.batch * self.n_in)))
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
    check(inputs[0, :CHECKED], top_levels(nodes, case.depth), grad_y[:CHECKED])
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
    if importlib.util.find_spec("torch"):
        times |= torch_times(case, inputs, grad_y, nodes)
    trace = fffnb.fff_forward(inputs[0], nodes, return_trace=True)[1]
    visited = len(inputs) * row_bytes(case, trace)  # at most: the top levels are shared
    return {
        **case._asdict(),
        "weights": "cold" if min(visited, nodes.nbytes) > ROTATE_BYTES else "warm",
        "seconds": times,
        "roof": roof(case, trace, times["forward"] or 0.0),
    }


def dense_times(case: Case, turn: Iterator[Array], grad_y: Array) -> dict[str, float | None]:
    """Return the times of the dense layers, None where they would be too large."""
    times: dict[str, float | None] = {"linear": None, "ff": None, "ff_step": None}
    if 4 * case.n_in * case.n_out <= PEER_BYTES:
        times["linear"] = timed(dense.linear(case.n_in, case.n_out), turn)
    widths = (2**case.depth - 1, 2**case.depth)  # the aligned one is often the faster
    if 4 * widths[1] * (case.n_in + case.n_out) <= PEER_BYTES:
        shape = (case.n_in, case.n_out)
        times["ff"] = min(timed(dense.feed_forward(*shape, width), turn) for width in widths)
        times["ff_step"] = min(
            timed(functools.partial(dense.feed_forward_step(*shape, width), grad_y=grad_y), turn)
            for width in widths
        )
    return times


def torch_times(case: Case, inputs: Array, grad_y: Array, nodes: Array) -> dict[str, float | None]:
    """Return the times of the layers in PyTorch."""
    import torch

    from .peers import torch_layers

    tensors, grad = torch.from_numpy(inputs), torch.from_numpy(grad_y)
    turn = itertools.cycle(tensors)
    times: dict[str, float | None] = {"nn.Linear": None}
    if 4 * case.n_in * case.n_out <= PEER_BYTES:
        layer = torch_layers.Linear(case.n_in, case.n_out)
        times["nn.Linear"] = timed(layer.forward, turn)
    top = top_levels(nodes, case.depth)
    for form in ("gather", "bmm"):
        tree = torch_layers.Tree(form, top, case.n_in)
        check_tree(tree, tensors[0, :CHECKED], grad[:CHECKED], top)
        tree = torch_layers.Tree(form, nodes, case.n_in)
        times[form] = timed(tree.forward, turn)
        times[f"{form}_step"] = timed(functools.partial(tree.step, grad_y=grad), turn)
        del tree
        gc.collect()  # gigabytes
    return times


def check_tree(tree: Any, x: Any, grad_y: Any, nodes: Array) -> None:
    """Raise AssertionError where a tree of PyTorch and fffnb differ on samples with clear paths."""
    clear = clear_samples(x.numpy(), nodes)
    x, grad_y = x[clear], grad_y[clear]
    y, trace = fffnb.fff_forward(x.numpy(), nodes, return_trace=True)
    grads = fffnb.fff_backward(grad_y.numpy(), x.numpy(), nodes, trace)
    assert_close(tree.forward(x).numpy(), y)
    assert_close(tree.backward(x, grad_y).numpy(), grads.x)
    assert_close(grads.nodes, tree.gradient())


def timed(call: Callable[..., object], turn: Iterator[Any]) -> float:
    """Return the median time of a call on rotating inputs."""
    return median_seconds(lambda: call(next(turn)), least=3)


def row_bytes(case: Case, trace: fffnb.Trace) -> int:
    """Return the bytes of the rows that a batch visits."""
    n_rows = sum(
        len(np.unique(trace.leaves >> (case.depth - level))) for level in range(case.depth)
    )
    return 4 * (case.n_in + case.n_out) * n_rows


def roof(case: Case, trace: fffnb.Trace, seconds: float) -> dict[str, float]:
    """Return both terms of the roof of a forward pass, and the fraction of it that was reached."""
    width = case.n_in + case.n_out
    operations = 2 * case.batch * case.depth * width
    compute = operations / sgemm_rate()
    # The bandwidth of what the rotation touches, not of the batch alone.
    memory = (row_bytes(case, trace) + 4 * case.batch * width) / read_bandwidth(ROTATE_BYTES)
    return {
        "compute": compute,
        "memory": memory,
        "fraction": max(compute, memory) / seconds,
        "gflops": operations / seconds / 1e9,
    }


#: Columns of both tables: the time of fffnb, then those of its peers.
FORWARD = ("forward", "gather", "bmm", "nn.Linear", "linear", "ff")
STEP = ("backward", "step", "gather_step", "bmm_step", "ff_step")


NOTES: dict[str, Callable[[dict[str, Any]], list[float]]] = {
    "forward": lambda result: [
        result["roof"]["gflops"],
        1e3 * result["roof"]["compute"],
        1e3 * result["roof"]["memory"],
        result["roof"]["fraction"],
    ],
    "step": lambda result: [result["seconds"]["backward"] / result["seconds"]["forward"]],
}


def lines(results: list[dict[str, Any]]) -> Iterator[str]:
    """Yield both tables: times in milliseconds, then how many times as long the peers take."""
    for columns, ours, notes in (
        (FORWARD, "forward", ("GFLOP/s", "compute", "memory", "of roof")),
        (STEP, "step", ("bwd/fwd",)),
    ):
        shown = [key for key in columns if any(key in r["seconds"] for r in results)]
        peers = shown[shown.index(ours) + 1 :]
        titles = (*shown, *notes, *(f"× {key.removesuffix('_step')}" for key in peers))
        yield f"{'n_in→n_out, depth, batch':24} weights" + "".join(f"{key:>12}" for key in titles)
        for result in results:
            seconds = result["seconds"]
            figures = [1e3 * seconds[key] if seconds[key] else None for key in shown]
            figures += NOTES[ours](result)
            figures += [seconds[key] / seconds[ours] if seconds[key] else None for key in peers]
            name = Case(*(result[key] for key in Case._fields)).name
            yield f"{name:24} {result['weights']:7}" + "".join(
                f"{'–' if value is None else format(value, '.4g'):>12}" for value in figures
            )
        yield ""


def add_only(parser: argparse.ArgumentParser) -> None:
    """Let the user pick cases."""
    parser.add_argument("--only", default="", metavar="TEXT", help="cases whose name holds TEXT")


def picked(parser: argparse.ArgumentParser, text: str) -> list[Case]:
    """Return the cases whose name holds `text`, or end with a message where there is none."""
    cases = [case for case in CASES if text in case.name]
    if not cases:
        parser.error(f"--only must match one of {', '.join(case.name for case in CASES)}")
    return cases


def main() -> None:
    """Print the table, and write JSON where asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    parser.add_argument("device", choices=("cpu",))
    add_only(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    options = parser.parse_args()
    if options.json and not options.json.parent.is_dir():
        parser.error(f"--json must name a file in a folder that exists, got {options.json}")
    results = [measure(case) for case in picked(parser, options.only)]
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
