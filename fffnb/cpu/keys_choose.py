"""The choice of product keys: the best pairs, from the best keys of both halves."""

from numba import prange

from .bag_choose import clear, offer, put_in_order
from .jit import Kernel


@Kernel
def choose_pairs(halves, keys, n_keys, best, rows):
    """Write the best sums of two scores, best first, and the rows i * n_keys + j of their pairs.

    Rows 2 * r and 2 * r + 1 of `halves` and `keys` (2 * n, m) have the m best scores of both
    halves, best first, and their keys; `best` and `rows` are (n, k). The pair of the p-th and the
    q-th best key has (p + 1) * (q + 1) - 1 pairs ahead of it, so that few pairs can be among the
    best k. Of equal sums the one with the better first key is ahead, then with the better second.
    """
    m, k = halves.shape[1], best.shape[1]
    for r in prange(len(best)):
        clear(best, rows, r)
        for p in range(m):
            for q in range(min(m, k // (p + 1))):
                offer(halves[2 * r, p] + halves[2 * r + 1, q], p * m + q, best, rows, r)
        put_in_order(best, rows, r)
        for e in range(k):
            p, q = rows[r, e] // m, rows[r, e] % m
            rows[r, e] = keys[2 * r, p] * n_keys + keys[2 * r + 1, q]
