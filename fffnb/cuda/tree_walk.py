"""The forward pass of the tree: every team sends one sample down the trees.

Arrays are flat: x (batch, n_in), nodes (n_trees, n_nodes, n_in + n_out), bias (n_trees, n_nodes),
scores (batch, n_trees, depth), leaves (batch, n_trees), y (batch, n_out).

A large batch goes down a large tree in two stages. First all samples `scout` the top levels, whose
few rows stay in the caches, and are put in order by the subtree that they reach. Then those of a
subtree walk through it at about the same time, so that its rows come from memory once.
"""

import functools

from numba import cuda, int64

from .. import activations
from .launch import Kernel
from .layer import team_of
from .simt import REAL, dot_of, fetch_add, helper, row_movers, share_of
from .team import team_sum

activate = helper(activations.activate)
derivative = helper(activations.derivative)

#: Samples that one block of `place` puts in order.
PLACED = 256


@functools.cache
def walk(layer, share, top, traces):
    """Return the kernel that writes y and, if it `traces`, scores and leaves.

    A thread holds `share` numbers of a row, or less, as far as teams may grow.

    With `top` levels scouted, the samples go in `order`, and `leaves` says which subtree each has
    reached.
    """
    lanes, teams = team_of(max(layer.n_in, layer.n_out), share)
    share_in = share_of(layer.n_in, layer.length, lanes)
    share_out = share_of(layer.n_out, layer.length, lanes)
    fetch_x, _ = row_movers(layer.kind, layer.n_in, layer.length, lanes, share_in)
    fetch_y, put_y = row_movers(layer.kind, layer.n_out, layer.length, lanes, share_out)
    dot = dot_of(layer.kind, share_in, layer.length)
    total, real = team_sum(layer.kind, lanes, teams), REAL[layer.kind]
    n_in, n_out, width, depth = layer.n_in, layer.n_out, layer.width, layer.depth
    n_nodes, activation, has_bias = layer.n_nodes, layer.activation, layer.has_bias

    def body(x, nodes, bias, order, scores, leaves, y, batch, n_trees):
        lane = cuda.threadIdx.x % lanes
        own = cuda.blockIdx.x * teams + cuda.threadIdx.x // lanes
        place = min(own, batch - 1)  # threads beyond the batch take part in barriers
        sample = int64(order[place]) if top else place
        shown = traces and own == place and lane == 0
        inputs = cuda.local.array(share_in, real)
        row = cuda.local.array(share_in, real)
        outputs = cuda.local.array(share_out, real)
        sums = cuda.local.array(share_out, real)
        fetch_x(x, sample * n_in, 0, lane, inputs, 0)
        for j in range(share_out):
            sums[j] = real(0)
        for t in range(n_trees):
            visit = (sample * n_trees + t) * depth
            node = int64(0)
            if top:
                reached = int64(leaves[sample])
                for level in range(top):
                    node = (1 << level) - 1 + (reached >> (top - level))
                    fetch_y(nodes, node * width + n_in, 0, lane, outputs, 0)
                    coef = real(activate(activation, scores[visit + level]))
                    for j in range(share_out):
                        sums[j] = cuda.fma(coef, outputs[j], sums[j])
                node = (1 << top) - 1 + reached
            start = (t * n_nodes + node) * width
            fetch_x(nodes, start, 0, lane, row, 0)
            for level in range(top, depth):
                fetch_y(nodes, start + n_in, 0, lane, outputs, 0)
                score = total(dot(inputs, 0, row, 0), (t * depth + level) % 2)
                if has_bias:
                    score += bias[t * n_nodes + node]
                if shown:
                    scores[visit + level] = score
                node = 2 * node + (2 if score > 0 else 1)
                start = (t * n_nodes + node) * width
                if level + 1 < depth:  # while it comes, the row at hand is mixed in
                    fetch_x(nodes, start, 0, lane, row, 0)
                coef = real(activate(activation, score))
                for j in range(share_out):
                    sums[j] = cuda.fma(coef, outputs[j], sums[j])
            if shown:
                leaves[sample * n_trees + t] = node - n_nodes
        if own == place:
            put_y(y, sample * n_out, 0, lane, sums, 0)

    signature = ("stored", "stored", "real", "int32", "real", "int32", "stored", "int", "int")
    return Kernel(body, layer.kind, signature), lanes * teams, teams


@functools.cache
def scout(layer, share, top):
    """Return the kernel that sends samples down the `top` levels of a tree.

    It writes their scores, to `leaves` which subtree each sample has reached, to `ranks` how many
    were there before it, and adds them to `counts`, which must be zero. The ranks depend on chance;
    they decide in which order samples are worked on, and nothing else.
    """
    lanes, teams = team_of(max(layer.n_in, layer.n_out), share)  # as in `walk`: same bits
    share = share_of(layer.n_in, layer.length, lanes)
    fetch, _ = row_movers(layer.kind, layer.n_in, layer.length, lanes, share)
    dot = dot_of(layer.kind, share, layer.length)
    total, real = team_sum(layer.kind, lanes, teams), REAL[layer.kind]
    n_in, width, depth, has_bias = layer.n_in, layer.width, layer.depth, layer.has_bias

    def body(x, nodes, bias, scores, leaves, ranks, counts, batch):
        lane = cuda.threadIdx.x % lanes
        own = cuda.blockIdx.x * teams + cuda.threadIdx.x // lanes
        sample = min(own, batch - 1)
        inputs = cuda.local.array(share, real)
        row = cuda.local.array(share, real)
        fetch(x, sample * n_in, 0, lane, inputs, 0)
        node = int64(0)
        for level in range(top):
            fetch(nodes, node * width, 0, lane, row, 0)
            score = total(dot(inputs, 0, row, 0), level % 2)
            if has_bias:
                score += bias[node]
            if own == sample and lane == 0:
                scores[sample * depth + level] = score
            node = 2 * node + (2 if score > 0 else 1)
        if own == sample and lane == 0:
            reached = node - ((1 << top) - 1)
            leaves[sample] = reached
            ranks[sample] = fetch_add(counts, reached, 1)

    signature = ("stored", "stored", "real", "real", "int32", "int32", "int32", "int")
    return Kernel(body, layer.kind, signature), lanes * teams, teams


@functools.cache
def place(top, block):
    """Return the kernel that writes the order of the samples by the subtree that they reached."""
    n_subtrees = 1 << top

    def body(leaves, ranks, counts, order, batch):
        starts = cuda.shared.array(n_subtrees, int64)
        thread = cuda.threadIdx.x
        for i in range(thread, n_subtrees, block):
            start = int64(0)
            for k in range(i):
                start += counts[k]
            starts[i] = start
        cuda.syncthreads()
        sample = cuda.blockIdx.x * block + thread
        if sample < batch:
            order[starts[leaves[sample]] + ranks[sample]] = sample

    return Kernel(body, "float32", ("int32", "int32", "int32", "int32", "int"))
