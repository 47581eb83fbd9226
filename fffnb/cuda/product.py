"""Products of matrices in tiles: c[m, n] = bias[n] + the sum over i of a[m, i] * b[n, i].

A block goes along a tile of c, panel by panel of what is summed: while its threads multiply one
panel, which lies in shared memory, the next one is on its way to their registers. Each thread holds
some rows and columns of the tile. Every number of c is summed by one thread, in the order of i.

Matrices lie anywhere in flat arrays: their steps say how far it is to the next row and to the next
number of a sum, and, where many products are asked for, to the next matrix.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from numba import cuda

from .launch import KEPT, Call, Kernel
from .simt import BYTES, REAL, SIMULATED, WIDEST, helper, mover, poke, real_of

#: Threads of a block along either side of its tile.
LANES = 2 if SIMULATED else 16

#: Rows and columns that a thread holds, and bytes of a line of its panels: the largest tiles of
#: which there are enough for the device, or the smallest.
TILES = ((8, 64), (4, 128))
ENOUGH = 120

#: Alignment of panels, which the simulator does not know.
ALIGNMENT = None if SIMULATED else WIDEST


class Side(NamedTuple):
    """How kernels see a matrix of a product."""

    kind: str  # of its numbers: that of the product, or what its kernels compute with
    by_row: bool  # the numbers of a row follow each other in memory, else those of a column
    length: int  # numbers of one load, all of one row or of one column


class Steps(NamedTuple):
    """Where the numbers of a matrix lie: number i of row m at start + m * row + i * number.

    The n-th of several matrices begins n % parts * matrix later.
    """

    start: int
    row: int
    number: int
    matrix: int = 0
    parts: int = 1


@functools.lru_cache(KEPT)
def multiply(
    kind: str,
    a: Side,
    b: Side,
    c: Side,
    has_bias: bool,
    shape: tuple[int, int, int],
    n_products: int,
    device: int,
) -> Callable[..., None]:
    """Return run(call, a, b, bias, c, *steps), which writes `n_products` matrices c, made ready.

    `shape` are the rows of a and c, the rows of b and columns of c, and the numbers of a sum. Steps
    are those of a, b and c; `bias` is (n_products, columns of c), of real numbers. Memory of rows
    that are loaded or stored `length` numbers at a time is aligned so, and they are whole.
    """
    held, line = tile_of(shape, n_products)
    kernel, threads, tile = product(kind, a, b, c, has_bias, held, line)
    grid = (-(-shape[0] // tile), -(-shape[1] // tile), n_products)
    start = kernel.bind(device, grid, threads)

    def run(call: Call, a: Any, b: Any, bias: Any, c: Any, *steps: Steps) -> None:
        numbers = [number for each in steps for number in each]
        start(call.stream, a, b, bias, c, *shape, *numbers)

    return run


def tile_of(shape: tuple[int, int, int], n_products: int) -> tuple[int, int]:
    """Return the entry of TILES for a product."""
    for held, line in TILES[:-1]:
        tile = held * LANES
        if -(-shape[0] // tile) * -(-shape[1] // tile) * n_products >= ENOUGH:
            return held, line
    return TILES[-1]


@functools.cache
def panel_movers(kind, side, tile, panel, stride, threads):
    """Return fetch(...) and put(...), which move a panel to a thread's registers and on.

    In shared memory a panel has `panel` lines of `tile` numbers, `stride` apart. What lies beyond
    the matrix is zero. Also return how many numbers a thread holds.
    """
    share = tile * panel // threads
    length, real, by_row = min(side.length, share), REAL[kind], side.by_row
    load, _ = mover(side.kind, length)
    per_line = (panel if by_row else tile) // length

    @helper
    def fetch(matrix, start, row, number, first, n_rows, begin, n_numbers, thread, out):
        for u in range(0, share, length):
            v = u // length * threads + thread
            along, across = v % per_line * length, v // per_line
            m, i = (first + across, begin + along) if by_row else (first + along, begin + across)
            if m < n_rows and i < n_numbers:
                load(matrix, start + m * row + i * number, out, u)
            else:
                for k in range(length):
                    out[u + k] = real(0)

    @helper
    def put(values, room, base, thread):
        for u in range(0, share, length):
            v = u // length * threads + thread
            along, across = v % per_line * length, v // per_line
            for k in range(length):
                if by_row:
                    poke(room, base + (along + k) * stride + across, values[u + k])
                else:
                    poke(room, base + across * stride + along + k, values[u + k])

    return fetch, put, share


@functools.cache
def product(kind, a, b, c, has_bias, held, line):
    """Return the kernel of `multiply`, the threads of a block and the side of its tile."""
    lanes, threads, tile, real = LANES, LANES * LANES, LANES * held, REAL[kind]
    size = BYTES[real_of(kind)]
    wide = min(held, WIDEST // size)  # numbers of one load from shared memory
    panel, stride = line // size, tile + wide
    fetch_a, put_a, share_a = panel_movers(kind, a, tile, panel, stride, threads)
    fetch_b, put_b, share_b = panel_movers(kind, b, tile, panel, stride, threads)
    load, _ = mover(real_of(kind), wide)
    length = min(c.length, wide)
    _, store = mover(c.kind, length)
    of_b, whole, n_room, n_sums = panel * stride, 2 * panel * stride, 4 * panel * stride, held**2
    aligned = ALIGNMENT

    def body(
        a,
        b,
        bias,
        c,
        n_rows,
        n_columns,
        n_numbers,
        a_start,
        a_row,
        a_number,
        a_matrix,
        a_parts,
        b_start,
        b_row,
        b_number,
        b_matrix,
        b_parts,
        c_start,
        c_row,
        c_number,
        c_matrix,
        c_parts,
    ):
        room = cuda.shared.array(n_room, real, aligned)
        next_a = cuda.local.array(share_a, real)
        next_b = cuda.local.array(share_b, real)
        left = cuda.local.array(held, real)
        right = cuda.local.array(held, real)
        sums = cuda.local.array(n_sums, real)
        thread, z = cuda.threadIdx.x, cuda.blockIdx.z
        first, other = cuda.blockIdx.x * tile, cuda.blockIdx.y * tile
        own, across = thread // lanes * wide, thread % lanes * wide
        a_start += z % a_parts * a_matrix
        b_start += z % b_parts * b_matrix
        c_start += z % c_parts * c_matrix
        for j in range(n_sums):
            sums[j] = real(0)
        fetch_a(a, a_start, a_row, a_number, first, n_rows, 0, n_numbers, thread, next_a)
        fetch_b(b, b_start, b_row, b_number, other, n_columns, 0, n_numbers, thread, next_b)
        put_a(next_a, room, 0, thread)
        put_b(next_b, room, of_b, thread)
        cuda.syncthreads()
        base = 0
        for at in range(panel, n_numbers + panel, panel):
            if at < n_numbers:
                fetch_a(a, a_start, a_row, a_number, first, n_rows, at, n_numbers, thread, next_a)
                fetch_b(
                    b, b_start, b_row, b_number, other, n_columns, at, n_numbers, thread, next_b
                )
            for i in range(panel):
                begin = base + i * stride
                for j in range(0, held, wide):
                    load(room, begin + j * lanes + own, left, j)
                    load(room, begin + of_b + j * lanes + across, right, j)
                for j in range(held):
                    for k in range(held):
                        sums[j * held + k] = cuda.fma(left[j], right[k], sums[j * held + k])
            base = whole - base
            if at < n_numbers:
                put_a(next_a, room, base, thread)
                put_b(next_b, room, base + of_b, thread)
            cuda.syncthreads()
        for j in range(held):
            m = first + j // wide * wide * lanes + own + j % wide
            for k in range(0, held, length):
                n = other + k // wide * wide * lanes + across + k % wide
                if m < n_rows and n < n_columns:
                    if has_bias:
                        for i in range(length):
                            sums[j * held + k + i] += bias[z * n_columns + n + i]
                    store(c, c_start + m * c_row + n * c_number, sums, j * held + k)

    words = ["stored" if side.kind == kind else "real" for side in (a, b, c)]
    signature = (words[0], words[1], "real", words[2], *["int"] * 18)
    return Kernel(body, kind, signature), threads, tile
