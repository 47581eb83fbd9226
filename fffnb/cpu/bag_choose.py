"""The choice of a bag: scores of all rows, in tiles, and the best or the positive of them.

Shapes: `x` (batch, n_in) and `table` (n_groups * n, ...), whose rows begin with the vectors that
score; rows come in groups of n. `scores` is (batch, n_groups, n), and `bias` has one number for
each row, or is empty. A choice is flat: sample s has the entries from starts[s] to starts[s + 1].
"""

import math

from numba import prange

from .jit import Kernel, helper
from .tree_walk import dot, tile

#: Places from here on are those of NaN, which goes among -∞, behind it.
LATE = 2**61


@Kernel
def score(x, n_parts, table, bias, block, found, scores):
    """Write the scores of all samples; the rows of group g meet part g % n_parts of x alone.

    A thread meets `block` rows with four samples, then with the next four, and has room in a row of
    `found`.
    """
    batch, _, n = scores.shape
    n_in, n_blocks, n_fours = x.shape[1] // n_parts, -(-n // block), -(-batch // 4)
    for item in prange(len(found)):
        g, b, i = item // (n_blocks * n_fours), item // n_fours % n_blocks, item % n_fours * 4
        first, start, m = b * block, g % n_parts * n_in, min(4, batch - i)
        stop = min(n, first + block)
        score_four(x, i, m, start, n_in, table, g, first, stop, found, item, scores)
        if len(bias) > 0:
            for s in range(i, i + m):
                for r in range(first, stop):
                    scores[s, g, r] += bias[g * n + r]


@helper
def score_four(x, i, m, start, n_in, table, g, first, stop, found, item, scores):
    """Write scores[i : i + m, g, first : stop], without bias, of samples i to i + m, at most four.

    The rows meet the n_in numbers of each sample from column `start` on.
    """
    wide, width, row = x.shape[1], table.shape[1], g * scores.shape[2]
    i0, at, r = i * wide + start, item * found.shape[1], first
    i1, i2, i3 = i0 + wide, i0 + 2 * wide, i0 + 3 * wide
    while m == 4 and r + 3 <= stop:
        j = (row + r) * width
        tile(x, i0, i1, i2, i3, table, j, j + width, j + 2 * width, n_in, found, at)
        for k in range(4):
            for q in range(3):
                scores[i + k, g, r + q] = found[item, 3 * k + q]
        r += 3
    for k in range(m):
        for q in range(r, stop):
            scores[i + k, g, q] = dot(table, (row + q) * width, x, i0 + k * wide, n_in)


@Kernel
def count_positive(scores, counts):
    """Write how many scores of each row of `scores` are positive or NaN."""
    for s in prange(len(scores)):
        n = 0
        for r in range(scores.shape[1]):
            n += 0 if scores[s, r] <= 0 else 1
        counts[s] = n


@Kernel
def list_positive(scores, starts, rows, kept):
    """List where the scores of each row of `scores` are positive or NaN, and these scores."""
    for s in prange(len(scores)):
        at, stop = starts[s], starts[s + 1]
        for r in range(scores.shape[1]):
            if at < stop:  # write before it is known: a branch would go wrong half of the time
                rows[at], kept[at] = r, scores[s, r]
                at += 0 if scores[s, r] <= 0 else 1


@Kernel
def choose(scores, n_groups, best, rows):
    """Write the best scores of each row of `scores`, best first, and where they are.

    Row s * n_groups + g of `scores` (batch * n_groups, n) has those of group g; `best` and `rows`
    are (batch * n_groups, k). Of equal scores the first is best, NaN is worst.
    """
    n = scores.shape[1]
    for r in prange(len(best)):
        clear(best, rows, r)
        least = best[r, 0]
        for j in range(n):
            if not scores[r, j] < least:  # most are, once the best of the first have been seen
                offer(scores[r, j], j, best, rows, r)
                least = best[r, 0]
        put_in_order(best, rows, r)
        for e in range(best.shape[1]):
            rows[r, e] += r % n_groups * n


@helper
def ahead(score, place, other, other_place):
    """Return whether a score, which is no NaN, counts for more than another one."""
    return (score > other) | ((score == other) & (place < other_place))  # no branches


@helper
def clear(best, places, r):
    """Fill row r of a choice with what any score is ahead of."""
    for e in range(best.shape[1]):
        best[r, e], places[r, e] = -math.inf, 2 * LATE


@helper
def offer(score, place, best, places, r):
    """Let a score into row r of a choice, a heap whose root is its last, if it is ahead of that."""
    if score != score:
        score, place = best.dtype.type(-math.inf), LATE + place
    if ahead(score, place, best[r, 0], places[r, 0]):
        sift(score, place, best, places, r, best.shape[1])


@helper
def sift(score, place, best, places, r, n):
    """Put a score in the place of the root of a heap of n, and let it find its own."""
    at, child = 0, 1
    while child < n:
        other = min(child + 1, n - 1)
        if ahead(best[r, child], places[r, child], best[r, other], places[r, other]):
            child = other
        if not ahead(score, place, best[r, child], places[r, child]):
            break
        best[r, at], places[r, at] = best[r, child], places[r, child]
        at, child = child, 2 * child + 1
    best[r, at], places[r, at] = score, place


@helper
def put_in_order(best, places, r):
    """Sort the heap of row r, so that the best comes first."""
    for last in range(best.shape[1] - 1, 0, -1):
        score, place = best[r, last], places[r, last]
        best[r, last], places[r, last] = best[r, 0], places[r, 0]
        sift(score, place, best, places, r, last)
    for e in range(best.shape[1]):
        if places[r, e] >= LATE:
            best[r, e], places[r, e] = math.nan, places[r, e] - LATE
