"""The choice of a bag on the GPU: the best of many scores, and who chose what.

A block takes a row of scores. It keeps room for somewhat more than the k best in shared memory:
what is ahead of the k-th of them is appended, and when the room is full, it is sorted.

Scores are flat (n_choices, n); rows that come in turn are those of the groups of a sample. What is
chosen is (n_choices, k), the best first.
"""

import functools
import math

from numba import cuda, int32, int64

from .launch import Kernel
from .layer import FEWEST
from .simt import REAL, fetch_add, helper, peek, poke

#: The smallest room, and places in it for each thread.
ROOM, SHARE = 2 * FEWEST, 8

#: Nodes that a sample can choose at once: more have no room in shared memory.
MOST_CHOSEN = 1024

#: Scores that a thread reads at once, so that they wait for memory together.
AHEAD = 8

#: Places from here on are those of NaN, which goes among -∞, behind it.
LATE = 2**30

#: No place: all others come before it.
NONE = 2 * LATE - 1

#: Threads of a block that names rows.
BLOCK = 256


def room_of(k: int) -> tuple[int, int]:
    """Return the places of a room for the k best, and the threads that share it."""
    room = ROOM
    while k + max(FEWEST, room // SHARE) > room:
        room *= 2
    return room, max(FEWEST, room // SHARE)


@functools.cache
def chooser(kind, k):
    """Return clear(...), offer(...), settle(...) and take(...) of a room.

    `best` and `places` are its scores and their places; `end[0]` is where the next one is appended.
    All threads call the first three together.
    """
    (room, threads), real, late, none = room_of(k), REAL[kind], LATE, NONE

    @helper
    def ahead(score, place, other, other_place):
        """Return whether a score, which is no NaN, counts for more than another one."""
        return score > other or (score == other and place < other_place)

    @helper
    def clear(best, places, end, thread):
        """Fill a room with what any score is ahead of."""
        for j in range(thread, room, threads):
            poke(best, j, real(-math.inf))
            poke(places, j, int32(none))
        if thread == 0:
            poke(end, 0, int32(k))
        cuda.syncthreads()

    @helper
    def settle(best, places, end, thread):
        """Sort a room, so that the best comes first, and give up those behind the k-th."""
        cuda.syncthreads()
        size = 2
        while size <= room:
            distance = size // 2
            while distance > 0:
                for j in range(thread, room // 2, threads):
                    i = 2 * j - (j & (distance - 1))
                    score, other = peek(best, i), peek(best, i + distance)
                    place, other_place = peek(places, i), peek(places, i + distance)
                    if ahead(other, other_place, score, place) == ((i & size) == 0):
                        poke(best, i, other)
                        poke(best, i + distance, score)
                        poke(places, i, other_place)
                        poke(places, i + distance, place)
                cuda.syncthreads()
                distance //= 2
            size *= 2
        if thread == 0:
            poke(end, 0, int32(k))
        cuda.syncthreads()

    @helper
    def offer(score, place, here, filled, best, places, end, thread):
        """Let each thread that is `here` offer a score; return how full the room is now."""
        if score != score:
            score, place = real(-math.inf), late + place
        good = here and ahead(score, place, peek(best, k - 1), peek(places, k - 1))
        filled += cuda.syncthreads_count(int32(good))
        if good:
            at = fetch_add(end, 0, int32(1))
            poke(best, at, score)
            poke(places, at, int32(place))
        if filled > room - threads:
            settle(best, places, end, thread)
            filled = k
        return filled

    @helper
    def take(best, places, j):
        """Return a score and its place, NaN as it was."""
        place, score = int64(peek(places, j)), peek(best, j)
        if place >= late:
            return real(math.nan), place - late
        return score, place

    return clear, offer, settle, take


@functools.cache
def choose(kind, k):
    """Return the kernel that writes the k best of n scores of each group, and their rows.

    Choice c is one of group c % n_groups, whose n rows follow those of the groups before it. Of
    equal scores the first is best, NaN is worst.

    The k-th of what each thread finds best is not ahead of the k-th of all, and few others are
    ahead of it: where there are k threads, these come first.
    """
    (room, threads), real, none, ahead = room_of(k), REAL[kind], NONE, AHEAD
    (clear, offer, settle, take), few = chooser(kind, k), k <= threads

    def body(scores, best, rows, n, n_groups):
        kept = cuda.shared.array(room, real)
        places = cuda.shared.array(room, int32)
        end = cuda.shared.array(1, int32)
        values = cuda.local.array(ahead, real)
        thread, choice = cuda.threadIdx.x, cuda.blockIdx.x
        start, filled, own, most = choice * n, k, int64(none), real(-math.inf)
        clear(kept, places, end, thread)
        if few:
            for first in range(thread, n, ahead * threads):
                for u in range(ahead):
                    j = first + u * threads
                    values[u] = scores[start + j] if j < n else real(math.nan)
                for u in range(ahead):
                    if values[u] > most or (values[u] == most and own == none):
                        own, most = first + u * threads, values[u]
            filled = offer(most, own, own < none, filled, kept, places, end, thread)
        for first in range(0, n, ahead * threads):
            near = False
            for u in range(ahead):
                j = first + u * threads + thread
                values[u] = scores[start + j] if j < n else real(0)
                near = near or (j < n and j != own and not values[u] < peek(kept, k - 1))
            if cuda.syncthreads_or(int32(near)):
                for begin in range(first, min(n, first + ahead * threads), threads):
                    j, here, score = begin + thread, False, real(0)
                    if j < n and j != own:
                        here, score = True, scores[start + j]  # again: `values` are registers
                    filled = offer(score, j, here, filled, kept, places, end, thread)
        settle(kept, places, end, thread)
        for j in range(thread, k, threads):
            score, place = take(kept, places, j)
            best[choice * k + j] = score
            rows[choice * k + j] = choice % n_groups * n + place

    return Kernel(body, kind, ("real", "real", "int64", "int", "int")), threads


@functools.cache
def name_rows(block):
    """Return the kernel that lists chosen rows for `steps`, as leaves of a tree of one level each.

    What is no row stays within the table.
    """

    def body(rows, chosen, leaves, n_entries, n_rows):
        i = cuda.blockIdx.x * block + cuda.threadIdx.x
        if i < n_entries:
            row = max(int64(0), min(rows[i], n_rows - 1))
            chosen[i] = row
            leaves[i] = 2 * row

    return Kernel(body, "float32", ("int64", "int64", "int32", "int", "int"))
