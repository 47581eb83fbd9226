"""Mixing: the rows on the paths of samples, weighted and added up to their outputs.

Shapes as in `tree_walk`. Four samples that have three rows in a row in common mix them together:
a row is then loaded once for four outputs.
"""

from .. import activations
from .jit import helper
from .simd import (
    broadcast,
    inner,
    lanes,
    load,
    load_all,
    load_part,
    load_part_all,
    store,
    store_part,
    stream,
    zeros,
)

#: Elements of an output that stay in the first-level cache while row after row is added to them.
BLOCK = 4096

activate = helper(activations.activate)


@helper
def shift_of(level, depth, patterns):
    """Return by how many bits to shift a leaf for the place on a level that its path visits.

    That is a node, or the leaf itself if there is a row for each of the `patterns` of signs.
    """
    return 0 if patterns else depth - level


@helper
def row_of(t, level, place, depth, patterns):
    """Return the row of a forest that is at a place on a level of tree t.

    A tree has its nodes level by level; of `patterns`, the rows of all levels lie together.
    """
    if patterns:
        return ((t << depth) + place) * depth + level
    return t * ((1 << depth) - 1) + (1 << level) - 1 + place


@helper
def follow(s, scores, leaves, patterns, rows, q):
    """Write the rows on the path of sample s to path q: the last ones, if it is shorter."""
    _, n_trees, depth = scores.shape
    n_levels = rows.shape[1] // n_trees
    for t in range(n_trees):
        leaf = leaves[s, t]
        for k in range(n_levels):
            level = depth - n_levels + k
            place = leaf >> shift_of(level, depth, patterns)
            rows[q, t * n_levels + k] = row_of(t, level, place, depth, patterns)


@helper
def score_path(s, scores, activation, coefs, q):
    """Write the activations of the scores of sample s to path q."""
    _, n_trees, depth = scores.shape
    for t in range(n_trees):
        for level in range(depth):
            coefs[q, t * depth + level] = activate(activation, scores[s, t, level])


@helper
def mix_samples(
    samples,
    n,
    table,
    patterns,
    activation,
    scores,
    leaves,
    coefs,
    rows,
    q,
    start,
    room,
    streamed,
    out,
):
    """Write the rows of `out` of the first n of four samples; their paths are noted from q on."""
    for k in range(n):
        follow(samples[k], scores, leaves, patterns, rows, q + k)
        score_path(samples[k], scores, activation, coefs, q + k)
    mix_paths(samples, n, coefs, rows, q, table, start, room, streamed, out)


@helper
def mix_paths(samples, n, coefs, rows, q, table, start, room, streamed, out, fresh=True):
    """Write the mix of the part from `start` on of each path from q on to the row of its sample.

    If not `fresh`, add it to the row; then it is not streamed.

    If `streamed`, the same rows of `room` (n_paths, n_out) are where four mixes rest before they
    are written past the caches.
    """
    width, n_rows = out.shape[1], rows.shape[1]
    if n < 4:
        for k in range(n):
            at = samples[k] * width
            mix(coefs, q + k, rows, q + k, 0, n_rows, table, start, width, out, at, fresh)
    elif streamed:
        r0, r1, r2, r3 = q * width, (q + 1) * width, (q + 2) * width, (q + 3) * width
        mix_four(coefs, rows, q, n_rows, table, start, width, room, r0, r1, r2, r3, fresh)
        for k in range(4):
            stream_row(room, (q + k) * width, width, out, samples[k] * width)
    else:
        s0, s1, s2, s3 = samples
        r0, r1, r2, r3 = s0 * width, s1 * width, s2 * width, s3 * width
        mix_four(coefs, rows, q, n_rows, table, start, width, out, r0, r1, r2, r3, fresh)


@helper
def stream_row(room, i, n, out, at):
    """Copy n elements of `room` from i on, whole vectors, past the caches to `out` at `at`."""
    for j in range(0, n, lanes(room)):
        stream(out, at + j, load(room, i + j))


@helper
def mix_four(coefs, rows, q, n_rows, table, start, n, out, at0, at1, at2, at3, fresh):
    """Do what `mix` does with n_rows rows, for the four paths from q on."""
    k = 0
    while k < n_rows:
        new = fresh and k == 0
        if same(rows, q, k, n_rows):
            mix_tile(coefs, q, rows, q, k, table, start, n, out, at0, at1, at2, at3, new)
            k += 3
        else:
            end = k + 1
            while end < n_rows and not same(rows, q, end, n_rows):
                end += 1
            mix(coefs, q, rows, q, k, end, table, start, n, out, at0, new)
            mix(coefs, q + 1, rows, q + 1, k, end, table, start, n, out, at1, new)
            mix(coefs, q + 2, rows, q + 2, k, end, table, start, n, out, at2, new)
            mix(coefs, q + 3, rows, q + 3, k, end, table, start, n, out, at3, new)
            k = end


@helper
def same(rows, q, k, n):
    """Return whether the four paths from q on have rows k to k + 3 of n in common."""
    if k + 3 > n:
        return False
    for m in range(k, k + 3):
        row = rows[q, m]
        if rows[q + 1, m] != row or rows[q + 2, m] != row or rows[q + 3, m] != row:
            return False
    return True


@helper
def mix_tile(coefs, q, rows, p, k, table, start, n, out, at0, at1, at2, at3, fresh):
    """Do what `mix` does with rows k to k + 3 of path p, for the four coefs from q on."""
    places = (*places2(rows, p, k, table, start), rows[p, k + 2] * table.shape[1] + start)
    c0, c1 = spread3(coefs, q, k), spread3(coefs, q + 1, k)
    c2, c3 = spread3(coefs, q + 2, k), spread3(coefs, q + 3, k)
    width, zero = lanes(out), zeros(out, 1)[0]
    whole = n // width * width
    for j in range(0, whole, width):
        v = load_all(table, places, j)
        store(out, at0 + j, inner(zero if fresh else load(out, at0 + j), c0, v))
        store(out, at1 + j, inner(zero if fresh else load(out, at1 + j), c1, v))
        store(out, at2 + j, inner(zero if fresh else load(out, at2 + j), c2, v))
        store(out, at3 + j, inner(zero if fresh else load(out, at3 + j), c3, v))
    if whole < n:
        j, m = whole, n - whole
        v = load_part_all(table, places, j, m)
        store_part(out, at0 + j, m, inner(zero if fresh else load_part(out, at0 + j, m), c0, v))
        store_part(out, at1 + j, m, inner(zero if fresh else load_part(out, at1 + j, m), c1, v))
        store_part(out, at2 + j, m, inner(zero if fresh else load_part(out, at2 + j, m), c2, v))
        store_part(out, at3 + j, m, inner(zero if fresh else load_part(out, at3 + j, m), c3, v))


@helper
def mix(coefs, q, rows, p, begin, end, table, start, n, out, at, fresh):
    """Add coefs[q, k] * table[rows[p, k], start : start + n] to `out` at `at`, k from begin to end.

    If `fresh`, write the sum instead.
    """
    for block in range(0, n, BLOCK):
        m, i, j = min(BLOCK, n - block), at + block, start + block
        k, new = begin, fresh
        while k + 4 <= end:
            mix_rows(spread4(coefs, q, k), places4(rows, p, k, table, j), table, m, out, i, new)
            k, new = k + 4, False
        if k + 2 <= end:
            mix_rows(spread2(coefs, q, k), places2(rows, p, k, table, j), table, m, out, i, new)
            k, new = k + 2, False
        if k < end:
            place = rows[p, k] * table.shape[1] + j
            mix_rows((broadcast(coefs[q, k]),), (place,), table, m, out, i, new)


@helper
def mix_rows(factors, places, table, n, out, at, fresh):
    """Add factors[k] * (n elements of `table` from places[k] on) to `out`, or if `fresh`, write."""
    width, zero = lanes(out), zeros(out, 1)[0]
    whole = n // width * width
    for j in range(0, whole, width):
        total = zero if fresh else load(out, at + j)
        store(out, at + j, inner(total, factors, load_all(table, places, j)))
    if whole < n:
        m = n - whole
        total = zero if fresh else load_part(out, at + whole, m)
        part = load_part_all(table, places, whole, m)
        store_part(out, at + whole, m, inner(total, factors, part))


@helper
def spread4(coefs, q, k):
    """Return four coefficients as vectors."""
    return (*spread2(coefs, q, k), *spread2(coefs, q, k + 2))


@helper
def spread3(coefs, q, k):
    """Return three coefficients as vectors."""
    return (*spread2(coefs, q, k), broadcast(coefs[q, k + 2]))


@helper
def spread2(coefs, q, k):
    """Return two coefficients as vectors."""
    return broadcast(coefs[q, k]), broadcast(coefs[q, k + 1])


@helper
def places4(rows, q, k, table, start):
    """Return where column `start` of four rows is in the memory of `table`."""
    return (*places2(rows, q, k, table, start), *places2(rows, q, k + 2, table, start))


@helper
def places2(rows, q, k, table, start):
    """Return where column `start` of two rows is in the memory of `table`."""
    width = table.shape[1]
    return rows[q, k] * width + start, rows[q, k + 1] * width + start
