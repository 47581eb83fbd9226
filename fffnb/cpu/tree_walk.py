"""The walk: every sample goes down its trees alone, then mixes the rows on its path.

Shapes: `x` (batch, n_in), `table` (n_trees * n_nodes, n_in + n_out), the nodes of the forest as
rows, `bias` (n_trees * n_nodes,) or empty, `scores`, `coefs` and `rows` (batch, n_trees, depth),
`leaves` (batch, n_trees), `y` (batch, n_out).
"""

from numba import prange

from .. import activations
from .jit import Kernel, helper

activate = helper(activations.activate)


@helper
def dot(row, start, vector):
    """Return the dot product of `vector` and as much of `row` from `start`."""
    total = vector.dtype.type(0)
    part = row[start : start + len(vector)]
    for j in range(len(vector)):
        total += part[j] * vector[j]
    return total


@helper
def mix(coefs, rows, table, start, out):
    """Write the sum of coefs[k] * table[rows[k], start : start + len(out)] to `out`."""
    n = len(out)
    stop = start + n
    fours = len(rows) // 4 * 4
    out[:] = 0
    for k in range(0, fours, 4):  # one pass over `out` for four rows
        c0, c1, c2, c3 = coefs[k], coefs[k + 1], coefs[k + 2], coefs[k + 3]
        row0, row1 = table[rows[k], start:stop], table[rows[k + 1], start:stop]
        row2, row3 = table[rows[k + 2], start:stop], table[rows[k + 3], start:stop]
        for j in range(n):
            out[j] += c0 * row0[j] + c1 * row1[j] + c2 * row2[j] + c3 * row3[j]
    for k in range(fours, len(rows)):
        c0 = coefs[k]
        row0 = table[rows[k], start:stop]
        for j in range(n):
            out[j] += c0 * row0[j]


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


@Kernel
def descend(x, table, bias, activation, scores, leaves, coefs, rows):
    """Write scores, leaves, coefs and rows of every sample."""
    for s in prange(len(x)):
        walk_sample(x[s], table, bias, activation, scores[s], leaves[s], coefs[s], rows[s])


@Kernel
def mix_in_order(order, coefs, rows, table, n_in, y):
    """Write y of every sample; `order` (batch,) brings samples together that share rows."""
    for i in prange(len(order)):
        s = order[i]
        mix(coefs[s].reshape(-1), rows[s].reshape(-1), table, n_in, y[s])
