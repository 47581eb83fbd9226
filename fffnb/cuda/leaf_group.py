"""The leaf form on the GPU: samples that came to the same leaf meet its hidden neurons together.

Arrays are flat: x (batch, n_in), routers (n_trees, n_nodes, n_in), table (n_trees, n_leaves, width,
n_in + n_out), hidden (n_trees, n_leaves, width) and outputs (n_trees, n_leaves, n_out), which are
biases, scores, coefs and slopes (batch, n_trees, width), leaves (batch, n_trees), y (batch, n_out);
`keys` as in `order`. In the order of the keys, neighbours mostly share a leaf: a team takes a few
of them and reads a row once for all that share it.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

from numba import cuda, int64

from .launch import Kernel
from .layer import FEWEST, team_of
from .order import SAMPLE
from .simt import REAL, dot_of, peek, poke, row_movers, share_of
from .team import team_sum, team_sums
from .tree_mix import slices
from .tree_walk import activate, derivative

#: Neurons of a leaf that a thread scores at once.
SCORED = 8

#: Teams of a block.
TEAMS = 4


class Leaves(NamedTuple):
    """What is known of a layer when its kernels are compiled."""

    kind: str
    n_in: int
    n_out: int
    depth: int  # of the routers
    width: int
    activation: int
    has_bias: bool
    length: int  # numbers of one load, of all rows

    @property
    def n_leaves(self) -> int:
        """Leaves of a tree."""
        return 1 << self.depth

    @property
    def size(self) -> int:
        """Numbers of a row of the table."""
        return self.n_in + self.n_out

    def tiles(self, most: int) -> tuple[int, int]:
        """Return how many neurons of a leaf a thread works on at once, and how many times."""
        held = min(self.width, most)
        return held, -(-self.width // held)


@functools.cache
def descend(layer, share):
    """Return the kernel that writes leaves; a team takes one sample down the trees.

    A thread holds `share` numbers of a row, or less, as far as teams may grow.
    """
    lanes, teams = team_of(layer.n_in, share)
    share = share_of(layer.n_in, layer.length, lanes)
    fetch, _ = row_movers(layer.kind, layer.n_in, layer.length, lanes, share)
    dot = dot_of(layer.kind, share, layer.length)
    total, real = team_sum(layer.kind, lanes, teams), REAL[layer.kind]
    n_in, depth, n_nodes, has_bias = layer.n_in, layer.depth, layer.n_leaves - 1, layer.has_bias

    def body(x, routers, bias, leaves, batch, n_trees):
        lane = cuda.threadIdx.x % lanes
        own = cuda.blockIdx.x * teams + cuda.threadIdx.x // lanes
        sample = min(own, batch - 1)  # threads beyond the batch take part in sums
        inputs = cuda.local.array(share, real)
        row = cuda.local.array(share, real)
        fetch(x, sample * n_in, 0, lane, inputs, 0)
        for t in range(n_trees):
            node = int64(0)
            for level in range(depth):
                fetch(routers, (t * n_nodes + node) * n_in, 0, lane, row, 0)
                score = total(dot(inputs, 0, row, 0), (t * depth + level) % 2)
                if has_bias:
                    score += bias[t * n_nodes + node]
                node = 2 * node + (2 if score >= 0 else 1)
            if own == sample and lane == 0:
                leaves[sample * n_trees + t] = node - n_nodes

    signature = ("real", "real", "real", "int32", "int", "int")
    return Kernel(body, layer.kind, signature), lanes * teams, teams


@functools.cache
def meet(layer, group, back):
    """Return the kernel that multiplies samples with the neurons of their leaves.

    Forth, with x: it writes scores, and to coefs their activations. Back, with the gradient of y:
    it writes to slopes the gradients of the scores, and coefs too. A team takes `group` samples.
    """
    held, _ = layer.tiles(SCORED)
    n, start = (layer.n_out, layer.n_in) if back else (layer.n_in, 0)
    lanes, length, real, mask = FEWEST, layer.length, REAL[layer.kind], SAMPLE
    fetch, _ = row_movers(layer.kind, n, length, lanes, length)
    width, size, n_leaves = layer.width, layer.size, layer.n_leaves
    n_inputs, n_rows, n_sums = group * length, held * length, group * held
    total, teams = team_sums(layer.kind, lanes, TEAMS, n_sums), TEAMS
    activation, has_bias = layer.activation, layer.has_bias
    n_found, stride = TEAMS * n_sums, lanes * length

    def body(keys, source, table, hidden, scores, coefs, slopes, batch, n_trees):
        found = cuda.shared.array(n_found, real)
        inputs = cuda.local.array(n_inputs, real)
        rows = cuda.local.array(n_rows, real)
        sums = cuda.local.array(n_sums, real)
        samples = cuda.local.array(group, int64)
        ends = cuda.local.array(group, int64)
        lane, team = cuda.threadIdx.x % lanes, cuda.threadIdx.x // lanes
        t, m0, base = cuda.blockIdx.y, cuda.blockIdx.z * held, team * n_sums
        first = (cuda.blockIdx.x * teams + team) * group
        for g in range(group):
            key = keys[t * batch + min(first + g, batch - 1)]
            samples[g] = key & mask
            ends[g] = (t * n_leaves + (key >> 32)) * width
        for j in range(n_sums):
            sums[j] = real(0)
        end = ends[0]
        while end >= 0:  # for each leaf of the group, in most cases one
            for column in range(0, n, stride):
                for g in range(group):
                    fetch(source, samples[g] * n, column, lane, inputs, g * length)
                for m in range(held):
                    at = (end + min(m0 + m, width - 1)) * size + start
                    fetch(table, at, column, lane, rows, m * length)
                for g in range(group):
                    if ends[g] == end:
                        for m in range(held):
                            for k in range(length):
                                j, value = g * held + m, inputs[g * length + k]
                                sums[j] = cuda.fma(value, rows[m * length + k], sums[j])
            last, end = end, int64(-1)
            for g in range(group):
                if ends[group - 1 - g] > last:
                    end = ends[group - 1 - g]
        total(sums)
        for j in range(n_sums):
            if lane == j % lanes:
                poke(found, base + j, sums[j])
        cuda.syncthreads()
        for j in range(lane, n_sums, lanes):
            own, m = first + j // held, m0 + j % held
            if own < batch and m < width:
                key, score = keys[t * batch + own], peek(found, base + j)
                visit = ((key & mask) * n_trees + t) * width + m
                if back:
                    slope, score = score, scores[visit]
                    slopes[visit] = slope * real(derivative(activation, score))
                else:
                    if has_bias:
                        score += hidden[(t * n_leaves + (key >> 32)) * width + m]
                    scores[visit] = score
                coefs[visit] = real(activate(activation, score))

    signature = ("int64", *["real"] * 6, "int", "int")
    return Kernel(body, layer.kind, signature), lanes * teams, teams * group


@functools.cache
def mix(layer, group, back):
    """Return the kernel that mixes rows of neurons: forth y by coefs, back grad_x by slopes.

    A team takes `group` samples, in the order of the first tree.
    """
    n, start = (layer.n_in, 0) if back else (layer.n_out, layer.n_in)
    lanes, teams, length, real, mask = FEWEST, TEAMS, layer.length, REAL[layer.kind], SAMPLE
    _, share = slices(n, length, group)
    fetch, put = row_movers(layer.kind, n, length, lanes, share)
    width, size, n_leaves, n_sums = layer.width, layer.size, layer.n_leaves, group * share
    has_outputs = layer.has_bias and not back

    def body(keys, leaves, coefs, table, outputs, out, batch, n_trees):
        row = cuda.local.array(share, real)
        sums = cuda.local.array(n_sums, real)
        samples = cuda.local.array(group, int64)
        ends = cuda.local.array(group, int64)
        lane, column = cuda.threadIdx.x % lanes, cuda.blockIdx.y * lanes * share
        first = (cuda.blockIdx.x * teams + cuda.threadIdx.x // lanes) * group
        for g in range(group):
            samples[g] = keys[min(first + g, batch - 1)] & mask
        for j in range(n_sums):
            sums[j] = real(0)
        for t in range(n_trees):
            for g in range(group):
                leaf = leaves[samples[g] * n_trees + t] & (n_leaves - 1)  # stays within the tree
                ends[g] = t * n_leaves + leaf
                if has_outputs:
                    fetch(outputs, ends[g] * n, column, lane, row, 0)
                    for j in range(share):
                        sums[g * share + j] += row[j]
            for m in range(width):
                last = int64(-1)
                for g in range(group):
                    if ends[g] != last:
                        last = ends[g]
                        fetch(table, (last * width + m) * size + start, column, lane, row, 0)
                    coef = coefs[(samples[g] * n_trees + t) * width + m]
                    for j in range(share):
                        sums[g * share + j] = cuda.fma(coef, row[j], sums[g * share + j])
        for g in range(group):
            if first + g < batch:
                put(out, samples[g] * n, column, lane, sums, g * share)

    signature = ("int64", "int32", *["real"] * 4, "int", "int")
    return Kernel(body, layer.kind, signature), lanes * teams, teams * group
