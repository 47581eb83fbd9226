"""Listing the rows of a forest that a batch visits."""

import functools

from numba import cuda, int64

from .launch import Kernel

#: Threads of a block; a power of two.
BLOCK = 1024


@functools.cache
def number_runs(block):
    """Return the kernel that numbers the rows of each tree and level, and counts them.

    `slots` (n_trees, depth, batch) receives the number of the row that each sample visits, in the
    order of the keys, `counts` (n_trees, depth) how many rows there are.
    """

    def body(keys, slots, counts, batch, depth):
        room = cuda.shared.array(block, int64)
        thread, level, t = cuda.threadIdx.x, cuda.blockIdx.x, cuda.blockIdx.y
        shift, start = 32 + depth - level, t * batch
        at = (t * depth + level) * batch
        running = int64(0)
        for first in range(0, batch, block):
            i = first + thread
            new = int64(0)
            if i < batch and (i == 0 or keys[start + i] >> shift != keys[start + i - 1] >> shift):
                new = int64(1)
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
            if i < batch:
                slots[at + i] = running + room[thread] - 1
            running += room[block - 1]
            cuda.syncthreads()
        if thread == 0:
            counts[t * depth + level] = running

    return Kernel(body, "float32", ("int64", "int64", "int64", "int", "int"))


@functools.cache
def list_rows(block):
    """Return the kernel that makes numbers count through the forest, and lists the rows.

    The list ends with -1 for each place that the visits leave; `count` receives its length
    without them.
    """

    def body(keys, slots, counts, rows, count, batch, depth, n_places):
        level, t = cuda.blockIdx.y, cuda.blockIdx.z
        i = cuda.blockIdx.x * block + cuda.threadIdx.x
        base, total = int64(0), int64(0)
        for k in range(cuda.gridDim.z * depth):
            if k < t * depth + level:
                base += counts[k]
            total += counts[k]
        if i < batch:
            shift, start = 32 + depth - level, t * batch
            at = (t * depth + level) * batch + i
            slot = base + slots[at]
            slots[at] = slot
            node = keys[start + i] >> shift
            if i == 0 or keys[start + i - 1] >> shift != node:
                rows[slot] = t * ((1 << depth) - 1) + (1 << level) - 1 + node
            if level == 0 and t == 0 and i == 0:
                count[0] = total
        n_threads = cuda.gridDim.x * cuda.gridDim.y * cuda.gridDim.z * block
        block_number = (t * cuda.gridDim.y + level) * cuda.gridDim.x + cuda.blockIdx.x
        for place in range(total + block_number * block + cuda.threadIdx.x, n_places, n_threads):
            rows[place] = -1

    return Kernel(
        body,
        "float32",
        ("int64", "int64", "int64", "int64", "int64", "int", "int", "int"),
    )


@functools.cache
def count_visits(block):
    """Return the kernel that adds one to the steps of each visited row."""

    def body(keys, steps, batch, depth):
        level, t = cuda.blockIdx.y, cuda.blockIdx.z
        i = cuda.blockIdx.x * block + cuda.threadIdx.x
        if i < batch:
            shift, start = 32 + depth - level, t * batch
            node = keys[start + i] >> shift
            if i == 0 or keys[start + i - 1] >> shift != node:
                steps[t * ((1 << depth) - 1) + (1 << level) - 1 + node] += 1

    return Kernel(body, "float32", ("int64", "int64", "int", "int"))
