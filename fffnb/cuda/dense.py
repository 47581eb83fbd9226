"""What dense passes are made of: products of whole matrices by `product`, and sums of columns."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from numba import cuda

from .launch import KEPT, Call, Kernel
from .product import Side, Steps, multiply
from .simt import REAL, WIDEST, vector_length

__all__ = ["Steps", "add_up", "matmul"]

#: Threads of a block that sums columns, and rows that one thread sums.
BLOCK, CHUNK = 128, 32


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
    m, n, i = shape
    sides = [
        _side(kind, each, ends, length)
        for each, ends in zip(steps, ((m, i), (n, i), (m, n)), strict=True)
    ]
    n_products = steps[2].parts
    product = multiply(kind, *sides, has_bias, shape, n_products, device)

    def run(call: Call, a: Any, b: Any, c: Any, bias: Any = None) -> None:
        product(call, a, b, c if bias is None else bias, c, *steps)

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
    sizes, starts, kernel = [n_rows], [], sum_chunks(kind)
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
