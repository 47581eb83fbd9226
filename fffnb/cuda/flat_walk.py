"""The forward pass of the flat form: scores of planes that all samples share, one for each level.

Arrays are flat, as in `tree_walk`, but that planes (n_trees, depth, n_in) and y_vectors (n_trees,
n_rows, n_out) are apart, and bias is (n_trees, depth).

No score waits for another. A block of `walk` takes one sample of a few: its teams share the columns
of all planes, and then those of the y rows on the path. A team of `descend` takes several of many
samples, and reads a plane once for all of them; teams may share the columns.
"""

import functools
from typing import NamedTuple

from numba import cuda, int64

from .launch import Kernel
from .layer import FEWEST, Layer, team_of
from .paths import paths_of
from .simt import REAL, dot_of, peek, poke, row_movers, share_of
from .team import team_sum, team_sums
from .tree_walk import activate

#: Numbers of a row that a thread of `walk` holds, as far as blocks may grow.
SHARE = 4

#: Numbers of planes that a thread of `walk` reads at once, so that they wait for memory together,
#: and scores and numbers of samples that one of `descend` holds, at most.
READ, HELD = 48, 96


class Tile(NamedTuple):
    """How a block of `descend` shares samples and columns among its teams."""

    group: int  # samples that a team scores at once, for which it reads a plane once
    reads: int  # vectors of a row that a thread reads at once
    teams: int  # teams of a block, which read the same planes at about the same time
    parts: int  # teams that share the columns of the same samples


def fitting_tile(layer: Layer, tile: Tile) -> Tile:
    """Return a tile whose threads read whole rows, and no more numbers than they can hold."""
    group, reads = tile.group, tile.reads
    while reads > 1 and layer.n_in % (FEWEST * reads * layer.length):
        reads //= 2
    while group > 1 and group * (layer.depth + reads * layer.length) > HELD:
        group //= 2
    return tile._replace(group=group, reads=reads)


@functools.cache
def walk(planes, vectors, traces):
    """Return the kernel that writes y and, if it `traces`, scores and leaves; a sample has a block.

    `planes` is a layer without outputs, `vectors` one without inputs.
    """
    lanes, (threads, _) = FEWEST, team_of(max(planes.n_in, vectors.n_out), SHARE)
    teams, real = threads // lanes, REAL[planes.kind]
    share_in = share_of(planes.n_in, planes.length, threads)
    share_out = share_of(vectors.n_out, vectors.length, threads)
    fetch_x, _ = row_movers(planes.kind, planes.n_in, planes.length, threads, share_in)
    fetch_y, put_y = row_movers(planes.kind, vectors.n_out, vectors.length, threads, share_out)
    dot, total = dot_of(planes.kind, share_in, planes.length), team_sum(planes.kind, lanes, teams)
    n_in, n_out, depth = planes.n_in, vectors.n_out, planes.depth
    shift_of, row_of = paths_of(vectors.rows)
    activation, has_bias, n_parts = planes.activation, planes.has_bias, teams * depth
    ahead = min(depth, max(1, READ // share_in))
    n_rows = ahead * share_in

    def body(x, planes, vectors, bias, scores, leaves, y, n_trees):
        parts = cuda.shared.array(n_parts, real)
        found = cuda.shared.array(depth, real)
        coefs = cuda.shared.array(depth, real)
        inputs = cuda.local.array(share_in, real)
        rows = cuda.local.array(n_rows, real)
        outputs = cuda.local.array(share_out, real)
        sums = cuda.local.array(share_out, real)
        thread, sample = cuda.threadIdx.x, cuda.blockIdx.x
        fetch_x(x, sample * n_in, 0, thread, inputs, 0)
        for j in range(share_out):
            sums[j] = real(0)
        for t in range(n_trees):
            visit = (sample * n_trees + t) * depth
            for level in range(0, depth, ahead):
                for u in range(ahead):
                    if level + u < depth:
                        at = (t * depth + level + u) * n_in
                        fetch_x(planes, at, 0, thread, rows, u * share_in)
                for u in range(ahead):
                    if level + u < depth:
                        part = total(dot(inputs, 0, rows, u * share_in), (level + u) % 2)
                        if thread % lanes == 0:
                            poke(parts, thread // lanes * depth + level + u, part)
            cuda.syncthreads()
            for level in range(thread, depth, threads):
                score = real(0)
                for k in range(teams):
                    score += peek(parts, k * depth + level)
                if has_bias:
                    score += bias[t * depth + level]
                poke(found, level, score)
                poke(coefs, level, real(activate(activation, score)))
                if traces:
                    scores[visit + level] = score
            cuda.syncthreads()
            leaf = int64(0)
            for level in range(depth):
                leaf = 2 * leaf + (1 if peek(found, level) > 0 else 0)
            for level in range(depth):
                row = row_of(t, depth, level, leaf >> shift_of(depth, level))
                fetch_y(vectors, row * n_out, 0, thread, outputs, 0)
                for j in range(share_out):
                    sums[j] = cuda.fma(peek(coefs, level), outputs[j], sums[j])
            if traces and thread == 0:
                leaves[sample * n_trees + t] = leaf
        put_y(y, sample * n_out, 0, thread, sums, 0)

    signature = ("stored", "stored", "stored", "real", "real", "int32", "stored", "int")
    return Kernel(body, planes.kind, signature), threads


@functools.cache
def descend(layer, tile):
    """Return the kernel that writes scores and leaves, in such a tile."""
    group, reads, teams, parts = tile
    lanes, share = FEWEST, reads * layer.length
    fetch, _ = row_movers(layer.kind, layer.n_in, layer.length, lanes, share)
    n_in, depth, has_bias, stride = layer.n_in, layer.depth, layer.has_bias, lanes * share
    n_inputs, n_sums, n_found = group * share, group * depth, teams * group * depth
    total, real = team_sums(layer.kind, lanes, teams, n_sums), REAL[layer.kind]
    workers, step = lanes * parts, stride * parts

    def body(x, planes, bias, scores, leaves, batch, n_trees):
        found = cuda.shared.array(n_found, real)
        inputs = cuda.local.array(n_inputs, real)
        row = cuda.local.array(share, real)
        sums = cuda.local.array(n_sums, real)
        lane, team, t = cuda.threadIdx.x % lanes, cuda.threadIdx.x // lanes, cuda.blockIdx.y
        first = (cuda.blockIdx.x * (teams // parts) + team // parts) * group
        own, base = team * n_sums, team // parts * parts * n_sums
        for j in range(n_sums):
            sums[j] = real(0)
        for column in range(team % parts * stride, n_in, step):
            for g in range(group):
                sample = min(first + g, batch - 1)  # teams beyond the batch take part in sums
                fetch(x, sample * n_in, column, lane, inputs, g * share)
            for level in range(depth):
                fetch(planes, (t * depth + level) * n_in, column, lane, row, 0)
                for g in range(group):
                    j = g * depth + level
                    for k in range(share):
                        sums[j] = cuda.fma(inputs[g * share + k], row[k], sums[j])
        total(sums)
        for j in range(n_sums):
            if lane == j % lanes:
                poke(found, own + j, sums[j])
        cuda.syncthreads()
        for j in range(team % parts * lanes + lane, n_sums, workers):
            sample, level = first + j // depth, j % depth
            score = peek(found, base + j)
            for part in range(1, parts):
                score += peek(found, base + part * n_sums + j)
            if has_bias:
                score += bias[t * depth + level]
            poke(found, base + j, score)
            if sample < batch:
                scores[(sample * n_trees + t) * depth + level] = score
        cuda.syncthreads()
        for g in range(team % parts * lanes + lane, group, workers):
            leaf = int64(0)
            for level in range(depth):
                leaf = 2 * leaf + (1 if peek(found, base + g * depth + level) > 0 else 0)
            if first + g < batch:
                leaves[(first + g) * n_trees + t] = leaf

    signature = ("stored", "stored", "real", "real", "int32", "int", "int")
    return Kernel(body, layer.kind, signature), lanes * teams, teams // parts * group
