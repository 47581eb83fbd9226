"""The leaves: samples that came to the same one meet its hidden neurons together.

In the order of the leaves of a tree, four samples in a row mostly have all their rows in common,
which are then loaded once for the four. Where the next leaf begins among them, each goes its way.

Shapes as in `tree_walk`, but that the rows of `table` (n_trees * n_leaves * width, n_in + n_out)
are the hidden neurons of the forest, leaf by leaf, and `scores` (batch, n_trees, width) are theirs:
the path of a sample is the neurons of its leaf. `order` (batch,) sorts the samples by `leaves` of
tree t; a tree after the first adds to what is there.
"""

from numba import prange

from .jit import Kernel, helper
from .tree_backward import derivative, dot_paths, sum_rows
from .tree_mix import activate, mix, mix_paths
from .tree_walk import take_four


@Kernel
def meet(
    t,
    order,
    chunk,
    source,
    table,
    start,
    to,
    back,
    hidden_bias,
    output_bias,
    activation,
    scores,
    leaves,
    found,
    coefs,
    rows,
    slopes,
    weights,
    out,
):
    """Let the samples of tree t meet the neurons of their leaves, on the way forth or `back`.

    Dot products of `source` with the rows, from column `start` on, become coefficients, by which
    the rows, from column `to` on, are mixed to `out`. Forth, `source` is x, the coefficients are
    activations, `out` is y, and the scores are written. Back, they are grad_y, the gradients of the
    scores and grad_x, and `slopes` and `weights` are written: see `go_back`. What only the other
    way takes is empty, as is a bias that there is none of.
    """
    batch, n_trees, width = scores.shape
    for c in prange(len(found)):
        q, end = 4 * c, min(batch, (c + 1) * chunk)
        for i in range(c * chunk, end, 4):
            samples, n = take_four(order, i, end), min(4, end - i)
            follow(samples, n, t, leaves, len(table) // n_trees, rows, q)
            dot_paths(samples, n, source, table, start, rows, q, coefs, found, c)
            for k in range(n):
                s = samples[k]
                if back:
                    visit = t * batch + i + k
                    go_back(s, t, activation, scores, coefs, q + k, slopes, weights, visit)
                else:
                    go_forth(s, t, activation, hidden_bias, rows, coefs, q + k, scores)
            mix_paths(samples, n, coefs, rows, q, table, to, out, False, out, t == 0)
            if len(output_bias) > 0:
                for k in range(n):
                    add_row(output_bias, rows[q + k, 0] // width, out, samples[k])


@helper
def follow(samples, n, t, leaves, n_rows, rows, q):
    """Write the rows of the leaves of the first n of four samples, of n_rows in a tree, from q."""
    width = rows.shape[1]
    for k in range(n):
        first = t * n_rows + leaves[samples[k], t] * width
        for m in range(width):
            rows[q + k, m] = first + m


@helper
def go_forth(s, t, activation, bias, rows, coefs, p, scores):
    """Write the scores of sample s, whose products without bias are path p, and activate it."""
    for m in range(scores.shape[2]):
        score = coefs[p, m]
        if len(bias) > 0:
            score += bias[rows[p, m]]
        scores[s, t, m] = score
        coefs[p, m] = activate(activation, score)


@helper
def go_back(s, t, activation, scores, gradients, p, slopes, weights, visit):
    """Write how a visit, by sample s, counts in the gradients of the rows of its leaf.

    Path p comes as the gradients of the activations and becomes those of the scores. These are also
    written to `slopes` (n_trees * batch, width), the activations to `weights` (n_trees * batch,
    width + 1), of which the last is 1.
    """
    width = scores.shape[2]
    for m in range(width):
        score = scores[s, t, m]
        gradients[p, m] *= derivative(activation, score)
        slopes[visit, m] = gradients[p, m]
        weights[visit, m] = activate(activation, score)
    weights[visit, width] = 1


@helper
def add_row(table, row, out, at):
    """Add one row to another."""
    for j in range(table.shape[1]):
        out[at, j] += table[row, j]


@Kernel
def sum_leaves(x, grad_y, samples, bounds, slopes, weights, places, leaf_rows, output_rows):
    """Write the gradients of hidden neurons and of the biases of outputs, leaf by leaf.

    Visits bounds[g] to bounds[g + 1] of `samples` (1, n_visits) came to the leaf whose gradients
    are number places[g] in `leaf_rows` (n_places * width, n_in + n_out) and `output_rows`
    (n_places, n_out). `slopes` and `weights` are those of `go_back`, transposed.
    """
    width, n_in = len(slopes), x.shape[1]
    n_blocks = width // 4 + 1
    for item in prange(len(places) * n_blocks):
        g, m = item // n_blocks, item % n_blocks * 4
        i, j, row = bounds[g], bounds[g + 1], places[g] * width
        sum_block(x, slopes, m, width, samples, i, j, leaf_rows, row + m, 0)
        sum_block(grad_y, weights, m, width, samples, i, j, leaf_rows, row + m, n_in)
        if m + 4 > width:
            sum_block(grad_y, weights, width, width + 1, samples, i, j, output_rows, places[g], 0)


@helper
def sum_block(x, weights, m, end, samples, i, j, out, row, start):
    """Write the sums of visits i to j by the four weights from m on that there are before `end`.

    They go to the rows of `out` from `row` on, from column `start` on.
    """
    if m + 4 <= end:
        sum_rows(x, weights, m, samples, 0, i, j, start, out, row)
    else:
        for k in range(end - m):
            at = (row + k) * out.shape[1] + start
            mix(weights, m + k, samples, 0, i, j, x, 0, x.shape[1], out, at, True)
