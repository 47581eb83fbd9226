"""Training steps: fffnb, trees in PyTorch, dense layers; gradient of x and SGD included."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

import fffnb

from ...peers.torch_layers import FORMS, Dense, Tree, tf32
from ...suite.problems import sgd
from ..cases import FAST_FFN, ULTRAFASTBERT, Case
from ..table import Result, Table, ratio
from .device import GPU, Graph, cache_bytes, event_seconds
from .forward import dense_fits
from .layer import PEER_BOUND, Layer, assert_near, attempt, draw, leaves, truth

#: Two depths, all else equal.
SHALLOW, DEEP = Case(256, 256, 10, 1024), Case(256, 256, 20, 1024)

CASES = (
    Case(784, 500, 8, 128),
    Case(768, 768, 12, 128),
    ULTRAFASTBERT,
    FAST_FFN,
    Case(256, 256, 18, 1024),
    Case(4096, 4096, 12, 8192),
    SHALLOW,
    DEEP,
)

PEERS = ("gather", "bmm", "FF TF32", "FF BF16")

TABLE = Table(
    columns=("forward", "backward", "fffnb", "fffnb graph", *PEERS),
    ours="fffnb",
    peers=("fffnb graph", *PEERS),
    notes={"bwd/fwd": lambda result: ratio(result, "backward", "forward")},
)


def measure(case: Case) -> Result:
    """Measure the training steps of one case."""
    layer = draw(case)
    remarks: list[str] = []
    return {
        **case._asdict(),
        "weights": "cold" if case.row_bytes(leaves(layer)) > cache_bytes() else "warm",
        "seconds": {
            **tree_times(layer),
            **dense_times(case, layer),
            **fffnb_times(layer, remarks),  # last, for it changes the nodes
        },
        "remarks": remarks,
    }


def fffnb_times(layer: Layer, remarks: list[str]) -> dict[str, float | None]:
    """Return the times of fffnb: both passes for row gradients, and the fused step."""
    nodes, inputs, grad_y = layer
    forward = functools.partial(fffnb.fff_forward, nodes=nodes, return_trace=True)
    traced = [(x, forward(x)[1]) for x in inputs[:8]]
    rule = sgd(1e-6)

    def backward(visit: tuple[Tensor, fffnb.Trace]) -> None:
        x, trace = visit
        fffnb.fff_backward(grad_y, x, nodes, trace, sparse=True)

    def step(x: Tensor) -> None:
        _, trace = forward(x)
        fffnb.fff_backward_update(grad_y, x, nodes, trace, rule)

    seconds: dict[str, float | None] = {
        "forward": event_seconds(forward, inputs),
        "backward": event_seconds(backward, traced),
        "fffnb": event_seconds(step, inputs),
    }
    graph = attempt(remarks, "fffnb graph", Exception, lambda: Graph(step, inputs))
    if graph:
        before = nodes.clone()
        graph.replay()
        assert not torch.equal(nodes, before), "the graph of training steps trains nothing"
        seconds["fffnb graph"] = graph.seconds()
    return seconds


def tree_times(layer: Layer) -> dict[str, float | None]:
    """Return the times of trees in PyTorch, checked together with fffnb."""
    nodes, inputs, grad_y = layer
    seconds: dict[str, float | None] = {}
    for form in FORMS:
        tree = Tree(form, nodes, inputs.shape[2])
        check_gradients(layer, tree)
        seconds[form] = event_seconds(functools.partial(tree.step, grad_y=grad_y), inputs)
    return seconds


def check_gradients(layer: Layer, tree: Tree) -> None:
    """Raise AssertionError where gradients of fffnb and of a tree in PyTorch differ."""
    nodes, x = layer.nodes, layer.inputs[0]
    # Of samples with clear paths alone: the others may add to the gradients of other nodes.
    grad_y = layer.grad_y * truth(x, nodes).clear[:, None]
    grad_x, grad_nodes = tree.gradients(x, grad_y)
    _, trace = fffnb.fff_forward(x, nodes, return_trace=True)
    grads = fffnb.fff_backward(grad_y, x, nodes, trace, sparse=True)
    assert_near(grads.x, grad_x, PEER_BOUND)
    assert_near(dense_rows(grads.nodes, nodes), grad_nodes, PEER_BOUND)
    updated = nodes.clone()
    grad_x_fused = fffnb.fff_backward_update(grad_y, x, updated, trace, sgd(1.0))
    assert_near(grad_x_fused, grad_x, PEER_BOUND)
    assert_near(nodes - updated, grad_nodes, PEER_BOUND)


def dense_rows(gradient: Any, table: Tensor) -> Tensor:
    """Return a row gradient as a tensor like the table."""
    rows, values = (torch.as_tensor(part) for part in (gradient.rows, gradient.values))
    n, dense = int(gradient.count), torch.zeros_like(table)
    dense.view(-1, table.shape[-1])[rows[:n]] = values[:n]
    return dense


def dense_times(case: Case, layer: Layer) -> dict[str, float | None]:
    """Return the times of the faster feed-forward layer: TF32, and BF16 by autocast."""
    if not dense_fits(case):
        return {}

    def fastest(*, autocast: bool) -> float:
        layers = (
            Dense(case.n_in, width, case.n_out, autocast=autocast, device=GPU)
            for width in case.widths
        )
        steps = (functools.partial(dense.step, grad_y=layer.grad_y) for dense in layers)
        return min(event_seconds(step, layer.inputs) for step in steps)

    with tf32():
        return {"FF TF32": fastest(autocast=False), "FF BF16": fastest(autocast=True)}


def print_depths(results: list[Result]) -> None:
    """Print what twice the depth costs, where both depths were measured."""
    steps = {Case.of(result): result["seconds"]["fffnb"] for result in results}
    if SHALLOW in steps and DEEP in steps:
        ratio = steps[DEEP] / steps[SHALLOW]
        print(f"{SHALLOW.name} → {DEEP.name}: fffnb × {ratio:.2f}\n")
