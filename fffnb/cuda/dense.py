"""What dense passes are made of: products of whole matrices by `product`, and sums of columns."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

from numba import cuda

from .launch import KEPT, Call, Kernel
from .product import ENOUGH, LANES, TILES, Side, Steps, multiply
from .simt import REAL, WIDEST, vector_length

__all__ = ["Steps", "add_up", "matmul"]

#: Threads of a block that sums columns, and rows that one thread sums.
BLOCK, CHUNK = 128, 32

#: Terms of a sum that each of several products has at least.
LEAST = 64


@functools.lru_cache(KEPT)
def matmul(
    kind: str,
    shape: tuple[int, int, int],
    steps: tuple[Steps, Steps, Steps],
    device: int,
    *,
    length: int = WIDEST,
    has_bias: bool = False,
) -> Callable[..., None]:
    """Return run(call, a, b, c, bias), which writes c[m, n] = bias[n] + Σ_i a[m, i] · b[n, i].

    `shape` are the ends of m, n and i, `steps` those of a, b and c, whose rows are contiguous and
    of which there may be many. No more than `length` numbers are moved at once.
    """
    of_a, of_b, of_c = steps
    n_parts = parts_of(shape) if of_c.parts == 1 else 1
    if n_parts > 1:
        return _in_parts(kind, shape, steps, device, length, n_parts, has_bias)
    m, n, i = shape
    ends = (of_a, (m, i)), (of_b, (n, i)), (of_c, (m, n))
    sides = [_side(kind, each, end, length) for each, end in ends]
    product = multiply(kind, *sides, has_bias, shape, of_c.parts, device)

    def run(call: Call, a: Any, b: Any, c: Any, bias: Any = None) -> None:
        product(call, a, b, c if bias is None else bias, c, *steps)

    return run


def parts_of(shape: tuple[int, int, int]) -> int:
    """Return how many products share the terms of the sums of one that would not fill a device."""
    (m, n, i), tile = shape, LANES * TILES[-1][0]
    most = min(ENOUGH // (-(-m // tile) * -(-n // tile)), i // LEAST)
    whole = math.gcd(i, 4)  # numbers of one load stay together
    return next((parts for parts in range(most, 1, -1) if i % (parts * whole) == 0), 1)


def _in_parts(
    kind: str,
    shape: tuple[int, int, int],
    steps: tuple[Steps, Steps, Steps],
    device: int,
    length: int,
    n_parts: int,
    has_bias: bool,
) -> Callable[..., None]:
    """Return what `matmul` does, by products that share the terms of the sums."""
    (m, n, i), (of_a, of_b, of_c) = shape, steps
    i //= n_parts
    shares = [each._replace(matrix=i * each.number, parts=n_parts) for each in (of_a, of_b)]
    to_room = Steps(0, n, 1, m * n, n_parts)
    product = matmul(kind, (m, n, i), (*shares, to_room), device, length=length)
    folded = fold(kind, has_bias).bind(device, (-(-n // BLOCK), m, 1), BLOCK)

    def run(call: Call, a: Any, b: Any, c: Any, bias: Any = None) -> None:
        room = call.take(n_parts * m * n, kind)
        product(call, a, b, room)
        folded(call.stream, room, bias if has_bias else room, c, n, n_parts, of_c.start, of_c.row)

    return run


def _side(kind: str, steps: Steps, ends: tuple[int, int], length: int) -> Side:
    """Return how kernels see a matrix of so many rows and numbers in a row."""
    by_row = steps.number == 1
    whole, stride = (ends[1], steps.row) if by_row else (ends[0], steps.number)
    length = min(length, vector_length(kind, steps.start, whole, stride, steps.matrix))
    return Side(kind, by_row, length)


@functools.lru_cache(KEPT)
def add_up(kind: str, n_rows: int, n_columns: int, device: int) -> Callable[..., None]:
    """Return run(call, rows, out), which writes the sums of columns, in the order of the rows."""
    kernel, sizes, starts = sum_chunks(kind), [n_rows], list[Callable[..., None]]()
    while not starts or sizes[-1] > 1:
        sizes.append(-(-sizes[-1] // CHUNK))
        grid = (-(-n_columns // BLOCK), sizes[-1], 1)
        starts.append(kernel.bind(device, grid, BLOCK))

    def run(call: Call, rows: Any, out: Any) -> None:
        for start, n, left in zip(starts, sizes, sizes[1:], strict=False):
            target = out if left == 1 else call.take(left * n_columns, kind)
            start(call.stream, rows, target, n, n_columns)
            rows = target

    return run


@functools.cache
def sum_chunks(kind):
    """Return the kernel that sums the columns of each chunk of rows."""
    real, chunk, threads = REAL[kind], CHUNK, BLOCK

    def body(rows, out, n_rows, n_columns):
        column, first = cuda.blockIdx.x * threads + cuda.threadIdx.x, cuda.blockIdx.y * chunk
        if column < n_columns:
            total = real(0)
            for i in range(first, min(first + chunk, n_rows)):
                total += rows[i * n_columns + column]
            out[cuda.blockIdx.y * n_columns + column] = total

    return Kernel(body, kind, ("real", "real", "int", "int"))


@functools.cache
def fold(kind, has_bias):
    """Return the kernel that writes the sum of matrices and of the bias of each column."""
    real, threads = REAL[kind], BLOCK

    def body(parts, bias, c, n_columns, n_parts, start, row):
        m, n = cuda.blockIdx.y, cuda.blockIdx.x * threads + cuda.threadIdx.x
        if n < n_columns:
            total = real(0)
            if has_bias:
                total += bias[n]
            for k in range(n_parts):
                total += parts[(k * cuda.gridDim.y + m) * n_columns + n]
            c[start + m * row + n] = total

    return Kernel(body, kind, ("real", "real", "real", *["int"] * 4))
