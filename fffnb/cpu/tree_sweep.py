"""The sweep: samples that share nodes go down the trees, and mix their rows, one after another.

The batch goes down in fours as in the walk, but every few levels it is put in the order of the
nodes reached: rows are then read from the first caches, where the samples just before have left
them. In the order of the leaves, four samples in a row share most of the rows that make their
outputs.

Every number is the same bits as in the walk. Shapes as in `tree_walk`; `order` (batch,) names the
samples.
"""

from numba import prange

from .jit import Kernel
from .simd import fence
from .tree_mix import mix_samples
from .tree_walk import descend, take_four


@Kernel
def descend_in_order(x, table, bias, t, first, stop, order, chunk, found, scores, leaves, closed):
    """Take every sample down tree t from level `first`, by which `order` is sorted, to `stop`.

    `closed` as in `turn`.
    """
    for c in prange(len(found)):
        end = min(len(x), (c + 1) * chunk)
        for i in range(c * chunk, end, 4):
            samples, n = take_four(order, i, end), min(4, end - i)
            descend(x, table, bias, t, first, stop, samples, n, found, c, scores, leaves, closed)


@Kernel
def mix_in_order(
    order, chunk, table, patterns, activation, scores, leaves, coefs, rows, n_in, room, streamed, y
):
    """Write y of every sample.

    `patterns` as in `row_of`, `room` and `streamed` as in `mix_paths`.
    """
    for c in prange(len(rows) // 4):
        end = min(len(order), (c + 1) * chunk)
        for i in range(c * chunk, end, 4):
            mix_samples(
                take_four(order, i, end),
                min(4, end - i),
                table,
                patterns,
                activation,
                scores,
                leaves,
                coefs,
                rows,
                4 * c,
                n_in,
                room,
                streamed,
                y,
            )
        if streamed:
            fence()
