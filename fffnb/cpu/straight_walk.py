"""What the nodes on a path are worth: shapes as in `tree_walk` and `tree_backward`."""

from numba import prange

from .jit import Kernel
from .tree_backward import dot_paths
from .tree_mix import activate, follow
from .tree_walk import take_four


@Kernel
def worths(order, chunk, grad_y, table, activation, scores, leaves, found, rows, dots, out):
    """Write act(score) * dot(grad_y, y) of the nodes on the last levels, as many as `out` has.

    `order` (batch,) brings samples together that share rows; `rows` and `dots` have four paths for
    each chunk.
    """
    _, n_trees, depth = scores.shape
    n_levels, start = out.shape[2], table.shape[1] - grad_y.shape[1]
    for c in prange(len(found)):
        q, end = 4 * c, min(len(order), (c + 1) * chunk)
        for i in range(c * chunk, end, 4):
            samples, n = take_four(order, i, end), min(4, end - i)
            for k in range(n):
                follow(samples[k], scores, leaves, False, rows, q + k)
            dot_paths(samples, n, grad_y, table, start, rows, q, dots, found, c)
            for k in range(n):
                s = samples[k]
                for t in range(n_trees):
                    for m in range(n_levels):
                        coef = activate(activation, scores[s, t, depth - n_levels + m])
                        out[s, t, m] = coef * dots[q + k, t * n_levels + m]
