"""The walk: every sample goes down its trees alone, then mixes the rows on its path.

Shapes: `x` (batch, n_in), `table` (n_trees * n_nodes, n_in + n_out), the nodes of the forest as
rows, `bias` (n_trees * n_nodes,) or empty, `scores` (batch, n_trees, depth), `leaves` (batch,
n_trees), `y` (batch, n_out); `coefs` and `rows` (n_paths, n_trees * depth) are paths: row k of path
q is table[rows[q, k]], and counts coefs[q, k] times.

Helpers take an array and the place of a vector's first element in its memory: a view would cost a
reference count, a lock on the bus, in the middle of a kernel.
"""

from numba import prange

from .. import activations
from .jit import Kernel, helper
from .simd import (
    add,
    broadcast,
    inner,
    lanes,
    load,
    load_all,
    load_part,
    load_part_all,
    outer,
    store,
    store_part,
    store_totals,
    total,
    zeros,
)

#: Elements of an output that stay in the first-level cache while row after row is added to them.
BLOCK = 4096

activate = helper(activations.activate)


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
def tile(x, i0, i1, i2, i3, table, j0, j1, j2, n, out, at):
    """Write the dot products of vectors i of `x` and j of `table` to out[at + 3 * i + j] in memory.

    There must be room for 16 numbers.
    """
    width = lanes(x)
    quarter = n // (4 * width) * width
    sums = zeros(x, 12)
    for k in range(0, quarter, width):
        xs = load(x, i0 + k), load(x, i1 + k), load(x, i2 + k), load(x, i3 + k)
        rows = load(table, j0 + k), load(table, j1 + k), load(table, j2 + k)
        sums = outer(sums, xs, rows)
    for k in range(4 * quarter, n, width):
        m = n - k
        x0, x1 = load_part(x, i0 + k, m), load_part(x, i1 + k, m)
        x2, x3 = load_part(x, i2 + k, m), load_part(x, i3 + k, m)
        row0, row1 = load_part(table, j0 + k, m), load_part(table, j1 + k, m)
        sums = outer(sums, (x0, x1, x2, x3), (row0, row1, load_part(table, j2 + k, m)))
    for q in range(1, 4):
        more = zeros(x, 12)
        for k in range(q * quarter, (q + 1) * quarter, width):
            xs = load(x, i0 + k), load(x, i1 + k), load(x, i2 + k), load(x, i3 + k)
            rows = load(table, j0 + k), load(table, j1 + k), load(table, j2 + k)
            more = outer(more, xs, rows)
        sums = add(sums, more)
    store_totals(out, at, sums)


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


@Kernel
def forward(x, table, bias, activation, scores, leaves, coefs, rows, y):
    """Write scores, leaves and y of every sample; `coefs` and `rows` have a path for each."""
    n_in, n_out, width = x.shape[1], y.shape[1], table.shape[1]
    _, n_trees, depth = scores.shape
    n_nodes = (1 << depth) - 1
    for s in prange(len(x)):
        for t in range(n_trees):
            node = 0
            for level in range(depth):
                row = t * n_nodes + node
                score = dot(table, row * width, x, s * n_in, n_in)
                if len(bias) > 0:
                    score += bias[row]
                scores[s, t, level] = score
                coefs[s, t * depth + level] = activate(activation, score)
                rows[s, t * depth + level] = row
                node = 2 * node + (2 if score > 0 else 1)  # a NaN score goes left
            leaves[s, t] = node - n_nodes
        mix(coefs, s, rows, s, 0, n_trees * depth, table, n_in, n_out, y, s * n_out, True)
