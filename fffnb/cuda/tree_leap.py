"""The forward pass of the tree for small batches: several levels at once.

A batch that does not fill the device waits for memory, once on every level. A leap takes three
levels: seven teams score the seven nodes below the one that was reached, and all threads follow the
signs and share the columns of the three y rows. Where rows are wide, each team is a block, and the
blocks of a sample, a cluster, hand each other their scores through shared memory.

Arrays as in `tree_walk`.
"""

import functools

from numba import cuda, int64

from .launch import Kernel
from .layer import FEWEST, MOST
from .simt import REAL, dot_of, peek, row_movers, share_of
from .team import cluster_of, team_sum
from .tree_walk import activate

#: Levels of a leap, and the nodes below one node on them.
AHEAD = 3
CANDIDATES = 2**AHEAD - 1

#: Blocks of a cluster, where rows are wide: all devices that have clusters grant as many.
CLUSTER = 8

#: Widths of rows that one block takes, and a cluster: `walk` is as fast for those between.
NARROW, WIDE = range(1, 1025), range(8000, 16_385)

#: Numbers of a row that a thread holds, as far as teams may grow, and threads of a team at most.
SHARE, TEAM = 16, 2 * FEWEST


def blocks_of(n: int) -> int:
    """Return the blocks of a sample for rows of n numbers; 0 where `walk` is as fast."""
    return 1 if n in NARROW else CLUSTER if n in WIDE else 0


def teams_of(n: int, cluster: int) -> tuple[int, int]:
    """Return the threads of a team for rows of n numbers, and the teams of a block."""
    if cluster > 1:
        return MOST, 1
    return TEAM if n > SHARE * FEWEST else FEWEST, CANDIDATES


@functools.cache
def leap(layer, cluster, traces):
    """Return the kernel that writes y and, if it `traces`, scores and leaves.

    A sample has a cluster of so many blocks.
    """
    lanes, teams = teams_of(max(layer.n_in, layer.n_out), cluster)
    threads, ahead, size = lanes * teams, AHEAD, CANDIDATES + 1
    share_in = share_of(layer.n_in, layer.length, lanes)
    share_out = share_of(layer.n_out, layer.length, cluster * threads)
    fetch_x, _ = row_movers(layer.kind, layer.n_in, layer.length, lanes, share_in)
    fetch_y, put_y = row_movers(layer.kind, layer.n_out, layer.length, cluster * threads, share_out)
    dot = dot_of(layer.kind, share_in, layer.length)
    total, real = team_sum(layer.kind, lanes, teams), REAL[layer.kind]
    rank_of, send, meet = cluster_of(layer.kind, cluster)
    n_in, n_out, width, depth = layer.n_in, layer.n_out, layer.width, layer.depth
    n_nodes, activation, has_bias = layer.n_nodes, layer.activation, layer.has_bias
    n_leaps, n_found, n_outputs = -(-depth // ahead), 2 * size, ahead * share_out

    def body(x, nodes, bias, scores, leaves, y, n_trees):
        found = cuda.shared.array(n_found, real)
        inputs = cuda.local.array(share_in, real)
        row = cuda.local.array(share_in, real)
        passed = cuda.local.array(ahead, real)
        outputs = cuda.local.array(n_outputs, real)
        sums = cuda.local.array(share_out, real)
        thread, rank, sample = cuda.threadIdx.x, rank_of(), cuda.blockIdx.x // cluster
        lane, team, own = thread % lanes, rank * teams + thread // lanes, rank * threads + thread
        below = (1 if team >= 1 else 0) + (1 if team >= 3 else 0) + (1 if team >= 7 else 0)
        meet()  # before a block writes to another, that must be there
        fetch_x(x, sample * n_in, 0, lane, inputs, 0)
        for j in range(share_in):
            row[j] = real(0)
        for j in range(share_out):
            sums[j] = real(0)
        for t in range(n_trees):
            node, visit = int64(0), (sample * n_trees + t) * depth
            if below < ahead and below < depth:
                fetch_x(nodes, (t * n_nodes + team) * width, 0, lane, row, 0)
            for leap in range(n_leaps):
                level, turn = leap * ahead, (t * n_leaps + leap) % 2
                score = total(dot(inputs, 0, row, 0), turn)
                if lane < cluster:
                    send(found, turn * size + team, score, lane)
                meet()
                k = int64(0)
                for u in range(ahead):
                    if level + u < depth:
                        at = t * n_nodes + (node << u) + k
                        fetch_y(nodes, at * width + n_in, 0, own, outputs, u * share_out)
                        score = peek(found, turn * size + k)
                        if has_bias:
                            score += bias[at]
                        passed[u] = score
                        k = 2 * k + (2 if score > 0 else 1)
                node = (node << min(ahead, depth - level)) + k
                if below < ahead and level + ahead + below < depth:
                    start = (t * n_nodes + (node << below) + team) * width
                    fetch_x(nodes, start, 0, lane, row, 0)
                for u in range(ahead):
                    if level + u < depth:
                        if traces and own == 0:
                            scores[visit + level + u] = passed[u]
                        coef = real(activate(activation, passed[u]))
                        for j in range(share_out):
                            sums[j] = cuda.fma(coef, outputs[u * share_out + j], sums[j])
            if traces and own == 0:
                leaves[sample * n_trees + t] = node - n_nodes
        put_y(y, sample * n_out, 0, own, sums, 0)

    signature = ("stored", "stored", "real", "real", "int32", "stored", "int")
    return Kernel(body, layer.kind, signature, cluster), threads
