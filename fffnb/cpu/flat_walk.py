"""The scores of the flat form: four samples meet three planes in one tile.

Shapes as in `tree_walk`, but that `planes` (n_trees * depth, n_in) has one row for each level of
each tree, and `bias` one number.
"""

from numba import prange

from .jit import Kernel
from .tree_backward import dot_paths
from .tree_mix import take_all
from .tree_walk import turn


@Kernel
def descend(x, planes, bias, chunk, found, coefs, rows, scores, leaves):
    """Write scores and leaves of every sample."""
    batch, n_trees, depth = scores.shape
    for c in prange(len(found)):
        q, end = 4 * c, min(batch, (c + 1) * chunk)
        take_all(rows, q)
        for i in range(c * chunk, end, 4):
            samples, n = (i, i + 1, i + 2, i + 3), min(4, end - i)
            dot_paths(samples, n, x, planes, 0, rows, q, coefs, found, c)
            for k in range(n):
                for t in range(n_trees):
                    leaves[i + k, t] = 0
                    for level in range(depth):
                        r = t * depth + level
                        turn(coefs[q + k, r], bias, r, t, level, i + k, scores, leaves)
