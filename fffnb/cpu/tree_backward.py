"""The backward pass: first over the samples for grad_x, then over their rows.

The gradient of a visited row is the sum of its samples, weighted by the gradient of the score (the
part of x) or by act(score) (the part of y). In the order of the leaves the samples of every row of
a tree are adjacent, on every level. Chunks of samples, few enough for the second-level cache, sum
the rows of all levels; what several chunks share is summed last, in their order.

Shapes as in `tree_walk`; `order` (n_trees, batch) sorts the samples of each tree by leaf, `ends`
are their leaves in this order, `slopes` and `coefs` (batch, n_trees, depth) are the two weights.
`parts` (n_trees * n_chunks * depth * 2, n_in + n_out) holds the sums for the first and the last row
of each chunk and level. A sum of samples is a mix of rows of x or of grad_y.
"""

from numba import prange

from .. import activations
from .jit import Kernel, helper
from .simd import fence
from .tree_mix import (
    activate,
    follow,
    mix,
    mix_paths,
    mix_tile,
    row_of,
    same,
    shift_of,
)
from .tree_walk import dot, dots, take_four, tile
from .update import copy_row, update_row

derivative = helper(activations.derivative)


@Kernel
def backward_samples(
    order,
    chunk,
    grad_y,
    table,
    patterns,
    activation,
    scores,
    leaves,
    grad_scores,
    slopes,
    coefs,
    rows,
    gradients,
    found,
    room,
    streamed,
    grad_x,
):
    """Write slopes (the gradient of each score), coefs and grad_x of every sample.

    `grad_scores`, shaped like `scores` or empty, is added to the slopes.

    `order` (batch,) brings samples together that share rows; `rows` and `gradients` have four paths
    for each chunk; `patterns` as in `row_of`, `room` and `streamed` as in `mix_paths`.
    """
    batch, n_trees, depth = scores.shape
    n_in = grad_x.shape[1]
    for c in prange(len(found)):
        q, end = 4 * c, min(batch, (c + 1) * chunk)
        for i in range(c * chunk, end, 4):
            samples, n = take_four(order, i, end), min(4, end - i)
            for k in range(n):
                follow(samples[k], scores, leaves, patterns, rows, q + k)
            dot_paths(samples, n, grad_y, table, n_in, rows, q, gradients, found, c)
            for k in range(n):
                s = samples[k]
                for t in range(n_trees):
                    for level in range(depth):
                        r, score = t * depth + level, scores[s, t, level]
                        gradients[q + k, r] *= derivative(activation, score)
                        if len(grad_scores) > 0:
                            gradients[q + k, r] += grad_scores[s, t, level]
                        slopes[s, t, level] = gradients[q + k, r]
                        coefs[s, t, level] = activate(activation, score)
            mix_paths(samples, n, gradients, rows, q, table, 0, room, streamed, grad_x)
        if streamed:
            fence()


@helper
def dot_paths(samples, n, x, table, start, rows, q, out, found, c):
    """Write the dot product of x of sample k with row r of path q + k to out[q + k, r].

    The product is of the part of the row from `start` on, for the first n of four samples.
    """
    width, wide, n_rows = table.shape[1], x.shape[1], rows.shape[1]
    if n < 4:
        for k in range(n):
            for r in range(n_rows):
                j = rows[q + k, r] * width + start
                out[q + k, r] = dot(table, j, x, samples[k] * wide, wide)
        return
    s0, s1, s2, s3 = samples
    i0, i1, i2, i3 = s0 * wide, s1 * wide, s2 * wide, s3 * wide
    r, at = 0, c * found.shape[1]
    while r < n_rows:
        j0 = rows[q, r] * width + start
        if same(rows, q, r, n_rows):
            j1, j2 = rows[q, r + 1] * width + start, rows[q, r + 2] * width + start
            tile(x, i0, i1, i2, i3, table, j0, j1, j2, wide, found, at)
            for k in range(4):
                for m in range(3):
                    out[q + k, r + m] = found[c, 3 * k + m]
            r += 3
        else:
            j1, j2 = rows[q + 1, r] * width + start, rows[q + 2, r] * width + start
            j3 = rows[q + 3, r] * width + start
            dots(x, i0, i1, i2, i3, table, j0, j1, j2, j3, wide, found, at)
            for k in range(4):
                out[q + k, r] = found[c, k]
            r += 1


@Kernel
def list_rows(ends, chunk, patterns, rows, slots):
    """List the visited rows in ascending order and return their number.

    Write to slots[t, c, level] which of them the first sample of chunk c visits.
    """
    n_trees, _, depth = slots.shape
    n_rows = 0
    for t in range(n_trees):
        first = n_rows
        for level in range(depth):
            last, shift = -1, shift_of(level, depth, patterns)
            slot = first + level - depth if patterns else n_rows - 1
            for i in range(ends.shape[1]):
                place = ends[t, i] >> shift
                if place != last:
                    slot += depth if patterns else 1
                    rows[slot] = row_of(t, level, place, depth, patterns)
                    n_rows += 1
                    last = place
                if i % chunk == 0:
                    slots[t, i // chunk, level] = slot
    return n_rows


@Kernel
def sum_bias(ends, order, slopes, bias):
    """Write the gradient of the bias of each row that `list_rows` lists."""
    _, n_trees, depth = slopes.shape
    r = -1
    for t in range(n_trees):
        for level in range(depth):
            last = -1
            for i in range(ends.shape[1]):
                node = ends[t, i] >> (depth - level)
                if node != last:
                    r += 1
                    bias[r] = 0
                    last = node
                bias[r] += slopes[order[t, i], t, level]


@Kernel
def step_chunks(
    x,
    grad_y,
    order,
    ends,
    chunk,
    patterns,
    slopes,
    coefs,
    slots,
    rows,
    x_weights,
    y_weights,
    sums,
    parts,
    table,
    rule,
):
    """Step the rows of `table` whose visits lie in one chunk; write the rest to `parts`.

    The gradient of a row is [x | y]. `slots`, from `list_rows`, tells the rows of `table`; if it is
    empty, `table` has a row for every node. `rows` (n_trees * n_chunks, chunk) are
    samples, the weights have a row for each of them and each level, and `sums` four rows.
    """
    batch, n_trees, depth = slopes.shape
    n_chunks = len(rows) // n_trees
    for item in prange(n_trees * n_chunks):
        t, c = item // n_chunks, item % n_chunks
        begin, end = c * chunk, min(batch, (c + 1) * chunk)
        for i in range(begin, end):
            s = order[t, i]
            rows[item, i - begin] = s
            for level in range(depth):
                x_weights[item * depth + level, i - begin] = slopes[s, t, level]
                y_weights[item * depth + level, i - begin] = coefs[s, t, level]
        first, last = ends[t, begin], ends[t, end - 1]
        level = 0
        while level < depth:
            n_levels, q = 1, item * depth + level
            if level + 3 < depth and (first ^ last) >> shift_of(level + 3, depth, patterns) == 0:
                n_levels = 4  # the chunk has one row on each of these levels
                sum_four(x, x_weights, q, rows, item, end - begin, 0, sums)
                sum_four(grad_y, y_weights, q, rows, item, end - begin, x.shape[1], sums)
            shift = shift_of(level, depth, patterns)
            i, run = begin, 0
            while i < end:
                place = ends[t, i] >> shift
                j = i + 1
                while j < end and ends[t, j] >> shift == place:
                    j += 1
                if n_levels == 1:
                    m, n = i - begin, j - begin
                    sum_run(x, x_weights, q, rows, item, m, n, 0, sums)
                    sum_run(grad_y, y_weights, q, rows, item, m, n, x.shape[1], sums)
                for k in range(n_levels):
                    before, after = i == begin and begin > 0, j == end and end < batch
                    deep = shift_of(level + k, depth, patterns)
                    place = ends[t, i] >> deep
                    before = before and ends[t, begin - 1] >> deep == place
                    after = after and ends[t, end] >> deep == place
                    part = 2 * (item * depth + level + k)
                    if before:
                        copy_row(sums, 4 * item + k, parts, part)
                    elif after:
                        copy_row(sums, 4 * item + k, parts, part + 1)
                    else:
                        row = row_of(t, level + k, place, depth, patterns)
                        if slots.size > 0:
                            row = slots[t, c, level + k] + run * (depth if patterns else 1)
                        update_row(table, row, sums, 4 * item + k, rule)
                i, run = j, run + 1
            level += n_levels


@helper
def sum_four(x, weights, q, samples, item, n, start, sums):
    """Write the sums of n samples by four weights from q on to `sums`, from column `start` on."""
    sum_rows(x, weights, q, samples, item, 0, n, start, sums, 4 * item)


@helper
def sum_rows(x, weights, q, samples, p, i, j, start, out, row):
    """Write the sums of samples i to j of path p by four weights from q on to four rows of `out`.

    The rows are those from `row` on, the columns those from `start` on.
    """
    wide, width = x.shape[1], out.shape[1]
    at = row * width + start
    at1, at2, at3 = at + width, at + 2 * width, at + 3 * width
    whole = i + (j - i) // 3 * 3
    for k in range(i, whole, 3):
        mix_tile(weights, q, samples, p, k, x, 0, wide, out, at, at1, at2, at3, k == i)
    if whole < j:
        for k in range(4):
            to = at + k * width
            mix(weights, q + k, samples, p, whole, j, x, 0, wide, out, to, whole == i)


@helper
def sum_run(x, weights, q, samples, item, i, j, start, sums):
    """Write the sum of samples i to j by weights q to `sums`, from column `start` on."""
    at = 4 * item * sums.shape[1] + start
    mix(weights, q, samples, item, i, j, x, 0, x.shape[1], sums, at, True)


@Kernel
def step_parts(ends, chunk, depth, patterns, slots, parts, table, rule):
    """Step the rows that several chunks visit by the sum of what `step_chunks` put by."""
    n_trees, batch = ends.shape
    n_chunks = len(parts) // (2 * n_trees * depth)
    for item in prange(n_trees * n_chunks * depth):
        t, c, level = item // (n_chunks * depth), item // depth % n_chunks, item % depth
        shift = shift_of(level, depth, patterns)
        stop = (c + 1) * chunk
        if stop >= batch:
            continue
        place = ends[t, stop - 1] >> shift
        begun = c * chunk > 0 and ends[t, c * chunk - 1] >> shift == place
        if begun or ends[t, stop] >> shift != place:
            continue
        total = 2 * item + 1
        row = row_of(t, level, place, depth, patterns)
        if slots.size > 0:
            row = slots[t, c + 1, level]
        while stop < batch and ends[t, stop] >> shift == place:
            c += 1
            part = 2 * ((t * n_chunks + c) * depth + level)
            for k in range(parts.shape[1]):
                parts[total, k] += parts[part, k]
            stop = (c + 1) * chunk
        update_row(table, row, parts, total, rule)
