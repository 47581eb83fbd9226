"""The sweep: samples that share nodes go down the trees, and mix their rows, together.

The batch goes down in fours as in the walk, but every few levels it is put in the order of the
nodes reached: rows are then read from the first caches, where the samples just before have left
them. In the order of the leaves, four samples in a row share most of the rows that make their
outputs.

Every number is the same bits as in the walk. Shapes as in `tree_walk`; `order` (batch,) names the
samples, and scratch has a row for each chunk of them.
"""

from numba import prange

from .jit import Kernel, helper
from .simd import (
    broadcast,
    fence,
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
from .tree_walk import descend, descend_four, follow, mix, places2, score_path, spread2


@Kernel
def descend_in_order(x, table, bias, t, first, stop, order, found, scores, leaves):
    """Take every sample down tree t from level `first`, by which `order` is sorted, to `stop`.

    Samples go in fours; `found` (n_fours, 16) is scratch.
    """
    batch = len(x)
    for c in prange(len(found)):
        i = 4 * c
        if i + 4 <= batch:
            four = order[i], order[i + 1], order[i + 2], order[i + 3]
            descend_four(x, table, bias, t, first, stop, four, found, c, scores, leaves)
        else:
            for k in range(i, batch):
                descend(x, table, bias, t, first, stop, order[k], scores, leaves)


@Kernel
def mix_in_order(
    order, chunk, table, activation, scores, leaves, coefs, rows, n_in, room, streamed, y
):
    """Write y of every sample; `coefs` and `rows` hold four paths for each chunk.

    `room` (4 * n_chunks, n_out) is where y rests before it is written past the caches, if
    `streamed`.
    """
    batch = len(order)
    for c in prange(len(rows) // 4):
        q = 4 * c
        end = min(batch, (c + 1) * chunk)
        for i in range(c * chunk, end, 4):
            n = min(4, end - i)  # the next sample may be that of another thread
            for k in range(n):
                follow(order[i + k], scores, leaves, rows, q + k)
                score_path(order[i + k], scores, activation, coefs, q + k)
            mix_paths(order, i, n, coefs, rows, q, table, n_in, room, streamed, y)
        if streamed:
            fence()


@helper
def mix_paths(order, i, n, coefs, rows, q, table, start, room, streamed, out):
    """Write to the row of `out` of each of n samples from order[i] on the mix of its path.

    These are the paths from q on; if `streamed`, the same rows of `room` are where four mixes rest
    before they are written past the caches.
    """
    width, n_rows = out.shape[1], rows.shape[1]
    if n < 4:
        for k in range(n):
            at = order[i + k] * width
            mix(coefs, q + k, rows, q + k, 0, n_rows, table, start, width, out, at, True)
    elif streamed:
        r0, r1, r2, r3 = q * width, (q + 1) * width, (q + 2) * width, (q + 3) * width
        mix_four(coefs, rows, q, n_rows, table, start, width, room, r0, r1, r2, r3)
        for k in range(4):
            stream_row(room, (q + k) * width, width, out, order[i + k] * width)
    else:
        s0, s1, s2, s3 = order[i], order[i + 1], order[i + 2], order[i + 3]
        r0, r1, r2, r3 = s0 * width, s1 * width, s2 * width, s3 * width
        mix_four(coefs, rows, q, n_rows, table, start, width, out, r0, r1, r2, r3)


@helper
def stream_row(room, i, n, out, at):
    """Copy n elements of `room` from i on, whole vectors, past the caches to `out` at `at`."""
    for j in range(0, n, lanes(room)):
        stream(out, at + j, load(room, i + j))


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
def mix_four(coefs, rows, q, n_rows, table, start, n, out, at0, at1, at2, at3):
    """Do what `mix` does with n_rows rows, for the four paths from q on."""
    k = 0
    while k < n_rows:
        if same(rows, q, k, n_rows):
            mix_tile(coefs, q, rows, q, k, table, start, n, out, at0, at1, at2, at3)
            k += 3
        else:
            end = k + 1
            while end < n_rows and not same(rows, q, end, n_rows):
                end += 1
            mix(coefs, q, rows, q, k, end, table, start, n, out, at0, k == 0)
            mix(coefs, q + 1, rows, q + 1, k, end, table, start, n, out, at1, k == 0)
            mix(coefs, q + 2, rows, q + 2, k, end, table, start, n, out, at2, k == 0)
            mix(coefs, q + 3, rows, q + 3, k, end, table, start, n, out, at3, k == 0)
            k = end


@helper
def mix_tile(coefs, q, rows, p, k, table, start, n, out, at0, at1, at2, at3):
    """Do what `mix` does with rows k to k + 3 of path p, for the four coefs from q on."""
    places = (*places2(rows, p, k, table, start), rows[p, k + 2] * table.shape[1] + start)
    c0, c1 = spread3(coefs, q, k), spread3(coefs, q + 1, k)
    c2, c3 = spread3(coefs, q + 2, k), spread3(coefs, q + 3, k)
    width, zero, fresh = lanes(out), zeros(out, 1)[0], k == 0
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
def spread3(coefs, q, k):
    """Return three coefficients as vectors."""
    return (*spread2(coefs, q, k), broadcast(coefs[q, k + 2]))
