"""The leaf form on the GPU: the kernels of `leaf_group` and `leaf_sum` put to work."""

from __future__ import annotations

import functools
from collections.abc import Callable

from . import leaf_group, leaf_sum
from .launch import KEPT, Call
from .layer import FEWEST
from .leaf_group import Leaves, descend, meet, mix
from .leaf_sum import find_leaves, gradient_columns, name_neurons, sum_leaves
from .order import sort_by_leaf
from .steps import list_visits
from .tree import Operand, by_batch, held
from .tree_mix import slices

__all__ = ["Leaves", "backward", "forward", "n_places"]

#: Samples that a team takes: few where the batch is small and would not fill the device.
GROUPS = {1: 1, 1024: 2, 4096: 4}

#: Threads of a block that looks for leaves, or lists their neurons.
BLOCK = 64


@functools.lru_cache(KEPT)
def forward(layer: Leaves, batch: int, n_trees: int, device: int) -> Callable[..., None]:
    """Return run(...), a forward pass made ready.

    ``run(call, x, routers, table, router_bias, hidden, outputs, scores, leaves, y)`` writes scores
    (batch, n_trees, width), leaves (batch, n_trees) and y (batch, n_out).
    """
    kernel, threads, samples = descend(layer, held(batch))
    down = kernel.bind(device, (-(-batch // samples), 1, 1), threads)
    sort = sort_by_leaf(batch, n_trees, layer.n_leaves - 1, device)
    met, mixed = _passes(layer, batch, n_trees, device, False)

    def run(call: Call, *arrays: Operand) -> None:
        x, routers, table, router_bias, hidden, outputs, scores, leaves, y = arrays
        down(call.stream, x, routers, router_bias, leaves, batch, n_trees)
        keys, coefs = sort(call, leaves), call.take(batch * n_trees * layer.width, layer.kind)
        met(call.stream, keys, x, table, hidden, scores, coefs, coefs, batch, n_trees)
        mixed(call.stream, keys, leaves, coefs, table, outputs, y, batch, n_trees)

    return run


def n_places(n_leaves: int, batch: int, n_trees: int) -> int:
    """Return how many leaves a batch may visit."""
    return n_trees * min(n_leaves, batch)


@functools.lru_cache(KEPT)
def backward(
    layer: Leaves, batch: int, n_trees: int, device: int, sparse: bool
) -> Callable[..., None]:
    """Return run(...), a backward pass made ready.

    ``run(call, grad_y, x, table, scores, leaves, grad_x, neurons, hidden, outputs, *lists)`` writes
    the gradients of x, of the table and of the biases of neurons and outputs; if it is `sparse`,
    those of the visited leaves, and `lists`: see `list_leaves`.
    """
    sort = sort_by_leaf(batch, n_trees, layer.n_leaves - 1, device)
    met, mixed = _passes(layer, batch, n_trees, device, True)
    n_starts, kernel = layer.n_leaves + 1, find_leaves(layer.n_leaves, BLOCK)
    find = kernel.bind(device, (-(-n_starts // BLOCK), n_trees, 1), BLOCK)
    kernel, threads = sum_leaves(layer, sparse)
    blocks = -(-gradient_columns(layer) // (FEWEST * layer.length))
    _, n_tiles = layer.tiles(leaf_sum.SUMMED)
    n_owners = n_places(layer.n_leaves, batch, n_trees) if sparse else n_trees * layer.n_leaves
    summed = kernel.bind(device, (n_owners, n_tiles, blocks), threads)
    listing = list_leaves(layer, batch, n_trees, device) if sparse else None

    def run(call: Call, *arrays: Operand) -> None:
        grad_y, x, table, scores, leaves, grad_x, neurons, hidden, outputs, *lists = arrays
        keys, n_visits = sort(call, leaves), batch * n_trees * layer.width
        coefs, slopes = call.take(n_visits, layer.kind), call.take(n_visits, layer.kind)
        met(call.stream, keys, grad_y, table, table, scores, coefs, slopes, batch, n_trees)
        mixed(call.stream, keys, leaves, slopes, table, table, grad_x, batch, n_trees)
        starts = call.take(n_trees * n_starts, "int64")
        find(call.stream, keys, starts, batch)
        listed, grads = starts, (neurons, hidden, outputs)
        if listing is not None:
            listing(call, keys, *lists)
            listed = lists[0]
        summed(call.stream, keys, starts, listed, x, grad_y, coefs, slopes, *grads, n_trees)

    return run


def list_leaves(layer: Leaves, batch: int, n_trees: int, device: int) -> Callable[..., None]:
    """Return run(call, keys, leaves, count, neurons, n_neurons), which lists what is visited."""
    n, width = n_places(layer.n_leaves, batch, n_trees), layer.width
    listed = list_visits(layer.n_leaves, 1, batch, n_trees, n, device)
    naming = name_neurons(width, BLOCK).bind(device, (-(-n * width // BLOCK), 1, 1), BLOCK)

    def run(call: Call, keys: Operand, *lists: Operand) -> None:
        leaves, count, neurons, n_neurons = lists
        listed(call, keys, leaves, count)
        naming(call.stream, leaves, count, neurons, n_neurons, n)

    return run


def _passes(
    layer: Leaves, batch: int, n_trees: int, device: int, back: bool
) -> tuple[Callable[..., None], Callable[..., None]]:
    """Return the kernels `meet` and `mix` of one way, made ready."""
    group = by_batch(GROUPS, batch)
    kernel, threads, samples = meet(layer, group, back)
    _, n_tiles = layer.tiles(leaf_group.SCORED)
    met = kernel.bind(device, (-(-batch // samples), n_trees, n_tiles), threads)
    kernel, threads, samples = mix(layer, group, back)
    n_slices, _ = slices(layer.n_in if back else layer.n_out, layer.length, group)
    return met, kernel.bind(device, (-(-batch // samples), n_slices, 1), threads)
