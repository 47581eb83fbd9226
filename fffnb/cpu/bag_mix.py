"""What follows from a choice of rows: their mix, the gradients of their scores, and their own.

A choice is flat: sample s has the entries from starts[s] to starts[s + 1], each of which names a
row of `table` and has a score. `coefs` and `rows` (1, n_entries) are paths as `tree_mix` takes
them.
"""

from numba import prange

from .jit import Kernel
from .tree_backward import derivative
from .tree_mix import activate, mix
from .tree_walk import dots, take_four


@Kernel
def mix_chosen(starts, rows, scores, activation, coefs, table, start, out):
    """Write the sum of act(score) * row of each sample, from column `start` of the rows on."""
    width = out.shape[1]
    for s in prange(len(out)):
        first, end = starts[s], starts[s + 1]
        for e in range(first, end):
            coefs[0, e] = activate(activation, scores[e])
        mix(coefs, 0, rows, 0, first, end, table, start, width, out, s * width, True)
        if first == end:
            for j in range(width):
                out[s, j] = 0


@Kernel
def dot_chosen(starts, rows, scores, activation, chunk, found, grad_y, table, slopes, coefs):
    """Write the gradient of the score of each entry, and act(score).

    The rows of `table` end in the y vectors; `rows` has one axis. A thread takes `chunk` samples at
    a time, and has room in a row of `found`.
    """
    batch, wide = grad_y.shape
    width = table.shape[1]
    start = width - wide
    for c in prange(len(found)):
        at = c * found.shape[1]
        for s in range(c * chunk, min(batch, (c + 1) * chunk)):
            i, end = s * wide, starts[s + 1]
            for e in range(starts[s], end, 4):
                r0, r1, r2, r3 = take_four(rows, e, end)
                j0, j1 = r0 * width + start, r1 * width + start
                j2, j3 = r2 * width + start, r3 * width + start
                dots(grad_y, i, i, i, i, table, j0, j1, j2, j3, wide, found, at)
                for k in range(min(4, end - e)):
                    score = scores[e + k]
                    slopes[e + k] = found[c, k] * derivative(activation, score)
                    coefs[e + k] = activate(activation, score)


@Kernel
def sum_rows(x, grad_y, samples, x_weights, y_weights, starts, bounds, chunk, reached, places, out):
    """Write the weighted sums [x | grad_y] of the samples of each row r to out[places[r]].

    Row r has the samples from starts[r] to starts[r + 1] of `samples` (1, n_entries), ascending,
    with weights like that. A thread takes the rows from one of `bounds` to the next, and goes
    through the batch by `chunk` samples, few enough for the second-level cache, for all of them;
    `reached` notes how far each row has come.
    """
    batch, n_in = x.shape
    n_out, width = grad_y.shape[1], out.shape[1]
    for item in prange(len(bounds) - 1):
        first, last = bounds[item], bounds[item + 1]
        for r in range(first, last):
            reached[r] = starts[r]
        for c in range(0, batch, chunk):
            for r in range(first, last):
                i, at, fresh = reached[r], places[r] * width, reached[r] == starts[r]
                j = i
                while j < starts[r + 1] and samples[0, j] < c + chunk:
                    j += 1
                if j > i:
                    mix(x_weights, 0, samples, 0, i, j, x, 0, n_in, out, at, fresh)
                    mix(y_weights, 0, samples, 0, i, j, grad_y, 0, n_out, out, at + n_in, fresh)
                reached[r] = j
