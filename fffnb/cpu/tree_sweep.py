"""The sweep: samples that share nodes go down the trees, and mix their rows, together.

The batch goes down in chunks of samples whose inputs stay in the second-level cache, two levels at
a time: four samples meet a node and both of its children in one pass over their inputs. Between
stages of several levels the batch is put in the order of the nodes reached, so that a chunk always
holds samples of few nodes. In the order of the leaves, four samples in a row share most of the rows
that make their outputs.

Every number is the same bits as in the walk. Shapes as in `tree_walk`; `order` (batch,) names the
samples chunk by chunk, and scratch has a row for each chunk. On its way down, leaves[s, t] is the
place of sample s in its level of tree t.
"""

from numba import prange

from .jit import Kernel, helper
from .simd import (
    broadcast,
    fence,
    inner,
    lanes,
    load,
    load_all,
    load_part,
    load_part_all,
    store,
    store_part,
    stream,
    zeros,
)
from .tree_walk import activate, dot, mix, places2, spread2, tile


@helper
def score_run(x, table, bias, row, left, both, order, i, j, found, c):
    """Score samples i to j of the order at a row, and if `both` at its children, `left` and next.

    The scores of sample i + k, not yet with bias, go to found[c, 3 * k :]; that of the child which
    is not visited may be missing.
    """
    n_in, width, room = x.shape[1], table.shape[1], found.shape[1]
    j0, j1, j2 = row * width, left * width, (left + 1) * width
    for k in range(i, j, 4):
        at = 3 * (k - i)
        if both and k + 2 < j:
            s0, s1, s2, s3 = order[k], order[k + 1], order[k + 2], order[min(k + 3, j - 1)]
            i0, i1, i2, i3 = s0 * n_in, s1 * n_in, s2 * n_in, s3 * n_in
            tile(x, i0, i1, i2, i3, table, j0, j1, j2, n_in, found, c * room + at)
        else:
            for q in range(k, min(k + 4, j)):
                s = order[q]
                score = dot(table, j0, x, s * n_in, n_in)
                found[c, at] = score
                if both:
                    side = 1 if biased(score, bias, row) > 0 else 0
                    found[c, at + 1 + side] = dot(table, j1 + side * width, x, s * n_in, n_in)
                at += 3


@helper
def biased(score, bias, row):
    """Return a score with the bias of its row, if there is any."""
    return score + bias[row] if len(bias) > 0 else score


@helper
def part_run(order, i, j, t, bias, level, place, both, found, c, spare, scores, leaves):
    """Send samples i to j of the order from their place on a level to up to four, and sort them.

    Return how many go to each.
    """
    depth, chunk = scores.shape[2], spare.shape[1] // 4
    row = t * ((1 << depth) - 1) + (1 << level) - 1 + place
    left = row + (1 << level) + place
    n0, n1, n2, n3 = 0, 0, 0, 0
    for k in range(i, j):
        s, at = order[k], 3 * (k - i)
        score = biased(found[c, at], bias, row)
        scores[s, t, level] = score
        right = 1 if score > 0 else 0  # a NaN score goes left
        child = right
        if both:
            score = biased(found[c, at + 1 + right], bias, left + right)
            scores[s, t, level + 1] = score
            child = 2 * right + (1 if score > 0 else 0)
        leaves[s, t] = (4 if both else 2) * place + child
        spare[c, child * chunk + choose(child, n0, n1, n2, n3)] = s
        n0 += child == 0
        n1 += child == 1
        n2 += child == 2
        n3 += child == 3
    at = i
    for child in range(4):
        for k in range(choose(child, n0, n1, n2, n3)):
            order[at] = spare[c, child * chunk + k]
            at += 1
    return n0, n1, n2, n3


@helper
def choose(k, n0, n1, n2, n3):
    """Return the k-th of four numbers."""
    return n0 if k == 0 else n1 if k == 1 else n2 if k == 2 else n3


@helper
def push(runs, c, k, i, j, level, place):
    """Note as the k-th run that samples i to j of the order are at a place of a level."""
    runs[c, k, 0] = i
    runs[c, k, 1] = j
    runs[c, k, 2] = level
    runs[c, k, 3] = place


@Kernel
def descend(x, table, bias, t, first, stop, order, spare, runs, found, scores, leaves):
    """Take every sample down tree t, from level `first`, by which `order` is sorted, to `stop`.

    `spare` (n_chunks, 4 * chunk), `runs` (n_chunks, 4 * depth, 4) and `found` (n_chunks,
    3 * chunk + 16) are scratch.
    """
    batch, chunk, root = len(x), spare.shape[1] // 4, t * ((1 << scores.shape[2]) - 1)
    for c in prange(len(spare)):
        begin, end = c * chunk, min(batch, (c + 1) * chunk)
        while begin < end:
            place, j = leaves[order[begin], t], begin + 1
            while j < end and leaves[order[j], t] == place:
                j += 1
            push(runs, c, 0, begin, j, first, place)
            begin = j
            n_runs = 1
            while n_runs > 0:  # depth first: the inputs of a short run stay in the first cache
                n_runs -= 1
                i, j = runs[c, n_runs, 0], runs[c, n_runs, 1]
                level, place = runs[c, n_runs, 2], runs[c, n_runs, 3]
                row = root + (1 << level) - 1 + place
                left = row + (1 << level) + place
                both = level + 1 < stop
                score_run(x, table, bias, row, left, both, order, i, j, found, c)
                n0, n1, n2, n3 = part_run(
                    order, i, j, t, bias, level, place, both, found, c, spare, scores, leaves
                )
                if level + 2 < stop:
                    for child in range(3, -1, -1):
                        n = choose(child, n0, n1, n2, n3)
                        if n > 0:
                            push(runs, c, n_runs, j - n, j, level + 2, 4 * place + child)
                            n_runs += 1
                        j -= n


@Kernel
def mix_in_order(
    order, chunk, table, activation, scores, leaves, coefs, rows, n_in, room, streamed, y
):
    """Write y of every sample; `coefs` and `rows` hold four paths for each chunk.

    `room` (4 * n_chunks, n_out) is where y rests before it is written past the caches, if
    `streamed`.
    """
    batch = len(order)
    for c in prange(len(rows) // 4):
        q = 4 * c
        end = min(batch, (c + 1) * chunk)
        for i in range(c * chunk, end, 4):
            n = min(4, end - i)  # the next sample may be that of another thread
            for k in range(n):
                follow(order[i + k], scores, leaves, rows, q + k)
                score_path(order[i + k], scores, activation, coefs, q + k)
            mix_paths(order, i, n, coefs, rows, q, table, n_in, room, streamed, y)
        if streamed:
            fence()


@helper
def mix_paths(order, i, n, coefs, rows, q, table, start, room, streamed, out):
    """Write to the row of `out` of each of n samples from order[i] on the mix of its path.

    These are the paths from q on; if `streamed`, the same rows of `room` are where four mixes rest
    before they are written past the caches.
    """
    width, n_rows = out.shape[1], rows.shape[1]
    if n < 4:
        for k in range(n):
            at = order[i + k] * width
            mix(coefs, q + k, rows, q + k, 0, n_rows, table, start, width, out, at, True)
    elif streamed:
        r0, r1, r2, r3 = q * width, (q + 1) * width, (q + 2) * width, (q + 3) * width
        mix_four(coefs, rows, q, n_rows, table, start, width, room, r0, r1, r2, r3)
        for k in range(4):
            stream_row(room, (q + k) * width, width, out, order[i + k] * width)
    else:
        s0, s1, s2, s3 = order[i], order[i + 1], order[i + 2], order[i + 3]
        r0, r1, r2, r3 = s0 * width, s1 * width, s2 * width, s3 * width
        mix_four(coefs, rows, q, n_rows, table, start, width, out, r0, r1, r2, r3)


@helper
def stream_row(room, i, n, out, at):
    """Copy n elements of `room` from i on, whole vectors, past the caches to `out` at `at`."""
    for j in range(0, n, lanes(room)):
        stream(out, at + j, load(room, i + j))


@helper
def follow(s, scores, leaves, rows, q):
    """Write the rows on the path of sample s to path q."""
    _, n_trees, depth = scores.shape
    for t in range(n_trees):
        root, leaf = t * ((1 << depth) - 1), leaves[s, t]
        for level in range(depth):
            rows[q, t * depth + level] = root + (1 << level) - 1 + (leaf >> (depth - level))


@helper
def score_path(s, scores, activation, coefs, q):
    """Write the activations of the scores of sample s to path q."""
    _, n_trees, depth = scores.shape
    for t in range(n_trees):
        for level in range(depth):
            coefs[q, t * depth + level] = activate(activation, scores[s, t, level])


@helper
def same(rows, q, k, n):
    """Return whether the four paths from q on have rows k to k + 3 of n in common."""
    if k + 3 > n:
        return False
    for m in range(k, k + 3):
        row = rows[q, m]
        if rows[q + 1, m] != row or rows[q + 2, m] != row or rows[q + 3, m] != row:
            return False
    return True


@helper
def mix_four(coefs, rows, q, n_rows, table, start, n, out, at0, at1, at2, at3):
    """Do what `mix` does with n_rows rows, for the four paths from q on."""
    k = 0
    while k < n_rows:
        if same(rows, q, k, n_rows):
            mix_tile(coefs, q, rows, q, k, table, start, n, out, at0, at1, at2, at3)
            k += 3
        else:
            end = k + 1
            while end < n_rows and not same(rows, q, end, n_rows):
                end += 1
            mix(coefs, q, rows, q, k, end, table, start, n, out, at0, k == 0)
            mix(coefs, q + 1, rows, q + 1, k, end, table, start, n, out, at1, k == 0)
            mix(coefs, q + 2, rows, q + 2, k, end, table, start, n, out, at2, k == 0)
            mix(coefs, q + 3, rows, q + 3, k, end, table, start, n, out, at3, k == 0)
            k = end


@helper
def mix_tile(coefs, q, rows, p, k, table, start, n, out, at0, at1, at2, at3):
    """Do what `mix` does with rows k to k + 3 of path p, for the four coefs from q on."""
    places = (*places2(rows, p, k, table, start), rows[p, k + 2] * table.shape[1] + start)
    c0, c1 = spread3(coefs, q, k), spread3(coefs, q + 1, k)
    c2, c3 = spread3(coefs, q + 2, k), spread3(coefs, q + 3, k)
    width, zero, fresh = lanes(out), zeros(out, 1)[0], k == 0
    whole = n // width * width
    for j in range(0, whole, width):
        v = load_all(table, places, j)
        store(out, at0 + j, inner(zero if fresh else load(out, at0 + j), c0, v))
        store(out, at1 + j, inner(zero if fresh else load(out, at1 + j), c1, v))
        store(out, at2 + j, inner(zero if fresh else load(out, at2 + j), c2, v))
        store(out, at3 + j, inner(zero if fresh else load(out, at3 + j), c3, v))
    if whole < n:
        j, m = whole, n - whole
        v = load_part_all(table, places, j, m)
        store_part(out, at0 + j, m, inner(zero if fresh else load_part(out, at0 + j, m), c0, v))
        store_part(out, at1 + j, m, inner(zero if fresh else load_part(out, at1 + j, m), c1, v))
        store_part(out, at2 + j, m, inner(zero if fresh else load_part(out, at2 + j, m), c2, v))
        store_part(out, at3 + j, m, inner(zero if fresh else load_part(out, at3 + j, m), c3, v))


@helper
def spread3(coefs, q, k):
    """Return three coefficients as vectors."""
    return (*spread2(coefs, q, k), broadcast(coefs[q, k + 2]))
