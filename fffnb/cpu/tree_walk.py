"""The walk: every sample goes down its trees alone, then mixes the rows on its path.

Shapes: `x` (batch, n_in), `table` (n_trees * n_nodes, n_in + n_out), the nodes of the forest as
rows, `bias` (n_trees * n_nodes,) or empty, `scores`, `coefs` and `rows` (batch, n_trees, depth),
`leaves` (batch, n_trees), `y` (batch, n_out).
"""

from numba import prange

from .. import activations
from .jit import Kernel, helper
from .simd import (
    add,
    broadcast,
    lanes,
    load,
    load_part,
    outer,
    store,
    store_part,
    total,
    zeros,
)

activate = helper(activations.activate)


@helper
def dot(row, start, vector):
    """Return the dot product of `vector` and as much of `row` from `start`.

    Four sums run along four quarters of the vectors, what is left over goes to the first: the order
    in which `tile` adds, too.
    """
    n, width = len(vector), lanes(vector)
    part = row[start : start + n]
    quarter = n // (4 * width) * width
    q1, q2, q3 = quarter, 2 * quarter, 3 * quarter
    s0, s1, s2, s3 = zeros(vector, 1), zeros(vector, 1), zeros(vector, 1), zeros(vector, 1)
    for j in range(0, quarter, width):
        s0 = outer(s0, (load(part, j),), (load(vector, j),))
        s1 = outer(s1, (load(part, q1 + j),), (load(vector, q1 + j),))
        s2 = outer(s2, (load(part, q2 + j),), (load(vector, q2 + j),))
        s3 = outer(s3, (load(part, q3 + j),), (load(vector, q3 + j),))
    for j in range(4 * quarter, n, width):
        s0 = outer(s0, (load_part(part, j, n - j),), (load_part(vector, j, n - j),))
    return total(add(add(add(s0, s1), s2), s3)[0])


@helper
def tile(x0, x1, x2, x3, row0, row1, row2, out):
    """Write the dot products of four vectors and (as much of) three rows to out[3 * i + k]."""
    n, width = len(x0), lanes(x0)
    quarter = n // (4 * width) * width
    sums = zeros(x0, 12)
    for j in range(0, quarter, width):
        xs = load(x0, j), load(x1, j), load(x2, j), load(x3, j)
        sums = outer(sums, xs, (load(row0, j), load(row1, j), load(row2, j)))
    for j in range(4 * quarter, n, width):
        m = n - j
        xs = load_part(x0, j, m), load_part(x1, j, m), load_part(x2, j, m), load_part(x3, j, m)
        rows = load_part(row0, j, m), load_part(row1, j, m), load_part(row2, j, m)
        sums = outer(sums, xs, rows)
    for q in range(1, 4):
        more = zeros(x0, 12)
        for j in range(q * quarter, (q + 1) * quarter, width):
            xs = load(x0, j), load(x1, j), load(x2, j), load(x3, j)
            more = outer(more, xs, (load(row0, j), load(row1, j), load(row2, j)))
        sums = add(sums, more)
    for i in range(12):
        out[i] = total(sums[i])


@helper
def load4(array, j, n):
    """Return four vectors from array[j : j + n], with zeros beyond."""
    width = lanes(array)
    j1, j2, j3 = j + width, j + 2 * width, j + 3 * width
    if n >= 4 * width:
        return load(array, j), load(array, j1), load(array, j2), load(array, j3)
    return (
        load_part(array, j, n),
        load_part(array, j1, n - width),
        load_part(array, j2, n - 2 * width),
        load_part(array, j3, n - 3 * width),
    )


@helper
def store4(array, j, n, vectors):
    """Write as much of four vectors as array[j : j + n] takes."""
    width = lanes(array)
    j1, j2, j3 = j + width, j + 2 * width, j + 3 * width
    if n >= 4 * width:
        store(array, j, vectors[0])
        store(array, j1, vectors[1])
        store(array, j2, vectors[2])
        store(array, j3, vectors[3])
    else:
        store_part(array, j, n, vectors[0])
        store_part(array, j1, n - width, vectors[1])
        store_part(array, j2, n - 2 * width, vectors[2])
        store_part(array, j3, n - 3 * width, vectors[3])


@helper
def mix(coefs, rows, table, start, out):
    """Write the sum of coefs[k] * table[rows[k], start : start + len(out)] to `out`."""
    n = len(out)
    for j in range(0, n, 4 * lanes(out)):
        sums = zeros(out, 4)
        for k in range(len(rows)):
            sums = outer(sums, (broadcast(coefs[k]),), load4(table[rows[k]], start + j, n - j))
        store4(out, j, n - j, sums)


@helper
def walk_sample(x, table, bias, activation, scores, leaves, coefs, rows):
    """Take one sample down every tree, noting scores, coefficients, rows and leaves."""
    n_trees, depth = scores.shape
    n_nodes = (1 << depth) - 1
    for t in range(n_trees):
        node = 0
        for level in range(depth):
            row = t * n_nodes + node
            score = dot(table[row], 0, x)
            if len(bias) > 0:
                score += bias[row]
            scores[t, level] = score
            coefs[t, level] = activate(activation, score)
            rows[t, level] = row
            node = 2 * node + (2 if score > 0 else 1)  # a NaN score goes left
        leaves[t] = node - n_nodes


@Kernel
def forward(x, table, bias, activation, scores, leaves, coefs, rows, y):
    """Write scores, leaves and y of every sample; coefs and rows are scratch."""
    n_in = x.shape[1]
    for s in prange(len(x)):
        walk_sample(x[s], table, bias, activation, scores[s], leaves[s], coefs[s], rows[s])
        mix(coefs[s].reshape(-1), rows[s].reshape(-1), table, n_in, y[s])
