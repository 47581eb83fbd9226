"""The slopes of the scores: the first half of the backward pass of the tree.

The slope of a node that a sample visits is the gradient of its score: the y row of the node times
the gradient of y, times the derivative of the activation. In the order of the leaves neighbours
share most of their rows; a team takes a few of them and reads a row once for all that share it.

Shapes as in `tree_walk`; `keys` as in `order`. A sample of a bag visits the rows that it chose, as
many as the depth of a layer says: `keys` (batch, n_trees, depth) tells them.
"""

import functools

from numba import cuda, int64

from .launch import Kernel
from .layer import Layer, team_of
from .order import SAMPLE
from .paths import CHOSEN, paths_of
from .simt import REAL, dot_of, helper, row_movers, share_of
from .team import team_sum
from .tree_walk import derivative

#: Numbers of gradients of y that a thread holds, at most.
HELD = 96


def fitting_group(layer: Layer, group: int) -> int:
    """Return the samples of a team, less where its threads could not hold so many numbers."""
    lanes, _ = team_of(layer.n_out)
    while group > 1 and group * share_of(layer.n_out, layer.length, lanes) > HELD:
        group //= 2
    return group


@functools.cache
def slopes(layer, group, adds):
    """Return the kernel that writes the gradient of each score; a team takes `group` samples.

    If it `adds`, `added`, shaped like the scores, is part of the gradient.
    """
    lanes, teams = team_of(layer.n_out)
    share = share_of(layer.n_out, layer.length, lanes)
    fetch, _ = row_movers(layer.kind, layer.n_out, layer.length, lanes, share)
    dot = dot_of(layer.kind, share, layer.length)
    total, real, mask = team_sum(layer.kind, lanes, teams), REAL[layer.kind], SAMPLE
    n_in, n_out, width, depth = layer.n_in, layer.n_out, layer.width, layer.depth
    activation, n_grads, (shift_of, row_of) = layer.activation, group * share, paths_of(layer.rows)
    chosen = layer.rows == CHOSEN

    @helper
    def met(keys, leaf, sample, n_trees, t, level):
        """Return the row of a sample on a level of a tree."""
        if chosen:
            return keys[(sample * n_trees + t) * depth + level]
        return row_of(t, depth, level, leaf >> shift_of(depth, level))

    def body(keys, scores, grad_y, nodes, added, out, batch, n_trees):
        t, lane = cuda.blockIdx.y, cuda.threadIdx.x % lanes
        first = (cuda.blockIdx.x * teams + cuda.threadIdx.x // lanes) * group
        grads = cuda.local.array(n_grads, real)
        row = cuda.local.array(share, real)
        samples = cuda.local.array(group, int64)
        leaves = cuda.local.array(group, int64)
        for g in range(group):
            place = min(first + g, batch - 1)
            samples[g], leaves[g] = place, 0
            if not chosen:
                key = keys[t * batch + place]
                samples[g], leaves[g] = key & mask, key >> 32
            fetch(grad_y, samples[g] * n_out, 0, lane, grads, g * share)
        for level in range(depth):
            last = int64(-1)
            for g in range(group):
                at = met(keys, leaves[g], samples[g], n_trees, t, level)
                if at != last:
                    fetch(nodes, at * width + n_in, 0, lane, row, 0)
                    last = at
                slope = dot(grads, g * share, row, 0)
                slope = total(slope, (level * group + g) % 2)
                if lane == 0 and first + g < batch:
                    visit = (samples[g] * n_trees + t) * depth + level
                    slope *= derivative(activation, scores[visit])
                    if adds:
                        slope += added[visit]
                    out[visit] = slope

    signature = ("int64", "real", "stored", "stored", "real", "real", "int", "int")
    return Kernel(body, layer.kind, signature), lanes * teams, teams * group
