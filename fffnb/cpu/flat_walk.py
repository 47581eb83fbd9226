"""The planes of the flat form: four samples meet three of them in one tile, on the way back too.

Shapes as in `tree_walk`, but that `planes` (n_trees * depth, n_in) has one row for each level of
each tree, and `bias` one number.
"""

from numba import prange

from .jit import Kernel, helper
from .simd import fence
from .tree_backward import dot_paths
from .tree_mix import mix_paths
from .tree_walk import turn


@helper
def take_all(rows, q):
    """Write all rows of a table, in their order, to each of the four paths from q on."""
    for k in range(4):
        for r in range(rows.shape[1]):
            rows[q + k, r] = r


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


@Kernel
def mix_planes(planes, slopes, chunk, coefs, rows, room, streamed, grad_x):
    """Write the mix of all planes by the slopes of each sample to grad_x (batch, n_in)."""
    batch, n_trees, depth = slopes.shape
    for c in prange(len(rows) // 4):
        q, end = 4 * c, min(batch, (c + 1) * chunk)
        take_all(rows, q)
        for i in range(c * chunk, end, 4):
            samples, n = (i, i + 1, i + 2, i + 3), min(4, end - i)
            for k in range(n):
                for t in range(n_trees):
                    for level in range(depth):
                        coefs[q + k, t * depth + level] = slopes[i + k, t, level]
            mix_paths(samples, n, coefs, rows, q, planes, 0, room, streamed, grad_x)
        if streamed:
            fence()
