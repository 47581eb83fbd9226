"""A layer on the CPU, its inputs, and the times of fffnb."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import fffnb
from fffnb import nn

from ...machine import median_seconds, read_bandwidth, sgemm_rate
from ...suite.problems import CHECKED, check, draw_nodes, top_levels
from ..cases import Case
from ..table import Result

Array = NDArray[Any]

#: Bytes over which the inputs of a case rotate, and the most inputs that do.
ROTATE_BYTES, ROTATE_MOST = 128_000_000, 256


class Layer(NamedTuple):
    """Nodes (1, n_nodes, n_in + n_out), inputs (n, batch, n_in) that rotate, and grad_y."""

    nodes: Array
    inputs: Array
    grad_y: Array


def draw(case: Case) -> Layer:
    """Return a layer whose paths spread over the tree, checked against the reference."""
    nodes = draw_nodes(case.n_in, case.n_out, case.depth, np.random.default_rng(0))
    inputs = draw_inputs(case)
    grad_y = np.random.default_rng(2).standard_normal((case.batch, case.n_out), np.float32)
    check(inputs[0, :CHECKED], top_levels(nodes, case.depth), grad_y[:CHECKED])
    return Layer(nodes, inputs, grad_y)


def draw_inputs(case: Case) -> Array:
    """Return inputs (n, batch, n_in) that rotate."""
    n = max(2, min(ROTATE_MOST, ROTATE_BYTES // (4 * case.batch * case.n_in)))
    return np.random.default_rng(1).standard_normal((n, case.batch, case.n_in), np.float32)


def measure(case: Case, layer: Layer) -> Result:
    """Measure fffnb: forward, backward for row gradients, and the fused training step."""
    nodes, inputs, grad_y = layer
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

    forward = median_seconds(lambda: fffnb.fff_forward(next(turn), nodes))
    seconds = {
        "forward": forward,
        "backward": median_seconds(backward),
        "step": median_seconds(step),
    }
    leaves = fffnb.fff_forward(inputs[0], nodes, return_trace=True)[1].leaves
    visited = len(inputs) * case.row_bytes(leaves)  # at most: the top levels are shared
    return {
        **case._asdict(),
        "weights": "cold" if min(visited, nodes.nbytes) > ROTATE_BYTES else "warm",
        "seconds": seconds,
        "roof": roof(case, leaves, forward),
    }


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
