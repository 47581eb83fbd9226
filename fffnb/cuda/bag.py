"""The bag on the GPU: the kernels of `product` and `bag_choose`, and those of the tree.

As in `tree`. The depth of a layer is how many nodes a sample chooses in each bag. To the kernels
that sort and step rows, the choices are a batch of their own, each of which goes down a tree of one
level to the row that it names.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from .bag_choose import BLOCK, MOST_CHOSEN, choose, name_rows
from .launch import KEPT, Call
from .layer import Layer
from .order import sort_by_leaf
from .paths import CHOSEN
from .product import Side, Steps, multiply
from .simt import real_of, vector_length
from .tree import Operand, Visits
from .tree_backward import slopes
from .tree_mix import mix, slices

__all__ = ["MOST_CHOSEN", "backward", "best", "forward", "mixed", "score", "sloped", "visit"]

#: All bits that a leaf may have.
LEAVES = (1 << 31) - 1


@functools.lru_cache(KEPT)
def forward(
    layer: Layer, n_nodes: int, batch: int, n_trees: int, device: int
) -> Callable[..., None]:
    """Return run(...), a forward pass made ready.

    ``run(call, x, nodes, bias, scores, rows, y)`` writes y (batch, n_out), and scores and rows
    (batch, n_trees, k) of the chosen nodes.
    """
    scored = score(layer, n_nodes, n_trees, 1, batch, device)
    chosen = best(layer.kind, layer.depth, n_nodes, n_trees, batch * n_trees, device)
    mix_y = mixed(layer, batch, n_trees, device, forward=True)

    def run(call: Call, x: Operand, nodes: Operand, bias: Operand, *found: Operand) -> None:
        scores, rows, y = found
        chosen(call, scored(call, x, nodes, bias), scores, rows)
        mix_y(call, rows, scores, nodes, y)

    return run


@functools.lru_cache(KEPT)
def backward(
    layer: Layer, n_nodes: int, batch: int, n_trees: int, device: int
) -> Callable[..., Visits]:
    """Return run(...), the first half of a backward pass made ready.

    ``run(call, grad_y, x, nodes, scores, rows, grad_x)`` writes grad_x (batch, n_in) and returns
    the visits of which `steps` takes the rows.
    """
    n_choices = batch * n_trees * layer.depth
    visited = visit(n_choices, n_trees * n_nodes, device)
    slope = sloped(layer, batch, n_trees, device)
    mix_x = mixed(layer, batch, n_trees, device, forward=False)

    def run(call: Call, *arrays: Operand) -> Visits:
        grad_y, x, nodes, scores, rows, grad_x = arrays
        chosen, keys = visited(call, rows)
        found = slope(call, chosen, scores, grad_y, nodes)
        mix_x(call, chosen, found, nodes, grad_x)
        return Visits(keys, found, scores, x, grad_y)

    return run


def score(
    layer: Layer, n: int, n_groups: int, n_parts: int, batch: int, device: int
) -> Callable[..., Operand]:
    """Return run(call, x, table, bias), which returns scores (batch, n_groups, n).

    They are those of the rows of a table, of which each group has n; group g meets part
    g % n_parts of x alone.
    """
    real, shape = real_of(layer.kind), (batch, n, layer.n_in)
    side, scores = Side(layer.kind, True, layer.length), Side(real, True, vector_length(real, n))
    multiplied = multiply(layer.kind, side, side, scores, layer.has_bias, shape, n_groups, device)
    of_x = Steps(0, n_parts * layer.n_in, 1, layer.n_in, n_parts)
    of_table = Steps(0, layer.width, 1, n * layer.width, n_groups)
    of_scores = Steps(0, n_groups * n, 1, n, n_groups)

    def run(call: Call, x: Operand, table: Operand, bias: Operand) -> Operand:
        found = call.take(batch * n_groups * n, real)
        multiplied(call, x, table, bias, found, of_x, of_table, of_scores)
        return found

    return run


def best(
    kind: str, k: int, n: int, n_groups: int, n_choices: int, device: int
) -> Callable[..., None]:
    """Return run(call, scores, best, rows), which chooses k of n scores: see `choose`."""
    kernel, threads = choose(real_of(kind), k)
    start = kernel.bind(device, (n_choices, 1, 1), threads)

    def run(call: Call, *arrays: Operand) -> None:
        start(call.stream, *arrays, n, n_groups)

    return run


def mixed(
    layer: Layer, batch: int, n_trees: int, device: int, *, forward: bool
) -> Callable[..., None]:
    """Return run(call, rows, weights, table, out), which mixes the rows that samples chose.

    In a `forward` pass the weights are scores, and the rows those of y.
    """
    kernel, threads, samples = mix(layer._replace(rows=CHOSEN), 1, forward)
    n_slices, _ = slices(layer.n_out if forward else layer.n_in, layer.length, 1)
    start = kernel.bind(device, (-(-batch // samples), n_slices, 1), threads)

    def run(call: Call, rows: Operand, *arrays: Operand) -> None:
        start(call.stream, rows, rows, *arrays, batch, n_trees)  # needs no leaves

    return run


def sloped(layer: Layer, batch: int, n_trees: int, device: int) -> Callable[..., Operand]:
    """Return run(call, rows, scores, grad_y, table), which returns the slopes of the scores."""
    kernel, threads, samples = slopes(layer._replace(rows=CHOSEN), 1, False)
    start = kernel.bind(device, (-(-batch // samples), n_trees, 1), threads)

    def run(call: Call, *arrays: Operand) -> Operand:
        found, scores = call.take(batch * n_trees * layer.depth, real_of(layer.kind)), arrays[1]
        start(call.stream, *arrays, scores, found, batch, n_trees)  # adds nothing
        return found

    return run


def visit(n_choices: int, n_rows: int, device: int) -> Callable[..., tuple[Operand, Operand]]:
    """Return run(call, rows), which returns chosen rows, made safe, and their sorted keys."""
    named = name_rows(BLOCK).bind(device, (-(-n_choices // BLOCK), 1, 1), BLOCK)
    sort = sort_by_leaf(n_choices, 1, LEAVES, device)

    def run(call: Call, rows: Operand) -> tuple[Operand, Operand]:
        chosen, leaves = call.take(n_choices, "int64"), call.take(n_choices, "int32")
        named(call.stream, rows, chosen, leaves, n_choices, n_rows)
        return chosen, sort(call, leaves)

    return run
