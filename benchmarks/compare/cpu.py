"""fffnb on the CPU beside plain PyTorch trees and dense layers.

Time is the wall time of whole Python calls, medians, float32, on all threads that Numba, BLAS and
PyTorch use. Every layer is checked before it is timed: fffnb against the dense reference, the trees
of PyTorch (where it is installed) against fffnb, gradients included. Inputs rotate, so that x comes
from memory wherever a program's would (`draw_inputs`). Weights are cold where those that the
rotation visits exceed the last-level cache by far, else warm, as a program's would be. The roof is
the larger of the useful operations at the rate of sgemm and of the bytes of the visited rows, x and
y at the measured bandwidth; both are measured in this run.
"""

from __future__ import annotations

import functools
import gc
import importlib.util
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fffnb
from fffnb import nn

from ..machine import median_seconds, read_bandwidth, sgemm_rate
from ..peers import dense
from ..suite.problems import (
    CHECKED,
    assert_close,
    check,
    clear_samples,
    draw_nodes,
    top_levels,
)
from .cases import Case
from .table import Result, Table, ratio

Array = NDArray[Any]

#: Bytes over which the inputs of a case rotate, and the most inputs that do.
ROTATE_BYTES, ROTATE_MOST = 128_000_000, 256

#: A peer whose weights take more bytes than this is not timed.
PEER_BYTES = 1_100_000_000

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

FORWARD = Table(
    columns=("forward", "gather", "bmm", "nn.Linear", "linear", "ff"),
    ours="forward",
    peers=("gather", "bmm", "nn.Linear", "linear", "ff"),
    notes={
        "GFLOP/s": lambda result: float(result["roof"]["gflops"]),
        "compute": lambda result: 1e3 * result["roof"]["compute"],
        "memory": lambda result: 1e3 * result["roof"]["memory"],
        "of roof": lambda result: float(result["roof"]["fraction"]),
    },
)

STEP = Table(
    columns=("backward", "step", "gather_step", "bmm_step", "ff_step"),
    ours="step",
    peers=("gather_step", "bmm_step", "ff_step"),
    notes={"bwd/fwd": lambda result: ratio(result, "backward", "forward")},
)


def compare(cases: list[Case]) -> dict[str, Any]:
    """Print both tables; return all figures."""
    machine = {"sgemm": sgemm_rate(), "read": read_bandwidth(ROTATE_BYTES)}
    print(
        f"sgemm {machine['sgemm'] / 1e9:.0f} GFLOP/s, reading {machine['read'] / 1e9:.1f} GB/s; "
        "times in ms\n"
    )
    results = FORWARD.show(measure(case) for case in cases)
    STEP.show(results)
    return {"machine": machine, "cases": results}


def draw_inputs(case: Case) -> Array:
    """Return inputs (n, batch, n_in) that rotate."""
    n = max(2, min(ROTATE_MOST, ROTATE_BYTES // (4 * case.batch * case.n_in)))
    return np.random.default_rng(1).standard_normal((n, case.batch, case.n_in), np.float32)


def measure(case: Case) -> Result:
    """Measure one case."""
    nodes = draw_nodes(case.n_in, case.n_out, case.depth, np.random.default_rng(0))
    inputs = draw_inputs(case)
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
    leaves = fffnb.fff_forward(inputs[0], nodes, return_trace=True)[1].leaves
    visited = len(inputs) * case.row_bytes(leaves)  # at most: the top levels are shared
    return {
        **case._asdict(),
        "weights": "cold" if min(visited, nodes.nbytes) > ROTATE_BYTES else "warm",
        "seconds": times,
        "roof": roof(case, leaves, times["forward"] or 0.0),
    }


def dense_times(case: Case, turn: Iterator[Array], grad_y: Array) -> dict[str, float | None]:
    """Return the times of the dense layers, None where they would be too large."""
    times: dict[str, float | None] = {"linear": None, "ff": None, "ff_step": None}
    if 4 * case.n_in * case.n_out <= PEER_BYTES:
        times["linear"] = timed(dense.linear(case.n_in, case.n_out), turn)
    if 4 * max(case.widths) * (case.n_in + case.n_out) <= PEER_BYTES:
        shape = (case.n_in, case.n_out)
        times["ff"] = min(timed(dense.feed_forward(*shape, width), turn) for width in case.widths)
        times["ff_step"] = min(
            timed(functools.partial(dense.feed_forward_step(*shape, width), grad_y=grad_y), turn)
            for width in case.widths
        )
    return times


def torch_times(case: Case, inputs: Array, grad_y: Array, nodes: Array) -> dict[str, float | None]:
    """Return the times of the layers in PyTorch."""
    import torch

    from ..peers import torch_layers

    tensors, grad = torch.from_numpy(inputs), torch.from_numpy(grad_y)
    turn = itertools.cycle(tensors)
    times: dict[str, float | None] = {"nn.Linear": None}
    if 4 * case.n_in * case.n_out <= PEER_BYTES:
        layer = torch_layers.Dense(case.n_in, case.n_out)
        times["nn.Linear"] = timed(layer.forward, turn)
    top = top_levels(nodes, case.depth)
    for form in torch_layers.FORMS:
        tree = torch_layers.Tree(form, torch.from_numpy(top), case.n_in)
        check_tree(tree, tensors[0, :CHECKED], grad[:CHECKED], top)
        tree = torch_layers.Tree(form, torch.from_numpy(nodes), case.n_in)
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
    assert_close(grads.nodes, tree.gradient().numpy())


def timed(call: Callable[..., object], turn: Iterator[Any]) -> float:
    """Return the median time of a call on rotating inputs."""
    return median_seconds(lambda: call(next(turn)), least=3)


def roof(case: Case, leaves: Array, seconds: float) -> dict[str, float]:
    """Return both terms of the roof of a forward pass, and the fraction of it that was reached."""
    width = case.n_in + case.n_out
    operations = 2 * case.batch * case.depth * width
    compute = operations / sgemm_rate()
    # The bandwidth of what the rotation touches, not of the batch alone.
    n_bytes = case.row_bytes(leaves) + 4 * case.batch * width
    memory = n_bytes / read_bandwidth(ROTATE_BYTES)
    return {
        "compute": compute,
        "memory": memory,
        "fraction": max(compute, memory) / seconds,
        "gflops": operations / seconds / 1e9,
    }
