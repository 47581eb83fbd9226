"""Product keys on the GPU: the kernels of the bag, and those of `keys_choose`.

As in `bag`. A layer comes in two halves: `keys` has no outputs and half of the inputs, `vectors` no
inputs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from .bag import LEAVES, best, mixed, score, sloped, visit
from .bag_choose import BLOCK
from .keys_choose import choose_pairs, split_rows
from .launch import KEPT, Call
from .layer import Layer
from .order import sort_by_leaf
from .simt import real_of
from .tree import Operand, Visits

__all__ = ["backward", "forward"]


@functools.lru_cache(KEPT)
def forward(
    keys: Layer, vectors: Layer, n_keys: int, batch: int, n_trees: int, device: int
) -> Callable[..., None]:
    """Return run(...), a forward pass made ready.

    ``run(call, x, keys, y_vectors, scores, rows, y)`` writes y (batch, n_out), and scores and rows
    (batch, n_trees, k) of the chosen nodes.
    """
    k, kind, n_choices = keys.depth, real_of(keys.kind), 2 * batch * n_trees
    m = min(k, n_keys)
    scored = score(keys, n_keys, 2 * n_trees, 2, batch, device)
    best_keys = best(kind, m, n_keys, 1, n_choices, device)
    kernel, threads = choose_pairs(kind, m, k)
    best_pairs = kernel.bind(device, (batch * n_trees, 1, 1), threads)
    mix_y = mixed(vectors, batch, n_trees, device, forward=True)

    def run(call: Call, x: Operand, keys: Operand, y_vectors: Operand, *found: Operand) -> None:
        scores, rows, y = found
        halves, places = call.take(n_choices * m, kind), call.take(n_choices * m, "int64")
        best_keys(call, scored(call, x, keys, keys), halves, places)  # needs no bias
        best_pairs(call.stream, halves, places, scores, rows, n_keys)
        mix_y(call, rows, scores, y_vectors, y)

    return run


@functools.lru_cache(KEPT)
def backward(
    keys: Layer, vectors: Layer, n_keys: int, batch: int, n_trees: int, device: int
) -> Callable[..., tuple[Visits, Visits]]:
    """Return run(...), the first half of a backward pass made ready.

    ``run(call, grad_y, x, keys, y_vectors, scores, rows, grad_x)`` writes grad_x (batch, n_in) and
    returns the visits of the keys and of the y vectors, of which `steps` takes the rows. Both
    halves of a sample are samples that visit keys.
    """
    k, real = keys.depth, real_of(keys.kind)
    n_choices = batch * n_trees * k
    visited = visit(n_choices, n_keys**2, device)
    slope = sloped(vectors, batch, n_trees, device)
    split = split_rows(real, BLOCK).bind(device, (-(-n_choices // BLOCK), 1, 1), BLOCK)
    sort = sort_by_leaf(2 * n_choices, 1, LEAVES, device)
    mix_x = mixed(keys, 2 * batch, n_trees, device, forward=False)

    def run(call: Call, *arrays: Operand) -> tuple[Visits, Visits]:
        grad_y, x, keys, y_vectors, scores, rows, grad_x = arrays
        chosen, order = visited(call, rows)
        found = slope(call, chosen, scores, grad_y, y_vectors)
        halves, both = call.take(2 * n_choices, "int64"), call.take(2 * n_choices, real)
        leaves = call.take(2 * n_choices, "int32")
        split(call.stream, chosen, found, halves, leaves, both, n_choices, n_trees, k, n_keys)
        mix_x(call, halves, both, keys, grad_x)
        of_keys = Visits(sort(call, leaves), both, both, x, grad_y)
        return of_keys, Visits(order, found, scores, x, grad_y)

    return run
