"""Forward passes: fffnb, trees in PyTorch and Triton, dense layers."""

from __future__ import annotations

import torch
from torch import Tensor

import fffnb

from ...peers import installed
from ...peers.torch_layers import FORMS, Dense, Tree, tf32
from ..cases import PUBLISHED, Case
from ..table import Result, Table, ratio
from .device import GPU, Call, Graph, cache_bytes, copy_bandwidth, event_seconds
from .layer import BOUNDS, PEER_BOUND, Layer, attempt, draw, leaves, truth

CASES = (
    *PUBLISHED,
    Case(2048, 2048, 11, 1),
    Case(768, 768, 12, 1),
    Case(768, 768, 12, 128),
    Case(767, 767, 12, 16384),
    Case(784, 500, 8, 128),
    Case(4096, 4096, 12, 8192),
)

PEERS = (
    "FFF",
    "FFF graph",
    "FFF compile",
    "Triton",
    "Linear fp32",
    "Linear TF32",
    "Linear BF16",
    "FF TF32",
    "FF BF16",
)

TABLE = Table(
    columns=("fffnb", "fffnb graph", "fffnb bf16", *PEERS, "floor"),
    ours="fffnb",
    peers=("fffnb graph", "fffnb bf16", *PEERS, "floor"),
    notes={"FF/fffnb, BF16": lambda result: ratio(result, "FF BF16", "fffnb bf16")},
)

#: Dense layers whose weights and hidden values take more bytes than this are not timed.
PEER_BYTES = 3_000_000_000


def measure(case: Case, *, compiled: bool) -> Result:
    """Measure the forward passes of one case; `compiled` says whether by torch.compile too."""
    layer = draw(case)
    remarks: list[str] = []
    seconds = {
        **fffnb_times(layer, remarks),
        **tree_times(layer, compiled=compiled),
        **dense_times(case, layer.inputs),
    }
    ends = leaves(layer)
    n_bytes = case.row_bytes(ends[0]) + 4 * case.batch * (case.n_in + case.n_out)
    return {
        **case._asdict(),
        "weights": "cold" if case.row_bytes(ends) > cache_bytes() else "warm",
        "seconds": seconds | {"floor": n_bytes / copy_bandwidth()},
        "remarks": remarks,
    }


def fffnb_times(layer: Layer, remarks: list[str]) -> dict[str, float | None]:
    """Return the times of fffnb, with float32 and with bfloat16 storage."""
    call, out = checked_call(layer.nodes, layer.inputs)
    seconds: dict[str, float | None] = {"fffnb": event_seconds(call, layer.inputs)}
    graph = attempt(remarks, "fffnb graph", Exception, lambda: Graph(call, layer.inputs))
    if graph:
        out.fill_(torch.nan)
        graph.replay()
        truth(graph.inputs[-1], layer.nodes).check(out, BOUNDS[out.dtype])
        seconds["fffnb graph"] = graph.seconds()

    def bfloat16_seconds() -> float:
        inputs = layer.inputs.bfloat16()
        return event_seconds(checked_call(layer.nodes.bfloat16(), inputs)[0], inputs)

    seconds["fffnb bf16"] = attempt(remarks, "fffnb bf16", TypeError, bfloat16_seconds)
    return seconds


def checked_call(nodes: Tensor, inputs: Tensor) -> tuple[Call, Tensor]:
    """Return a call of fffnb and where it writes, checked on the first of the inputs."""
    out = inputs.new_empty(inputs.shape[1], nodes.shape[2] - inputs.shape[2])

    def call(x: Tensor) -> None:
        fffnb.fff_forward(x, nodes, out=out)

    call(inputs[0])
    truth(inputs[0], nodes).check(out, BOUNDS[out.dtype])
    return call, out


def tree_times(layer: Layer, *, compiled: bool) -> dict[str, float | None]:
    """Return the times of trees in PyTorch, the better of both forms, and in Triton."""
    nodes, inputs, _ = layer
    right = truth(inputs[0], nodes)
    eager: dict[str, float] = {}
    graph: dict[str, float] = {}
    for form in FORMS:
        tree = Tree(form, nodes, inputs.shape[2])
        right.check(tree.forward(inputs[0]), PEER_BOUND)
        eager[form] = event_seconds(tree.forward, inputs)
        graph[form] = Graph(tree.forward, inputs).seconds()
    seconds: dict[str, float | None] = {
        "FFF": min(eager.values()),
        "FFF graph": min(graph.values()),
    }
    if compiled:
        tree = Tree(min(eager, key=eager.__getitem__), nodes, inputs.shape[2])
        torch.compiler.reset()  # it gives up after a few shapes
        tree.function = torch.compile(tree.function)
        right.check(tree.forward(inputs[0]), PEER_BOUND)
        seconds["FFF compile"] = event_seconds(tree.forward, inputs)
    if installed("triton"):
        from ...peers import triton_walk

        right.check(triton_walk.forward(inputs[0], nodes), PEER_BOUND)
        seconds["Triton"] = event_seconds(lambda x: triton_walk.forward(x, nodes), inputs)
    return seconds


def dense_times(case: Case, inputs: Tensor) -> dict[str, float | None]:
    """Return the times of a linear layer and of the faster feed-forward layer."""
    shapes: dict[str, list[tuple[int, ...]]] = {"Linear": [(case.n_in, case.n_out)], "FF": []}
    if dense_fits(case):
        shapes["FF"] += [(case.n_in, width, case.n_out) for width in case.widths]

    def fastest(name: str, inputs: Tensor) -> float | None:
        where = {"device": GPU, "dtype": inputs.dtype}
        layers = (Dense(*shape, **where) for shape in shapes[name])
        return min((event_seconds(layer.forward, inputs) for layer in layers), default=None)

    seconds = {"Linear fp32": fastest("Linear", inputs)}
    with tf32():
        seconds |= {f"{name} TF32": fastest(name, inputs) for name in shapes}
    rounded = inputs.bfloat16()
    return seconds | {f"{name} BF16": fastest(name, rounded) for name in shapes}


def dense_fits(case: Case) -> bool:
    """Return whether a feed-forward layer in the tree's place is small enough to be timed."""
    return 4 * max(case.widths) * (case.n_in + case.n_out + case.batch) <= PEER_BYTES
