"""The choice of product keys on the GPU: the best pairs, from the best keys of both halves."""

import functools

import numpy as np
from numba import cuda, int32, int64

from .bag_choose import chooser, room_of
from .launch import Kernel
from .simt import REAL


@functools.cache
def choose_pairs(kind, m, k):
    """Return the kernel that writes the k best sums of two scores, and the rows of their pairs.

    Choices 2 * c and 2 * c + 1 of `halves` and `keys` (2 * n_choices, m) are the m best scores of
    both halves, the best first, and their keys. The pair of the p-th and the q-th best key has
    (p + 1) * (q + 1) - 1 pairs ahead of it, so that few can be among the best k. Of equal sums the
    one with the better first key is ahead, then with the better second.
    """
    (room, threads), real = room_of(k), REAL[kind]
    clear, offer, settle, take = chooser(kind, k)
    pairs = [p * m + q for p in range(m) for q in range(min(m, k // (p + 1)))]
    n_pairs, pairs = len(pairs), np.array(pairs, np.int32)

    def body(halves, keys, best, rows, n_keys):
        kept = cuda.shared.array(room, real)
        places = cuda.shared.array(room, int32)
        end = cuda.shared.array(1, int32)
        listed = cuda.const.array_like(pairs)
        thread, choice = cuda.threadIdx.x, cuda.blockIdx.x
        first, second = 2 * choice * m, (2 * choice + 1) * m
        filled = k
        clear(kept, places, end, thread)
        for begin in range(0, n_pairs, threads):
            i, place, score = begin + thread, int64(0), real(0)
            if i < n_pairs:
                place = int64(listed[i])
                score = halves[first + place // m] + halves[second + place % m]
            filled = offer(score, place, i < n_pairs, filled, kept, places, end, thread)
        settle(kept, places, end, thread)
        for j in range(thread, k, threads):
            score, place = take(kept, places, j)
            best[choice * k + j] = score
            rows[choice * k + j] = keys[first + place // m] * n_keys + keys[second + place % m]

    return Kernel(body, kind, ("real", "int64", "real", "int64", "int")), threads


@functools.cache
def split_rows(kind, block):
    """Return the kernel that lists the keys of chosen rows, as `name_rows` does.

    Sample s chose k rows by each of `n_trees` trees, and its halves, which are samples of their
    own, chose one key for each: `chosen` and `leaves` are (batch, 2, n_trees, k), and so are the
    slopes `both` of their scores. There are two sets of n_keys keys for each tree.
    """

    def body(rows, slopes, chosen, leaves, both, n_entries, n_trees, k, n_keys):
        i = cuda.blockIdx.x * block + cuda.threadIdx.x
        if i < n_entries:
            sample, t = i // (n_trees * k), i // k % n_trees
            at = i + sample * n_trees * k
            first, second = 2 * t * n_keys + rows[i] // n_keys, rows[i] % n_keys
            second += (2 * t + 1) * n_keys
            other = at + n_trees * k
            chosen[at], chosen[other] = first, second
            leaves[at], leaves[other] = 2 * first, 2 * second
            both[at], both[other] = slopes[i], slopes[i]

    words = ("int64", "real", "int64", "int32", "real", "int", "int", "int", "int")
    return Kernel(body, kind, words)
