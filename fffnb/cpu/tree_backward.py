"""The backward pass: first over the samples for grad_x, then over their rows.

The gradient of a visited row is the sum of its samples, weighted by the gradient of the score (the
part of x) or by act(score) (the part of y). In the order of the leaves the samples of every row of
a tree are adjacent, on every level. Chunks of samples, few enough for the second-level cache, sum
the rows of all levels; what several chunks share is summed last, in their order.

Shapes as in `tree_walk`; `order` (n_trees, batch) sorts the samples of each tree by leaf, `slopes`
and `coefs` (batch, n_trees, depth) are the two weights, `parts` (n_trees, n_chunks, depth, 2,
n_in + n_out) holds the sums for the first and the last row of each chunk and level.
"""

from numba import prange

from .. import activations
from .jit import Kernel, helper
from .simd import broadcast, lanes, outer, zeros
from .tree_sweep import follow, mix_four
from .tree_walk import activate, dot, load4, mix, store4, tile
from .update import copy, update_row

derivative = helper(activations.derivative)


@Kernel
def backward_samples(
    order, chunk, grad_y, table, activation, scores, leaves, slopes, coefs, rows, found, grad_x
):
    """Write slopes (the gradient of each score), coefs and grad_x of every sample.

    `order` (batch,) brings samples together that share rows; `rows` (n_chunks, 4, n_trees * depth),
    and `found` (n_chunks, 5, n_trees * depth + 12) are scratch.
    """
    batch, n_trees, depth = scores.shape
    n_in = grad_x.shape[1]
    for c in prange(len(rows)):
        at, gradient = rows[c], found[c, :4, : rows.shape[2]]
        for i in range(c * chunk, min(batch, (c + 1) * chunk), 4):
            n = min(4, batch - i)
            for q in range(n):
                s = order[i + q]
                follow(leaves[s], depth, at[q])
            if n == 4:
                s0, s1, s2, s3 = order[i], order[i + 1], order[i + 2], order[i + 3]
                dot_four(
                    at,
                    table,
                    n_in,
                    grad_y[s0],
                    grad_y[s1],
                    grad_y[s2],
                    grad_y[s3],
                    gradient,
                    found[c, 4],
                )
            else:
                for q in range(n):
                    for k in range(at.shape[1]):
                        gradient[q, k] = dot(table[at[q, k]], n_in, grad_y[order[i + q]])
            for q in range(n):
                s = order[i + q]
                for t in range(n_trees):
                    for level in range(depth):
                        k, score = t * depth + level, scores[s, t, level]
                        gradient[q, k] *= derivative(activation, score)
                        slopes[s, t, level] = gradient[q, k]
                        coefs[s, t, level] = activate(activation, score)
            if n == 4:
                mix_four(gradient, at, table, 0, grad_x[s0], grad_x[s1], grad_x[s2], grad_x[s3])
            else:
                for q in range(n):
                    mix(gradient[q], at[q], table, 0, grad_x[order[i + q]])


@helper
def dot_four(rows, table, start, x0, x1, x2, x3, out, found):
    """Write dot(table[rows[q, k]], start, x_q) to out[q, k]."""
    k = 0
    while k < rows.shape[1]:
        if k + 2 < rows.shape[1] and same(rows, k) and same(rows, k + 1) and same(rows, k + 2):
            row0, row1, row2 = table[rows[0, k]], table[rows[0, k + 1]], table[rows[0, k + 2]]
            tile(x0, x1, x2, x3, row0[start:], row1[start:], row2[start:], found)
            for q in range(4):
                for r in range(3):
                    out[q, k + r] = found[3 * q + r]
            k += 3
        else:
            out[0, k] = dot(table[rows[0, k]], start, x0)
            out[1, k] = dot(table[rows[1, k]], start, x1)
            out[2, k] = dot(table[rows[2, k]], start, x2)
            out[3, k] = dot(table[rows[3, k]], start, x3)
            k += 1


@helper
def same(rows, k):
    """Return whether four samples share their k-th row."""
    return rows[0, k] == rows[1, k] and rows[0, k] == rows[2, k] and rows[0, k] == rows[3, k]


@Kernel
def list_rows(leaves, order, chunk, slopes, rows, bias, slots):
    """List the visited rows in ascending order and return their number.

    Write to bias[r] the gradient of the bias of the r-th, and to slots[t, c, level] which of them
    the first sample of chunk c visits.
    """
    n_trees, _, depth = slots.shape
    n_rows = 0
    for t in range(n_trees):
        for level in range(depth):
            last = -1
            for i in range(order.shape[1]):
                s = order[t, i]
                node = leaves[s, t] >> (depth - level)
                if node != last:
                    rows[n_rows] = t * ((1 << depth) - 1) + (1 << level) - 1 + node
                    bias[n_rows] = 0
                    n_rows += 1
                    last = node
                bias[n_rows - 1] += slopes[s, t, level]
                if i % chunk == 0:
                    slots[t, i // chunk, level] = n_rows - 1
    return n_rows


@Kernel
def step_chunks(x, grad_y, order, chunk, leaves, slopes, coefs, slots, scratch, parts, table, rule):
    """Step the rows of `table` whose visits lie in one chunk; write the rest to `parts`.

    The gradient of a row is [x | y]. `slots`, from `list_rows`, tells the rows of `table`; if it is
    empty, `table` has a row for every node. `scratch` is (n_trees, n_chunks, 4, n_in + n_out).
    """
    n_trees, n_chunks = parts.shape[:2]
    for item in prange(n_trees * n_chunks):
        t, c = item // n_chunks, item % n_chunks
        slot = slots[t, c] if slots.size > 0 else slots[:0, 0, 0]
        work = (x, grad_y, slopes[:, t], coefs[:, t], scratch[t, c])
        step_chunk(
            work, t, c * chunk, chunk, order[t], leaves[:, t], slot, parts[t, c], table, rule
        )


@helper
def step_chunk(sums, t, begin, chunk, order, leaves, slot, parts, table, rule):
    """Do the part of `step_chunks` for the chunk from `begin` on."""
    gradients, depth = sums[4], sums[2].shape[1]
    end = min(len(order), begin + chunk)
    first, last = leaves[order[begin]], leaves[order[end - 1]]
    level = 0
    while level + 3 < depth and (first ^ last) >> (depth - level - 3) == 0:  # the same four rows
        sum_four_levels(sums, order[begin:end], level)
        for k in range(4):
            deliver(
                gradients[k],
                t,
                level + k,
                0,
                begin,
                end,
                begin,
                end,
                order,
                leaves,
                slot,
                parts,
                table,
                rule,
            )
        level += 4
    for deep in range(level, depth):
        i, run = begin, 0
        while i < end:
            node = leaves[order[i]] >> (depth - deep)
            j = i + 1
            while j < end and leaves[order[j]] >> (depth - deep) == node:
                j += 1
            sum_level(sums, order[i:j], deep)
            deliver(
                gradients[0],
                t,
                deep,
                run,
                i,
                j,
                begin,
                end,
                order,
                leaves,
                slot,
                parts,
                table,
                rule,
            )
            i, run = j, run + 1


@helper
def sum_level(sums, samples, level):
    """Write the sum over `samples` for the row of one level to the first row of scratch."""
    x, grad_y, slopes, coefs, out = sums
    n_in = x.shape[1]
    sum_samples(slopes, level, samples, x, out[0, :n_in])
    sum_samples(coefs, level, samples, grad_y, out[0, n_in:])


@helper
def sum_samples(weights, level, samples, x, out):
    """Write the sum of weights[s, level] * x[s] over `samples`."""
    n = len(out)
    for j in range(0, n, 4 * lanes(out)):
        total = zeros(out, 4)
        for s in samples:
            total = outer(total, (broadcast(weights[s, level]),), load4(x[s], j, n - j))
        store4(out, j, n - j, total)


@helper
def sum_four_levels(sums, samples, level):
    """Write the sums over `samples` for the rows of four levels to scratch."""
    x, grad_y, slopes, coefs, out = sums
    n_in = x.shape[1]
    sum_samples_four(slopes, level, samples, x, out[:, :n_in])
    sum_samples_four(coefs, level, samples, grad_y, out[:, n_in:])


@helper
def sum_samples_four(weights, level, samples, x, out):
    """Do what `sum_samples` does, for four levels at once."""
    n = out.shape[1]
    for j in range(0, n, 4 * lanes(out)):
        a0, a1, a2, a3 = zeros(out, 4), zeros(out, 4), zeros(out, 4), zeros(out, 4)
        for s in samples:
            here = load4(x[s], j, n - j)
            a0 = outer(a0, (broadcast(weights[s, level]),), here)
            a1 = outer(a1, (broadcast(weights[s, level + 1]),), here)
            a2 = outer(a2, (broadcast(weights[s, level + 2]),), here)
            a3 = outer(a3, (broadcast(weights[s, level + 3]),), here)
        store4(out[0], j, n - j, a0)
        store4(out[1], j, n - j, a1)
        store4(out[2], j, n - j, a2)
        store4(out[3], j, n - j, a3)


@helper
def deliver(gradient, t, level, run, i, j, begin, end, order, leaves, slot, parts, table, rule):
    """Step the row of samples i to j, or put its gradient by if other chunks visit it, too."""
    shift = len(parts) - level
    node = leaves[order[i]] >> shift
    before = i == begin and i > 0 and leaves[order[i - 1]] >> shift == node
    after = j == end and j < len(order) and leaves[order[j]] >> shift == node
    if before:
        copy(gradient, parts[level, 0])
    elif after:
        copy(gradient, parts[level, 1])
    else:
        row = t * ((1 << len(parts)) - 1) + (1 << level) - 1 + node
        update_row(table, slot[level] + run if len(slot) > 0 else row, gradient, rule)


@Kernel
def step_parts(order, chunk, leaves, slots, parts, table, rule):
    """Step the rows that several chunks visit by the sum of what `step_chunks` put by."""
    n_trees, n_chunks, depth = parts.shape[:3]
    batch = order.shape[1]
    for item in prange(n_trees * n_chunks * depth):
        t, c, level = item // (n_chunks * depth), item // depth % n_chunks, item % depth
        shift = depth - level
        stop = (c + 1) * chunk
        if stop >= batch:
            continue
        node = leaves[order[t, stop - 1], t] >> shift
        begun = c * chunk > 0 and leaves[order[t, c * chunk - 1], t] >> shift == node
        if begun or leaves[order[t, stop], t] >> shift != node:
            continue
        gradient = parts[t, c, level, 1]
        row = t * ((1 << depth) - 1) + (1 << level) - 1 + node
        if slots.size > 0:
            row = slots[t, c + 1, level]
        while stop < batch and leaves[order[t, stop], t] >> shift == node:
            c += 1
            more = parts[t, c, level, 0]
            for k in range(len(gradient)):
                gradient[k] += more[k]
            stop = (c + 1) * chunk
        update_row(table, row, gradient, rule)
