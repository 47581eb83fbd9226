"""The gradient of x: x rows of the nodes mixed by slopes, in the order of the leaves.

Samples that end in neighbouring leaves share most of their rows. A team takes a few of them and a
slice of the columns; its threads keep their columns of all these gradients in registers and read a
row once for all that share it.

In the flat form all samples share the rows of x, one for each level, and the output is mixed by the
same kernel: y rows by act(score), in the order of the batch. So are the rows that samples of a bag
chose, which are told instead of a leaf: there the depth of a layer is how many.
"""

import functools

from numba import cuda, int64

from .launch import Kernel
from .layer import BLOCK, FEWEST
from .order import SAMPLE
from .paths import CHOSEN, paths_of
from .simt import REAL, helper, peek, poke, row_movers
from .tree_walk import activate

#: Numbers of a row that a thread holds, at most.
SHARE = 24

#: Levels whose rows a team of one sample reads at once, so that they wait for memory together.
AHEAD = 4


def slices(n: int, length: int, group: int) -> tuple[int, int]:
    """Return the slices of n columns, and the numbers of each that one thread holds."""
    most = SHARE if group > 1 else length
    n_slices = -(-n // (FEWEST * most))
    return n_slices, -(-n // (FEWEST * length * n_slices)) * length


@functools.cache
def mix(layer, group, forward=False):
    """Return the kernel that writes grad_x (batch, n_in); a team takes `group` samples.

    Rows that are chosen are those that `keys` (batch, n_trees, depth) tells. The `forward` kernel
    writes y (batch, n_out) from y rows, and takes scores instead of slopes.
    """
    n, offset = (layer.n_out, layer.n_in) if forward else (layer.n_in, 0)
    real, length, width, depth = REAL[layer.kind], layer.length, layer.width, layer.depth
    last_leaf, mask, lanes, teams = layer.n_nodes, SAMPLE, FEWEST, BLOCK // FEWEST
    activation, (shift_of, row_of) = layer.activation, paths_of(layer.rows)
    chosen = layer.rows == CHOSEN
    in_order = not (forward or chosen)
    _, share = slices(n, length, group)
    fetch, put = row_movers(layer.kind, n, length, lanes, share)
    ahead = AHEAD if group == 1 else 1
    n_room = teams * group * depth
    n_visits, n_sums, n_rows = group * depth, group * share, ahead * share

    @helper
    def sample_of(keys, i):
        """Return the sample at a place of the order."""
        if in_order:
            return keys[i] & mask
        return i

    @helper
    def met(keys, leaves, visit, t, level):
        """Return the row of a sample on a level of a tree."""
        if chosen:
            return keys[visit * depth + level]
        leaf = leaves[visit] & last_leaf  # what is no leaf stays within the tree
        return row_of(t, depth, level, leaf >> shift_of(depth, level))

    def body(keys, leaves, slopes, nodes, out, batch, n_trees):
        weights = cuda.shared.array(n_room, real)
        starts = cuda.shared.array(n_room, int64)
        rows = cuda.local.array(n_rows, real)
        sums = cuda.local.array(n_sums, real)
        lane, team = cuda.threadIdx.x % lanes, cuda.threadIdx.x // lanes
        first = (cuda.blockIdx.x * teams + team) * group
        base, column = team * n_visits, cuda.blockIdx.y * lanes * share
        for j in range(n_sums):
            sums[j] = real(0)
        for t in range(n_trees):
            cuda.syncthreads()
            for i in range(lane, n_visits, lanes):
                level, g = i // group, i % group
                visit = sample_of(keys, min(first + g, batch - 1)) * n_trees + t
                weight = slopes[visit * depth + level]
                if forward:
                    weight = real(activate(activation, weight))
                poke(starts, base + i, met(keys, leaves, visit, t, level) * width + offset)
                poke(weights, base + i, weight)
            cuda.syncthreads()
            for level in range(0, depth, ahead):
                last = int64(-1)
                for g in range(group):
                    for u in range(ahead):
                        if level + u < depth:
                            start = peek(starts, base + (level + u) * group + g)
                            if start != last or ahead > 1:
                                fetch(nodes, start, column, lane, rows, u * share)
                                last = start
                    for u in range(ahead):
                        if level + u < depth:
                            weight = peek(weights, base + (level + u) * group + g)
                            for j in range(share):
                                sums[g * share + j] += weight * rows[u * share + j]
        for g in range(group):
            if first + g < batch:
                put(out, sample_of(keys, first + g) * n, column, lane, sums, g * share)

    signature = ("int64", "int32", "real", "stored", "stored", "int", "int")
    return Kernel(body, layer.kind, signature), BLOCK, teams * group
