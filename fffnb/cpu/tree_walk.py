"""The walk: samples go down the trees in fours, each on its path, then mix the rows on it.

The four share nothing but the time: while one waits for a row or a sum, the others go on. Where all
of them are at the same node, as at the root, they meet it and both of its children in one pass.

Shapes: `x` (batch, n_in), `table` (n_trees * n_nodes, n_in + n_out), the nodes of the forest as
rows, `bias` (n_trees * n_nodes,) or empty, `scores` (batch, n_trees, depth), `leaves` (batch,
n_trees), `y` (batch, n_out); `coefs` and `rows` (n_paths, n_trees * depth) are paths: row k of path
q is table[rows[q, k]], and counts coefs[q, k] times. On its way down, leaves[s, t] is the place of
sample s in its level of tree t. A thread takes `chunk` samples at a time, a multiple of four or
one, and has room in `found` (n_chunks, 16), and in `coefs` and `rows` for four paths.

Helpers take an array and the place of a vector's first element in its memory: a view would cost a
reference count, a lock on the bus, in the middle of a kernel.
"""

from numba import prange

from .jit import Kernel, helper
from .simd import (
    add,
    fence,
    inner,
    lanes,
    load,
    load_part,
    outer,
    pairs,
    store_totals,
    total,
    zeros,
)
from .tree_mix import mix_samples


@helper
def dot(a, i, b, j, n):
    """Return the dot product of the n elements of `a` from i on and of `b` from j on.

    Four sums run along four quarters of the vectors, what is left over goes to the first: the order
    in which `tile` adds, too.
    """
    width = lanes(a)
    quarter = n // (4 * width) * width
    i1, i2, i3 = i + quarter, i + 2 * quarter, i + 3 * quarter
    j1, j2, j3 = j + quarter, j + 2 * quarter, j + 3 * quarter
    s0, s1, s2, s3 = zeros(a, 4)
    for k in range(0, quarter, width):
        s0 = inner(s0, (load(a, i + k),), (load(b, j + k),))
        s1 = inner(s1, (load(a, i1 + k),), (load(b, j1 + k),))
        s2 = inner(s2, (load(a, i2 + k),), (load(b, j2 + k),))
        s3 = inner(s3, (load(a, i3 + k),), (load(b, j3 + k),))
    for k in range(4 * quarter, n, width):
        s0 = inner(s0, (load_part(a, i + k, n - k),), (load_part(b, j + k, n - k),))
    return total(add(add(add((s0,), (s1,)), (s2,)), (s3,))[0])


@helper
def dots(x, i0, i1, i2, i3, table, j0, j1, j2, j3, n, out, at):
    """Write the dot products of vector i0 of `x` and j0 of `table`, of i1 and j1, ... to out[at :].

    There must be room for 16 numbers.
    """
    width = lanes(x)
    quarter = n // (4 * width) * width
    sums = zeros(x, 4)
    for k in range(0, quarter, width):
        sums = pairs(sums, load4(x, i0, i1, i2, i3, k), load4(table, j0, j1, j2, j3, k))
    for k in range(4 * quarter, n, width):
        m = n - k
        x0, x1 = load_part(x, i0 + k, m), load_part(x, i1 + k, m)
        x2, x3 = load_part(x, i2 + k, m), load_part(x, i3 + k, m)
        row0, row1 = load_part(table, j0 + k, m), load_part(table, j1 + k, m)
        row2, row3 = load_part(table, j2 + k, m), load_part(table, j3 + k, m)
        sums = pairs(sums, (x0, x1, x2, x3), (row0, row1, row2, row3))
    for q in range(1, 4):
        more = zeros(x, 4)
        for k in range(q * quarter, (q + 1) * quarter, width):
            more = pairs(more, load4(x, i0, i1, i2, i3, k), load4(table, j0, j1, j2, j3, k))
        sums = add(sums, more)
    store_totals(out, at, sums)


@helper
def tile(x, i0, i1, i2, i3, table, j0, j1, j2, n, out, at):
    """Write the dot products of vectors i of `x` and j of `table` to out[at + 3 * i + j] in memory.

    There must be room for 16 numbers.
    """
    width = lanes(x)
    quarter = n // (4 * width) * width
    sums = zeros(x, 12)
    for k in range(0, quarter, width):
        rows = load(table, j0 + k), load(table, j1 + k), load(table, j2 + k)
        sums = outer(sums, load4(x, i0, i1, i2, i3, k), rows)
    for k in range(4 * quarter, n, width):
        m = n - k
        x0, x1 = load_part(x, i0 + k, m), load_part(x, i1 + k, m)
        x2, x3 = load_part(x, i2 + k, m), load_part(x, i3 + k, m)
        row0, row1 = load_part(table, j0 + k, m), load_part(table, j1 + k, m)
        sums = outer(sums, (x0, x1, x2, x3), (row0, row1, load_part(table, j2 + k, m)))
    for q in range(1, 4):
        more = zeros(x, 12)
        for k in range(q * quarter, (q + 1) * quarter, width):
            rows = load(table, j0 + k), load(table, j1 + k), load(table, j2 + k)
            more = outer(more, load4(x, i0, i1, i2, i3, k), rows)
        sums = add(sums, more)
    store_totals(out, at, sums)


@helper
def load4(a, i0, i1, i2, i3, k):
    """Return the vectors of `a` from four places on, k elements further."""
    return load(a, i0 + k), load(a, i1 + k), load(a, i2 + k), load(a, i3 + k)


@helper
def turn(score, bias, row, t, level, s, scores, leaves, closed=False):
    """Note the score, not yet with bias, of sample s at a row, and send it to a child.

    The right one takes positive scores, and if `closed`, 0.
    """
    if len(bias) > 0:
        score += bias[row]
    scores[s, t, level] = score
    right = score > 0 or (closed and score == 0)  # a NaN score goes left
    leaves[s, t] = 2 * leaves[s, t] + (1 if right else 0)


@helper
def descend(x, table, bias, t, first, stop, samples, n, found, c, scores, leaves, closed=False):
    """Take the first n of a tuple of four samples down tree t from level `first` to `stop`.

    `closed` as in `turn`.
    """
    if n == 4:
        descend_four(x, table, bias, t, first, stop, samples, found, c, scores, leaves, closed)
    else:
        for k in range(n):
            descend_one(x, table, bias, t, first, stop, samples[k], scores, leaves, closed)


@helper
def descend_one(x, table, bias, t, first, stop, s, scores, leaves, closed):
    """Take sample s down tree t from level `first` to `stop`."""
    n_in, width, root = x.shape[1], table.shape[1], t * ((1 << scores.shape[2]) - 1)
    for level in range(first, stop):
        row = root + (1 << level) - 1 + leaves[s, t]
        score = dot(table, row * width, x, s * n_in, n_in)
        turn(score, bias, row, t, level, s, scores, leaves, closed)


@helper
def descend_four(x, table, bias, t, first, stop, samples, found, c, scores, leaves, closed):
    """Do what `descend_one` does for a tuple of four samples."""
    n_in, width, root = x.shape[1], table.shape[1], t * ((1 << scores.shape[2]) - 1)
    s0, s1, s2, s3 = samples
    i0, i1, i2, i3 = s0 * n_in, s1 * n_in, s2 * n_in, s3 * n_in
    at, level = c * found.shape[1], first
    while level < stop:
        top = root + (1 << level) - 1
        row0, row1 = top + leaves[s0, t], top + leaves[s1, t]
        row2, row3 = top + leaves[s2, t], top + leaves[s3, t]
        if level + 1 < stop and row0 == row1 and row0 == row2 and row0 == row3:
            left = row0 + (1 << level) + leaves[s0, t]
            j0, j1, j2 = row0 * width, left * width, (left + 1) * width
            tile(x, i0, i1, i2, i3, table, j0, j1, j2, n_in, found, at)
            for k in range(4):
                s = samples[k]
                turn(found[c, 3 * k], bias, row0, t, level, s, scores, leaves, closed)
                side = leaves[s, t] & 1
                score = found[c, 3 * k + 1 + side]
                turn(score, bias, left + side, t, level + 1, s, scores, leaves, closed)
            level += 2
        else:
            j0, j1, j2, j3 = row0 * width, row1 * width, row2 * width, row3 * width
            dots(x, i0, i1, i2, i3, table, j0, j1, j2, j3, n_in, found, at)
            rows = row0, row1, row2, row3
            for k in range(4):
                turn(found[c, k], bias, rows[k], t, level, samples[k], scores, leaves, closed)
            level += 1


@helper
def take_four(order, i, end):
    """Return samples i to i + 3 of the order, for those from `end` on the last one before."""
    last = end - 1
    i1, i2, i3 = min(i + 1, last), min(i + 2, last), min(i + 3, last)
    return order[i], order[i1], order[i2], order[i3]


@Kernel
def forward(
    x, table, bias, activation, chunk, scores, leaves, found, coefs, rows, room, streamed, y
):
    """Write scores, leaves and y of every sample; `room` and `streamed` as in `mix_paths`."""
    batch, n_trees, depth = scores.shape
    for c in prange(len(found)):
        end = min(batch, (c + 1) * chunk)
        for i in range(c * chunk, end, 4):
            samples, n = (i, i + 1, i + 2, i + 3), min(4, end - i)
            for t in range(n_trees):
                for s in range(i, i + n):
                    leaves[s, t] = 0
                descend(x, table, bias, t, 0, depth, samples, n, found, c, scores, leaves)
            mix_samples(
                samples,
                n,
                table,
                False,
                activation,
                scores,
                leaves,
                coefs,
                rows,
                4 * c,
                x.shape[1],
                room,
                streamed,
                y,
            )
        if streamed:
            fence()
