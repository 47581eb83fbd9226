"""Sorting the samples of a batch by the leaves that they end in.

A sample's key is its leaf, then its number: keys are unique, so every correct sort of them is
stable. Blocks sort tiles of keys in shared memory; runs of sorted tiles are merged many at once,
each key finding its place in every other run of its group by bisection.

Keys are flat (n_trees, batch) arrays of int64: ``leaf << 32 | sample``.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import cuda, int64

from .launch import Call, Kernel
from .simt import peek, poke

#: Keys of a tile, of a small batch and of a large one; runs that are merged at once, and those in
#: which one thread looks for its key; keys that a block merges.
SMALL, LARGE = 128, 512
GROUP, TURNS = 32, 4
MERGED = 32

#: Keys above which more but shorter searches take less time, and the runs that are merged then.
MANY, FEW_RUNS = 32_768, 4

LAST = np.iinfo(np.int64).max
SAMPLE = (1 << 32) - 1


@functools.cache
def sort_tiles(tile):
    """Return the kernel that sorts tiles of the batch, by a bitonic network."""
    threads, last = tile // 2, LAST

    def body(leaves, keys, batch, n_trees, last_leaf):
        room = cuda.shared.array(tile, int64)
        thread, t = cuda.threadIdx.x, cuda.blockIdx.y
        first = cuda.blockIdx.x * tile
        for i in range(thread, tile, threads):
            sample = first + i
            key = int64(last)
            if sample < batch:
                leaf = leaves[sample * n_trees + t] & last_leaf
                key = int64(leaf) << 32 | sample
            poke(room, i, key)
        cuda.syncthreads()
        size = 2
        while size <= tile:
            distance = size // 2
            while distance > 0:
                i = 2 * thread - (thread & (distance - 1))
                low, high = peek(room, i), peek(room, i + distance)
                if (low > high) == ((i & size) == 0):
                    poke(room, i, high)
                    poke(room, i + distance, low)
                cuda.syncthreads()
                distance //= 2
            size *= 2
        for i in range(thread, tile, threads):
            if first + i < batch:
                keys[t * batch + first + i] = peek(room, i)

    return Kernel(body, "float32", ("int32", "int64", "int", "int", "int"))


@functools.cache
def merge_runs(group, n_keys, turns):
    """Return the kernel that merges groups of sorted runs of `run` keys."""
    n_lanes = group // turns
    threads = n_lanes * n_keys

    def body(keys, merged, run, batch):
        places = cuda.shared.array(n_keys, int64)
        thread, start = cuda.threadIdx.x, cuda.blockIdx.y * batch
        own = thread % n_keys  # neighbours look for keys that are close to each other
        i = cuda.blockIdx.x * n_keys + own
        if thread < n_keys:
            places[thread] = 0
        cuda.syncthreads()
        if i < batch:
            key, smaller = keys[start + i], int64(0)
            first = i // run // group * group
            for other in range(first + thread // n_keys, first + group, n_lanes):
                low = min(batch, other * run)
                high = min(batch, low + run)
                begin = low
                while low < high:
                    middle = (low + high) // 2
                    if keys[start + middle] < key:
                        low = middle + 1
                    else:
                        high = middle
                smaller += low - begin
            cuda.atomic.add(places, own, smaller)
        cuda.syncthreads()
        if thread < n_keys and i < batch:
            merged[start + i // run // group * group * run + places[own]] = keys[start + i]

    return Kernel(body, "float32", ("int64", "int64", "int", "int")), threads


def sort_by_leaf(batch: int, n_trees: int, last_leaf: int, device: int) -> Callable[..., Any]:
    """Return run(call, leaves), which returns the keys of all trees, sorted.

    Leaves count from 0 to 2**depth - 1, `last_leaf`.
    """
    tile, n_keys = SMALL if batch <= SMALL else LARGE, n_trees * batch
    tiles = sort_tiles(tile).bind(device, (-(-batch // tile), n_trees, 1), tile // 2)
    group, turns = (GROUP, TURNS) if batch <= MANY else (FEW_RUNS, 1)
    kernel, threads = merge_runs(group, MERGED, turns)
    merge = kernel.bind(device, (-(-batch // MERGED), n_trees, 1), threads)

    def run(call: Call, leaves: Any) -> Any:
        keys = call.take(n_keys, "int64")
        tiles(call.stream, leaves, keys, batch, n_trees, last_leaf)
        length = tile
        while length < batch:
            merged = call.take(n_keys, "int64")
            merge(call.stream, keys, merged, length, batch)
            keys, length = merged, length * group
        return keys

    return run
