"""Steps of the rows that a batch visits: the second half of the backward pass of the tree.

The gradient of a row is the sum of its samples, weighted by the gradient of the score, the slope
(the part of x), or by act(score) (the part of y). In the order of the leaves the samples of a row
are adjacent, on every level. A block goes through a chunk of samples once; a thread sums some
columns for the rows of all levels at once, in registers, and steps a row when the last of its
samples has gone by. Rows that several chunks share are summed last, in the order of the chunks.

Shapes as in `tree_walk`; `keys` as in `order`. `parts` (n_trees * n_chunks * depth * 2, width and,
with a bias, one number more, in whole vectors) holds the sums of the first and the last row of each
chunk and level.
"""

import functools

from numba import cuda, int32, int64

from .launch import Kernel
from .layer import FEWEST, Layer
from .order import SAMPLE
from .paths import paths_of
from .simt import BYTES, REAL, helper, mover, peek, poke, real_of
from .tree_walk import activate
from .update import RULE, row_step

#: Threads that share the chunks of a row when parts are summed, if these are more than a few.
PARTS, FEW_PARTS = 8, 256

#: Samples that a thread reads ahead of those that it sums, and the one at hand.
AHEAD = 4

#: Rows that a thread steps at once.
TOGETHER = 4

#: Threads of a block that sums columns, at most.
BLOCK = 256

#: Bytes of shared memory of a block, at most.
SHARED = 45_056


def n_columns(layer: Layer) -> int:
    """Return the columns of a row of parts: those of the nodes, and a vector for the bias."""
    return layer.width + (layer.length if layer.has_bias else 0)


def most_threads(layer: Layer, chunk: int) -> int:
    """Return the threads of a block that goes through a chunk, as far as memory lasts."""
    size = BYTES[real_of(layer.kind)]
    room = SHARED - chunk * (2 * layer.depth * size + 16)  # less weights, samples, leaves
    return min(BLOCK, room // (layer.depth * layer.length * size) // FEWEST * FEWEST)


def fitting_chunk(layer: Layer, chunk: int) -> int:
    """Return the samples of a chunk, less where a deep tree leaves no room for so many."""
    while most_threads(layer, chunk) < FEWEST:
        chunk //= 2
    return chunk


def chunk_columns(layer: Layer, chunk: int) -> tuple[int, int]:
    """Return the blocks that share the columns of a chunk, and the threads of each."""
    vectors = n_columns(layer) // layer.length
    blocks = -(-vectors // most_threads(layer, chunk))
    return blocks, -(-vectors // (blocks * FEWEST)) * FEWEST


@functools.cache
def visits_of(layer, by_slot):
    """Return leaf_of(key), shift_of(level) and row_of(slots, batch, t, level, i, leaf).

    The latter is the row of the i-th sample, as `step_chunks` says; see `paths_of`. Samples that
    share the rows of all levels do so as if all ended in the first leaf.
    """
    depth, shared = layer.depth, layer.rows == "levels"
    shift, row = paths_of(layer.rows)

    @helper
    def leaf_of(key):
        if shared:
            return int64(0)
        return key >> 32

    @helper
    def shift_of(level):
        return shift(depth, level)

    @helper
    def row_of(slots, batch, t, level, i, leaf):
        if by_slot:
            return slots[(t * depth + level) * batch + i]
        return int64(row(t, depth, level, leaf >> shift(depth, level)))

    return leaf_of, shift_of, row_of


@functools.cache
def step_chunks(layer, rule, chunk, by_slot, per):
    """Return the kernel that steps the rows whose visits lie in one chunk.

    The other rows go to `parts`. The gradient of the bias is stored. A visit has the row of `table`
    that its leaf tells, or, `by_slot`, the one that `slots` (n_trees, depth, batch) tells. Of the
    samples `per` that come in turn are one row of x and grad_y.
    """
    load, _ = mover(layer.kind, layer.length)
    read, write = row_step(rule, layer.kind, layer.length)
    _, put_part = mover(real_of(layer.kind), layer.length)
    real, length, width, depth = REAL[layer.kind], layer.length, layer.width, layer.depth
    leaf_of, _, row_of = visits_of(layer, by_slot)
    patterns = layer.rows == "patterns"
    n_in, n_out, mask = layer.n_in, layer.n_out, SAMPLE
    activation, stride = layer.activation, n_columns(layer)
    _, threads = chunk_columns(layer, chunk)
    n_weights, n_sums, n_handed = 2 * chunk * depth, depth * length, depth * length * threads
    ahead, n_values, together = AHEAD, AHEAD * length, TOGETHER
    n_state, n_states = 3 * length, 3 * length * TOGETHER

    @helper
    def first_other(leaf, other):
        """Return the first level on which two leaves have different rows; -1 is no leaf."""
        if leaf < 0 or other < 0 or (patterns and leaf != other):
            return int64(0)
        return max(int64(0), depth - 31 + int64(cuda.clz(int32(leaf ^ other))))

    @helper
    def fetch(x, grad_y, sample, column, values, j):
        if column < n_in:
            load(x, sample * n_in + column, values, j)
        elif column < width:
            load(grad_y, sample * n_out + column - n_in, values, j)

    def body(
        keys,
        slopes,
        scores,
        x,
        grad_y,
        slots,
        parts,
        table,
        bias,
        batch,
        n_trees,
        first,
        second,
        steps,
        n0,
        n1,
        n2,
        n3,
        n4,
    ):
        rule_of = first, second, steps, n0, n1, n2, n3, n4
        weights = cuda.shared.array(n_weights, real)
        samples = cuda.shared.array(chunk, int64)
        leaves = cuda.shared.array(chunk, int64)
        handed = cuda.shared.array(n_handed, real)  # each thread reads what it has written
        values = cuda.local.array(n_values, real)
        gradient = cuda.local.array(length, real)
        sums = cuda.local.array(n_sums, real)
        state = cuda.local.array(n_states, real)
        rows = cuda.local.array(together, int64)
        places = cuda.local.array(together, int64)
        thread, c, t = cuda.threadIdx.x, cuda.blockIdx.x, cuda.blockIdx.z
        column = (cuda.blockIdx.y * threads + thread) * length
        begin, end = c * chunk, min(batch, (c + 1) * chunk)
        for i in range(thread, end - begin, threads):
            key = keys[t * batch + begin + i]
            poke(samples, i, key & mask)
            poke(leaves, i, leaf_of(key))
        cuda.syncthreads()
        for i in range(thread, (end - begin) * depth, threads):
            visit = (peek(samples, i // depth) * n_trees + t) * depth + i % depth
            poke(weights, i, slopes[visit])
            poke(weights, chunk * depth + i, real(activate(activation, scores[visit])))
        cuda.syncthreads()
        if per > 1:
            for i in range(thread, end - begin, threads):
                poke(samples, i, peek(samples, i) // per)
            cuda.syncthreads()
        if column >= stride:
            return
        side = chunk * depth if n_in <= column < width else 0
        for j in range(n_sums):
            sums[j] = real(0)
        for k in range(n_values):
            values[k] = real(1)  # the bias has this input
        for u in range(1, ahead):
            if begin + u - 1 < end:
                fetch(x, grad_y, peek(samples, u - 1), column, values, u * length)
        before = int64(-1)
        if begin > 0:
            before = leaf_of(keys[t * batch + begin - 1])
        last = peek(leaves, 0)
        for i in range(begin, end + 1):
            leaf = int64(-1)
            if i < end:
                leaf = peek(leaves, i - begin)
                for k in range(n_values - length):
                    values[k] = values[k + length]
                if i + ahead - 1 < end:
                    sample = peek(samples, i - begin + ahead - 1)
                    fetch(x, grad_y, sample, column, values, n_values - length)
            elif i < batch:
                leaf = leaf_of(keys[t * batch + i])
            if leaf != last or i == end:
                # From these levels on `last` has another row than the next sample, and than the
                # last one of the chunk before.
                turn = first_other(leaf, last)
                came = first_other(before, last)
                lowest = 0 if i == end else turn
                for level in range(depth):
                    if level >= lowest:
                        for k in range(length):
                            j = level * length + k
                            poke(handed, j * threads + thread, sums[j])
                            sums[j] = real(0)
                for level in range(depth - 1, lowest - 1, -together):
                    for u in range(together):  # all reads first
                        own = level - u
                        if own >= lowest:
                            row = row_of(slots, batch, t, own, i - 1, last)
                            rows[u], places[u] = row, row * width + column
                            if own < came or own < turn:
                                part = ((t * cuda.gridDim.x + c) * depth + own) * 2
                                rows[u] = int64(-1)
                                places[u] = (part + (0 if own < came else 1)) * stride + column
                            elif column < width:
                                read(table, rule_of, places[u], state, u * n_state)
                    for u in range(together):
                        if level - u >= lowest:
                            for k in range(length):
                                j = (level - u) * length + k
                                gradient[k] = peek(handed, j * threads + thread)
                            if rows[u] < 0:
                                put_part(parts, places[u], gradient, 0)
                            elif column >= width:
                                bias[rows[u]] = gradient[0]
                            else:
                                at, row = places[u], rows[u]
                                write(table, rule_of, at, row, gradient, 0, state, u * n_state)
                last = leaf
            if i < end:
                for level in range(depth):
                    weight = peek(weights, side + (i - begin) * depth + level)
                    for k in range(length):
                        sums[level * length + k] += weight * values[k]

    signature = ("int64", "real", "real", "stored", "stored", "int64", "real", "stored", "real")
    return Kernel(body, layer.kind, (*signature, "int", "int", *RULE)), threads


@functools.cache
def step_parts(layer, rule, chunk, by_slot):
    """Return the kernel that steps the rows that several chunks share."""
    load_part, _ = mover(real_of(layer.kind), layer.length)
    read, write = row_step(rule, layer.kind, layer.length)
    real, length, width, depth = REAL[layer.kind], layer.length, layer.width, layer.depth
    (leaf_of, shift_of, row_of), stride = visits_of(layer, by_slot), n_columns(layer)
    shares, few, ahead = PARTS, FEW_PARTS, 2 * AHEAD
    threads = FEWEST * PARTS
    blocks = -(-stride // (threads * layer.length))
    n_room, n_values, n_state = threads * length, ahead * length, 3 * length

    def body(
        keys,
        slots,
        parts,
        table,
        bias,
        batch,
        n_chunks,
        first,
        second,
        steps,
        n0,
        n1,
        n2,
        n3,
        n4,
    ):
        rule_of = first, second, steps, n0, n1, n2, n3, n4
        room = cuda.shared.array(n_room, real)
        values = cuda.local.array(n_values, real)
        sums = cuda.local.array(length, real)
        state = cuda.local.array(n_state, real)
        thread, c, t = cuda.threadIdx.x, cuda.blockIdx.x, cuda.blockIdx.y // depth
        level, stop, start = cuda.blockIdx.y % depth, (c + 1) * chunk, t * batch
        if stop >= batch:
            return
        shift, leaf = shift_of(level), leaf_of(keys[start + stop - 1])
        node = leaf >> shift
        begun = c > 0 and leaf_of(keys[start + c * chunk - 1]) >> shift == node
        if begun or leaf_of(keys[start + stop]) >> shift != node:
            return
        row = row_of(slots, batch, t, level, stop, leaf)
        high = c + 1  # the row goes on to the chunk before this one
        for m in range(c + 1, n_chunks, threads):
            i = m + thread
            on = i < n_chunks and leaf_of(keys[start + min(i * chunk, batch - 1)]) >> shift == node
            n = cuda.syncthreads_count(int32(on))
            high += n
            if n < threads:
                break
        lanes = threads if high - c <= few else threads // shares
        n_shares, lane, own = threads // lanes, thread % lanes, thread // lanes
        for turn in range(0, threads, lanes):
            column = (cuda.blockIdx.z * threads + turn + lane) * length
            for k in range(length):
                sums[k] = real(0)
            if column < stride:
                for i in range(c + own, high, n_shares * ahead):
                    for u in range(ahead):
                        for k in range(length):
                            values[u * length + k] = real(0)
                        at = i + u * n_shares
                        if at < high:
                            part = ((t * n_chunks + at) * depth + level) * 2 + (1 if at == c else 0)
                            load_part(parts, part * stride + column, values, u * length)
                    for u in range(ahead):
                        for k in range(length):
                            sums[k] += values[u * length + k]
            if n_shares > 1:
                cuda.syncthreads()
                for k in range(length):
                    poke(room, k * threads + thread, sums[k])
                cuda.syncthreads()
                for k in range(length):
                    for i in range(1, n_shares):
                        sums[k] += peek(room, k * threads + (i * lanes + thread) % threads)
            if own == 0 and column < stride:
                at = row * width + column
                if column >= width:
                    bias[row] = sums[0]
                else:
                    read(table, rule_of, at, state, 0)
                    write(table, rule_of, at, row, sums, 0, state, 0)

    signature = ("int64", "int64", "real", "stored", "real", "int", "int", *RULE)
    return Kernel(body, layer.kind, signature), threads, blocks
