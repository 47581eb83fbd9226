"""The forward pass of the flat form: scores of planes that all samples share, one for each level.

Arrays are flat, as in `tree_walk`, but that planes (n_trees, depth, n_in) and y_vectors (n_trees,
n_rows, n_out) are apart, and bias is (n_trees, depth).

No score waits for another. A block of `walk` takes one sample of a few: its teams share the columns
of all planes, and then those of the y rows on the path. A team of `descend` takes several of many
samples, and reads a plane once for all of them.
"""

import functools

from numba import cuda, int64

from .launch import Kernel
from .layer import BLOCK, FEWEST, Layer, team_of
from .paths import paths_of
from .simt import REAL, dot_of, peek, poke, row_movers, share_of
from .team import team_sum, team_sums
from .tree_walk import activate

#: Numbers of a row that a thread of `walk` holds, as far as blocks may grow.
SHARE = 4

#: Numbers of planes that a thread of `walk` reads at once, so that they wait for memory together,
#: and scores that one of `descend` sums, at most.
READ, HELD = 48, 96


def fitting_group(layer: Layer, group: int) -> int:
    """Return the samples of a team, less where its threads could not hold so many scores."""
    while group > 1 and group * layer.depth > HELD:
        group //= 2
    return group


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
def descend(layer, group):
    """Return the kernel that writes scores and leaves; a team takes `group` samples down a tree."""
    lanes, teams, length = FEWEST, BLOCK // FEWEST, layer.length
    fetch, _ = row_movers(layer.kind, layer.n_in, length, lanes, length)
    n_in, depth, has_bias, stride = layer.n_in, layer.depth, layer.has_bias, lanes * length
    n_inputs, n_sums, n_found = group * length, group * depth, teams * group * depth
    total, real = team_sums(layer.kind, lanes, teams, n_sums), REAL[layer.kind]

    def body(x, planes, bias, scores, leaves, batch, n_trees):
        found = cuda.shared.array(n_found, real)
        inputs = cuda.local.array(n_inputs, real)
        row = cuda.local.array(length, real)
        sums = cuda.local.array(n_sums, real)
        lane, team, t = cuda.threadIdx.x % lanes, cuda.threadIdx.x // lanes, cuda.blockIdx.y
        first, base = (cuda.blockIdx.x * teams + team) * group, team * n_sums
        for j in range(n_sums):
            sums[j] = real(0)
        for column in range(0, n_in, stride):
            for g in range(group):
                sample = min(first + g, batch - 1)  # teams beyond the batch take part in sums
                fetch(x, sample * n_in, column, lane, inputs, g * length)
            for level in range(depth):
                fetch(planes, (t * depth + level) * n_in, column, lane, row, 0)
                for g in range(group):
                    j = g * depth + level
                    for k in range(length):
                        sums[j] = cuda.fma(inputs[g * length + k], row[k], sums[j])
        total(sums)
        for j in range(n_sums):
            if lane == j % lanes:
                poke(found, base + j, sums[j])
        cuda.syncthreads()
        for j in range(lane, n_sums, lanes):
            sample, level = first + j // depth, j % depth
            score = peek(found, base + j)
            if has_bias:
                score += bias[t * depth + level]
            poke(found, base + j, score)
            if sample < batch:
                scores[(sample * n_trees + t) * depth + level] = score
        cuda.syncthreads()
        for g in range(lane, group, lanes):
            leaf = int64(0)
            for level in range(depth):
                leaf = 2 * leaf + (1 if peek(found, base + g * depth + level) > 0 else 0)
            if first + g < batch:
                leaves[(first + g) * n_trees + t] = leaf

    signature = ("stored", "stored", "real", "real", "int32", "int", "int")
    return Kernel(body, layer.kind, signature), lanes * teams, teams * group
