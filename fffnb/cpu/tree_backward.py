"""The backward pass: once over the samples for grad_x, once over the visited rows for the rest.

The visits (sample, tree, level) are listed in the order of the rows they touch, so that each
visited row owns one range of the list and its gradient has one writer. Row r owns the visits
``starts[r] : starts[r + 1]``; `samples`, `slopes` and `coefs` say for a visit which sample came,
the gradient of its score, and act(score).

Shapes as in `tree_walk`; `visits` is the tuple (starts, samples, slopes, coefs).
"""

from numba import prange

from .. import activations
from .jit import Kernel, helper
from .tree_walk import activate, dot, mix
from .update import update_row

derivative = helper(activations.derivative)

#: Pieces into which the visited rows are cut, of about equal work.
N_CHUNKS = 64


@Kernel
def backward_samples(order, grad_y, table, activation, scores, leaves, slopes, coefs, rows, grad_x):
    """Write slopes (the gradient of each score), coefs, rows and grad_x of every sample.

    `order` (batch,) brings samples together that share rows.
    """
    for i in prange(len(order)):
        s = order[i]
        backward_sample(
            grad_y[s],
            table,
            activation,
            scores[s],
            leaves[s],
            slopes[s],
            coefs[s],
            rows[s],
            grad_x[s],
        )


@helper
def backward_sample(grad_y, table, activation, scores, leaves, slopes, coefs, rows, grad_x):
    """Follow the path of one sample, which its leaves tell, and mix grad_x from it."""
    n_trees, depth = scores.shape
    n_nodes = (1 << depth) - 1
    n_in = len(grad_x)
    for t in range(n_trees):
        for level in range(depth):
            node = (1 << level) - 1 + (leaves[t] >> (depth - level))
            row = t * n_nodes + node
            score = scores[t, level]
            slopes[t, level] = dot(table[row], n_in, grad_y) * derivative(activation, score)
            coefs[t, level] = activate(activation, score)
            rows[t, level] = row
    mix(slopes.reshape(-1), rows.reshape(-1), table, 0, grad_x)


@Kernel
def list_visits(leaves, order, sample_slopes, sample_coefs, rows, visits):
    """List the visits row by row and return the number of rows.

    `order` (n_trees, batch) sorts the samples of each tree by leaf, which sorts them by node on
    every level.
    """
    starts, samples, slopes, coefs = visits
    batch, n_trees, depth = sample_slopes.shape
    n_nodes = (1 << depth) - 1
    n_rows = 0
    visit = 0
    for t in range(n_trees):
        for level in range(depth):
            last = -1
            for i in range(batch):
                s = order[t, i]
                node = leaves[s, t] >> (depth - level)
                if node != last:
                    rows[n_rows] = t * n_nodes + (1 << level) - 1 + node
                    starts[n_rows] = visit
                    n_rows += 1
                    last = node
                samples[visit] = s
                slopes[visit] = sample_slopes[s, t, level]
                coefs[visit] = sample_coefs[s, t, level]
                visit += 1
    starts[n_rows] = visit
    return n_rows


@helper
def chunk_start(starts, chunk):
    """Return the first row of a chunk; a row weighs its visits plus one."""
    n_rows = len(starts) - 1
    target = (starts[n_rows] + n_rows) * chunk // N_CHUNKS
    low, high = 0, n_rows
    while low < high:
        middle = (low + high) // 2
        if starts[middle] + middle < target:
            low = middle + 1
        else:
            high = middle
    return low


@helper
def row_gradient(r, x, grad_y, visits, out):
    """Write the gradient [x | y] of the r-th visited row to `out`."""
    starts, samples, slopes, coefs = visits
    first, stop = starts[r], starts[r + 1]
    n_in = x.shape[1]
    mix(slopes[first:stop], samples[first:stop], x, 0, out[:n_in])
    mix(coefs[first:stop], samples[first:stop], grad_y, 0, out[n_in:])


@helper
def gather_chunk(chunk, x, grad_y, visits, targets, out):
    """Write the gradients of one chunk of rows."""
    starts = visits[0]
    for r in range(chunk_start(starts, chunk), chunk_start(starts, chunk + 1)):
        row_gradient(r, x, grad_y, visits, out[targets[r]])


@Kernel
def gather_rows(x, grad_y, visits, targets, out):
    """Write the gradient of each visited row r to out[targets[r]]."""
    for chunk in prange(N_CHUNKS):
        gather_chunk(chunk, x, grad_y, visits, targets, out)


@helper
def update_chunk(chunk, x, grad_y, visits, rows, scratch, table, rule):
    """Update one chunk of rows; `scratch` holds the gradient of the row at hand."""
    starts = visits[0]
    for r in range(chunk_start(starts, chunk), chunk_start(starts, chunk + 1)):
        row_gradient(r, x, grad_y, visits, scratch)
        update_row(table, rows[r], scratch, rule)


@Kernel
def update_visited(x, grad_y, visits, rows, scratch, table, rule):
    """Update each visited row of `table` in place; `scratch` is (N_CHUNKS, n_in + n_out)."""
    for chunk in prange(N_CHUNKS):
        update_chunk(chunk, x, grad_y, visits, rows, scratch[chunk], table, rule)
