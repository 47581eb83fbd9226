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
from .simd import broadcast, lanes, outer, zeros
from .tree_walk import activate, dot, load4, mix, store4, tile


@helper
def score_run(x, table, bias, t, level, both, run, scores, leaves, found):
    """Take the samples `run`, which are all at one node, down one level, or `both`."""
    n_nodes = (1 << scores.shape[2]) - 1
    place = leaves[run[0], t]
    row = t * n_nodes + (1 << level) - 1 + place
    left = t * n_nodes + (2 << level) - 1 + 2 * place
    n, last = len(run), len(run) - 1
    for i in range(0, n, 4):
        together = both and i < last
        if together:
            x0, x1 = x[run[i]], x[run[i + 1]]
            x2, x3 = x[run[min(i + 2, last)]], x[run[min(i + 3, last)]]
            tile(x0, x1, x2, x3, table[row], table[left], table[left + 1], found)
        for q in range(min(4, n - i)):
            s = run[i + q]
            score = found[3 * q] if together else dot(table[row], 0, x[s])
            if len(bias) > 0:
                score += bias[row]
            scores[s, t, level] = score
            right = 1 if score > 0 else 0  # a NaN score goes left
            leaves[s, t] = 2 * place + right
            if both:
                child = left + right
                score = found[3 * q + 1 + right] if together else dot(table[child], 0, x[s])
                if len(bias) > 0:
                    score += bias[child]
                scores[s, t, level + 1] = score
                leaves[s, t] = 4 * place + 2 * right + (1 if score > 0 else 0)


@helper
def part_run(run, t, leaves, spare):
    """Put the samples of `run`, now at up to four places, in the order of their places."""
    at = 0
    for child in range(4):
        for i in range(len(run)):
            if leaves[run[i], t] & 3 == child:
                spare[at] = run[i]
                at += 1
    run[:] = spare[: len(run)]


@Kernel
def descend(x, table, bias, t, first, stop, order, spare, found, scores, leaves):
    """Take every sample down tree t, from level `first`, by which `order` is sorted, to `stop`.

    `spare` (n_chunks, chunk) and `found` (n_chunks, 12) are scratch.
    """
    batch, chunk = len(x), spare.shape[1]
    for c in prange(len(spare)):
        samples = order[c * chunk : min(batch, (c + 1) * chunk)]
        level = first
        while level < stop:
            both = level + 1 < stop
            i = 0
            while i < len(samples):
                place = leaves[samples[i], t]
                j = i + 1
                while j < len(samples) and leaves[samples[j], t] == place:
                    j += 1
                run = samples[i:j]
                score_run(x, table, bias, t, level, both, run, scores, leaves, found[c])
                part_run(run, t, leaves, spare[c])
                i = j
            level += 2 if both else 1


@Kernel
def mix_in_order(order, chunk, table, activation, scores, leaves, coefs, rows, n_in, y):
    """Write y of every sample; `coefs` and `rows` (n_chunks, 4, n_trees * depth) are scratch."""
    batch = len(order)
    for c in prange(len(coefs)):
        for i in range(c * chunk, min(batch, (c + 1) * chunk), 4):
            n = min(4, batch - i)
            for q in range(n):
                s = order[i + q]
                follow(leaves[s], scores.shape[2], rows[c, q])
                for k, score in enumerate(scores[s].reshape(-1)):
                    coefs[c, q, k] = activate(activation, score)
            if n == 4:
                s0, s1, s2, s3 = order[i], order[i + 1], order[i + 2], order[i + 3]
                mix_four(coefs[c], rows[c], table, n_in, y[s0], y[s1], y[s2], y[s3])
            else:
                for q in range(n):
                    mix(coefs[c, q], rows[c, q], table, n_in, y[order[i + q]])


@helper
def follow(leaves, depth, rows):
    """Write the rows of the paths of one sample, (n_trees * depth,)."""
    k = 0
    for t in range(len(leaves)):
        root = t * ((1 << depth) - 1)
        for level in range(depth):
            rows[k] = root + (1 << level) - 1 + (leaves[t] >> (depth - level))
            k += 1


@helper
def mix_four(coefs, rows, table, start, out0, out1, out2, out3):
    """Do what `mix` does, for four samples at once."""
    n = len(out0)
    width = 4 * lanes(out0)
    for j in range(0, n, width):
        m = n - j
        a0, a1, a2, a3 = zeros(out0, 4), zeros(out0, 4), zeros(out0, 4), zeros(out0, 4)
        for k in range(coefs.shape[1]):
            r0, r1, r2, r3 = rows[0, k], rows[1, k], rows[2, k], rows[3, k]
            c0, c1 = broadcast(coefs[0, k]), broadcast(coefs[1, k])
            c2, c3 = broadcast(coefs[2, k]), broadcast(coefs[3, k])
            row = load4(table[r0], start + j, m)
            a0 = outer(a0, (c0,), row)
            if r0 == r1 and r0 == r2 and r0 == r3:
                a1, a2, a3 = outer(a1, (c1,), row), outer(a2, (c2,), row), outer(a3, (c3,), row)
            else:
                a1 = outer(a1, (c1,), load4(table[r1], start + j, m))
                a2 = outer(a2, (c2,), load4(table[r2], start + j, m))
                a3 = outer(a3, (c3,), load4(table[r3], start + j, m))
        store4(out0, j, m, a0)
        store4(out1, j, m, a1)
        store4(out2, j, m, a2)
        store4(out3, j, m, a3)
