"""Listing the rows of a forest that a batch visits."""

import functools

from numba import cuda, int64

from .launch import Kernel
from .paths import paths_of

#: Threads of a block, a power of two, and samples that each takes in turn.
BLOCK, SHARE = 1024, 8


@functools.cache
def number_runs(rows, block):
    """Return the kernel that numbers the `rows` of each tree and level, and counts them.

    `slots` (n_trees, depth, batch) receives the number of the row that each sample visits, in the
    order of the keys, `counts` (n_trees, depth) how many rows there are.
    """
    (shift_of, _), share = paths_of(rows), SHARE

    def body(keys, slots, counts, batch, depth):
        room = cuda.shared.array(block, int64)
        thread, level, t = cuda.threadIdx.x, cuda.blockIdx.x, cuda.blockIdx.y
        shift, start = 32 + shift_of(depth, level), t * batch
        at = (t * depth + level) * batch
        running = int64(0)
        for begin in range(0, batch, block * share):
            first, before, new = begin + thread * share, int64(-1), int64(0)
            if 0 < first < batch:
                before = keys[start + first - 1] >> shift
            last = before
            for i in range(first, min(first + share, batch)):
                node = keys[start + i] >> shift
                new += 1 if node != last else 0
                last = node
            room[thread] = new
            cuda.syncthreads()
            distance = 1
            while distance < block:
                more = int64(0)
                if thread >= distance:
                    more = room[thread - distance]
                cuda.syncthreads()
                room[thread] += more
                cuda.syncthreads()
                distance *= 2
            slot = running + room[thread] - new - 1
            for i in range(first, min(first + share, batch)):
                node = keys[start + i] >> shift
                slot += 1 if node != before else 0
                slots[at + i] = slot
                before = node
            running += room[block - 1]
            cuda.syncthreads()
        if thread == 0:
            counts[t * depth + level] = running

    return Kernel(body, "float32", ("int64", "int64", "int64", "int", "int"))


@functools.cache
def list_rows(rows, block):
    """Return the kernel that makes numbers count through the forest, and lists the `rows`.

    The list ends with -1 for each place that the visits leave; `count` receives its length
    without them. Rows of nodes ascend level by level, those of patterns leaf by leaf.
    """
    (shift_of, row_of), patterns = paths_of(rows), rows == "patterns"

    def body(keys, slots, counts, listed, count, batch, depth, n_places):
        level, t = cuda.blockIdx.y, cuda.blockIdx.z
        i = cuda.blockIdx.x * block + cuda.threadIdx.x
        base, total = int64(0), int64(0)
        before = t * depth if patterns else t * depth + level
        for k in range(cuda.gridDim.z * depth):
            if k < before:
                base += counts[k]
            total += counts[k]
        if i < batch:
            shift, start = 32 + shift_of(depth, level), t * batch
            at = (t * depth + level) * batch + i
            slot = base + (slots[at] * depth + level if patterns else slots[at])
            slots[at] = slot
            place = keys[start + i] >> shift
            if i == 0 or keys[start + i - 1] >> shift != place:
                listed[slot] = row_of(t, depth, level, place)
            if level == 0 and t == 0 and i == 0:
                count[0] = total
        n_threads = cuda.gridDim.x * cuda.gridDim.y * cuda.gridDim.z * block
        block_number = (t * cuda.gridDim.y + level) * cuda.gridDim.x + cuda.blockIdx.x
        for place in range(total + block_number * block + cuda.threadIdx.x, n_places, n_threads):
            listed[place] = -1

    return Kernel(
        body,
        "float32",
        ("int64", "int64", "int64", "int64", "int64", "int", "int", "int"),
    )


@functools.cache
def count_visits(rows, block):
    """Return the kernel that adds one to the steps of each visited one of `rows`."""
    shift_of, row_of = paths_of(rows)

    def body(keys, steps, batch, depth):
        level, t = cuda.blockIdx.y, cuda.blockIdx.z
        i = cuda.blockIdx.x * block + cuda.threadIdx.x
        if i < batch:
            shift, start = 32 + shift_of(depth, level), t * batch
            place = keys[start + i] >> shift
            if i == 0 or keys[start + i - 1] >> shift != place:
                steps[row_of(t, depth, level, place)] += 1

    return Kernel(body, "float32", ("int64", "int64", "int", "int"))
