"""The straight-through gradient on the GPU: what the paths that were not taken would have said.

As in `tree`; a team takes one sample along its path in each tree, from the last node up, and at
each decision down the path that begins at the other child.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from numba import cuda, int64

from .launch import KEPT, Call, Kernel
from .layer import Layer, team_of
from .simt import REAL, dot_of, row_movers, share_of
from .soft import cooled
from .soft_paths import gate_of
from .team import team_sum
from .tree import Operand, held
from .tree_walk import activate

__all__ = ["through"]


@functools.lru_cache(KEPT)
def through(layer: Layer, gate: int, batch: int, n_trees: int, device: int) -> Callable[..., None]:
    """Return run(...), made ready.

    ``run(call, grad_y, x, nodes, bias, scores, leaves, grad_scores, temperature)`` writes
    grad_scores (batch, n_trees, depth).
    """
    kernel, threads, teams = walk_beside(layer, gate, held(batch))
    start = kernel.bind(device, (-(-batch // teams), 1, 1), threads)

    def run(call: Call, *arrays: Operand) -> None:
        *given, temperature = arrays
        start(call.stream, *given, batch, n_trees, cooled(layer.kind, temperature))

    return run


@functools.cache
def walk_beside(layer, gate, share):
    """Return the kernel of `through`, whose threads hold `share` numbers of a row, or less."""
    lanes, teams = team_of(max(layer.n_in, layer.n_out), share)
    share_in = share_of(layer.n_in, layer.length, lanes)
    share_out = share_of(layer.n_out, layer.length, lanes)
    fetch_x, _ = row_movers(layer.kind, layer.n_in, layer.length, lanes, share_in)
    fetch_y, _ = row_movers(layer.kind, layer.n_out, layer.length, lanes, share_out)
    dot_x, dot_y = (dot_of(layer.kind, each, layer.length) for each in (share_in, share_out))
    total, real = team_sum(layer.kind, lanes, teams), REAL[layer.kind]
    n_in, n_out, width, depth = layer.n_in, layer.n_out, layer.width, layer.depth
    n_nodes, activation, has_bias = layer.n_nodes, layer.activation, layer.has_bias
    shares, slope = gate_of(layer.kind, gate)

    def body(grad_y, x, nodes, bias, scores, leaves, out, batch, n_trees, temperature):
        lane = cuda.threadIdx.x % lanes
        own = cuda.blockIdx.x * teams + cuda.threadIdx.x // lanes
        sample = min(own, batch - 1)  # threads beyond the batch take part in sums
        inputs = cuda.local.array(share_in, real)
        grads = cuda.local.array(share_out, real)
        keys = cuda.local.array(share_in, real)
        values = cuda.local.array(share_out, real)
        fetch_x(x, sample * n_in, 0, lane, inputs, 0)
        fetch_y(grad_y, sample * n_out, 0, lane, grads, 0)
        turn, cold = int64(0), real(temperature)
        for t in range(n_trees):
            visit = (sample * n_trees + t) * depth
            leaf = int64(leaves[sample * n_trees + t]) & n_nodes  # stays within the tree
            taken = real(0)  # what the path says below the node at hand
            for up in range(depth):
                level = depth - 1 - up
                node = (1 << level) - 1 + (leaf >> (depth - level))
                right = leaf >> up & 1
                score, rise = scores[visit + level], real(0)
                if up > 0:
                    other, beside = 2 * node + 2 - right, real(0)
                    for _ in range(up):
                        start = (t * n_nodes + other) * width
                        fetch_x(nodes, start, 0, lane, keys, 0)
                        fetch_y(nodes, start + n_in, 0, lane, values, 0)
                        found = total(dot_x(inputs, 0, keys, 0), turn)
                        if has_bias:
                            found += bias[t * n_nodes + other]
                        said = total(dot_y(grads, 0, values, 0), 1 - turn)
                        beside += real(activate(activation, found)) * said
                        other = 2 * other + (2 if found > 0 else 1)
                    z = score / cold
                    left_share, right_share = shares(z)
                    gain = taken - beside if right else beside - taken
                    rise = gain * slope(z, left_share, right_share) / cold
                fetch_y(nodes, (t * n_nodes + node) * width + n_in, 0, lane, values, 0)
                said = total(dot_y(grads, 0, values, 0), turn)
                turn = 1 - turn
                taken += real(activate(activation, score)) * said
                if own == sample and lane == 0:
                    out[visit + level] = rise

    signature = (*["real"] * 5, "int32", "real", "int", "int", "float")
    return Kernel(body, layer.kind, signature), lanes * teams, teams
