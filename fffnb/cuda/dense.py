"""What dense passes are made of: products of whole matrices by `product`, and sums of columns."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

from numba import cuda

from .launch import KEPT, Call, Kernel
from .product import ENOUGH, LANES, TILES, Side, Steps, multiply
from .simt import BYTES, REAL, WIDEST, mover, real_of, vector_length

__all__ = ["Sizes", "Steps", "add_up", "backward_products", "forward_products", "matmul"]

#: Threads of a block that sums columns, and rows that one thread sums.
BLOCK, CHUNK = 128, 32

#: Terms of a sum that each of several products has at least.
LEAST = 64


class Sizes(NamedTuple):
    """A table of rows [x | y], each of which meets all samples; numbers that one load may take."""

    kind: str
    n_in: int
    n_out: int
    n_rows: int
    batch: int
    length: int
    device: int


@functools.lru_cache(KEPT)
def forward_products(
    sizes: Sizes, has_bias: bool
) -> tuple[Callable[..., None], Callable[..., None]]:
    """Return score(call, x, table, scores, bias) and mix(call, coefs, table, y), made ready.

    Scores and coefs are (batch, n_rows) of real numbers.
    """
    kind, n_in, n_out, n_rows, batch, length, device = sizes
    make, real = functools.partial(matmul, kind, device=device, length=length), real_of(kind)
    by_row, width = Steps(0, n_rows, 1), n_in + n_out
    of_scores = Steps(0, n_in, 1), Steps(0, width, 1), by_row
    of_y = by_row, Steps(n_in, 1, width), Steps(0, n_out, 1)
    return (
        make((batch, n_rows, n_in), of_scores, kinds=(kind, kind, real), has_bias=has_bias),
        make((batch, n_out, n_rows), of_y, kinds=(real, kind, kind)),
    )


@functools.lru_cache(KEPT)
def backward_products(
    sizes: Sizes,
) -> tuple[Callable[..., None], Callable[..., None], Callable[..., None]]:
    """Return the products of a backward pass made ready.

    ``value(call, grad_y, table, values)`` writes what a row says of each gradient of y,
    ``to_x(call, slopes, table, grad_x)`` the gradient of x, ``to_table(call, slopes, coefs, x,
    grad_y, grad_table)`` that of the table. Values, slopes and coefs are as the scores.
    """
    kind, n_in, n_out, n_rows, batch, length, device = sizes
    make, real = functools.partial(matmul, kind, device=device, length=length), real_of(kind)
    by_row, by_sample, width = Steps(0, n_rows, 1), Steps(0, 1, n_rows), n_in + n_out
    of_values = Steps(0, n_out, 1), Steps(n_in, width, 1), by_row
    of_x = by_row, Steps(0, 1, width), Steps(0, n_in, 1)
    of_x_vectors = by_sample, Steps(0, 1, n_in), Steps(0, width, 1)
    of_y_vectors = by_sample, Steps(0, 1, n_out), Steps(n_in, width, 1)
    kinds = real, kind, kind
    value = make((batch, n_rows, n_out), of_values, kinds=(kind, kind, real))
    to_x = make((batch, n_in, n_rows), of_x, kinds=kinds)
    to_x_vectors = make((n_rows, n_in, batch), of_x_vectors, kinds=kinds)
    to_y_vectors = make((n_rows, n_out, batch), of_y_vectors, kinds=kinds)

    def to_table(call: Call, slopes: Any, coefs: Any, x: Any, grad_y: Any, grad_table: Any) -> None:
        to_x_vectors(call, slopes, x, grad_table)
        to_y_vectors(call, coefs, grad_y, grad_table)

    return value, to_x, to_table


@functools.lru_cache(KEPT)
def matmul(
    kind: str,
    shape: tuple[int, int, int],
    steps: tuple[Steps, Steps, Steps],
    device: int,
    *,
    length: int = WIDEST,
    has_bias: bool = False,
    kinds: tuple[str, str, str] | None = None,
) -> Callable[..., None]:
    """Return run(call, a, b, c, bias), which writes c[m, n] = bias[n] + Σ_i a[m, i] · b[n, i].

    `shape` are the ends of m, n and i, `steps` those of a, b and c, whose rows are contiguous and
    of which there may be many; `kinds` are those of their numbers, where not all are of one. No
    more than `length` numbers of the first kind are moved at once.
    """
    of_a, of_b, of_c = steps
    kinds = (kind,) * 3 if kinds is None else kinds
    n_parts = parts_of(shape) if of_c.parts == 1 else 1
    if n_parts > 1:
        return _in_parts(kind, shape, steps, device, length, kinds, n_parts, has_bias)
    m, n, i = shape
    ends = (of_a, (m, i)), (of_b, (n, i)), (of_c, (m, n))
    n_bytes = min(length * BYTES[kind], WIDEST)
    sides = [_side(of, *end, n_bytes) for of, end in zip(kinds, ends, strict=True)]
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
    kinds: tuple[str, str, str],
    n_parts: int,
    has_bias: bool,
) -> Callable[..., None]:
    """Return what `matmul` does, by products that share the terms of the sums."""
    (m, n, i), (of_a, of_b, of_c), real = shape, steps, real_of(kind)
    i //= n_parts
    shares = [each._replace(matrix=i * each.number, parts=n_parts) for each in (of_a, of_b)]
    to_room, of_parts = Steps(0, n, 1, m * n, n_parts), (*kinds[:2], real)
    product = matmul(kind, (m, n, i), (*shares, to_room), device, length=length, kinds=of_parts)
    folded = fold(kind, kinds[2], has_bias).bind(device, (-(-n // BLOCK), m, 1), BLOCK)

    def run(call: Call, a: Any, b: Any, c: Any, bias: Any = None) -> None:
        room = call.take(n_parts * m * n, real)
        product(call, a, b, room)
        folded(call.stream, room, bias if has_bias else room, c, n, n_parts, of_c.start, of_c.row)

    return run


def _side(kind: str, steps: Steps, ends: tuple[int, int], n_bytes: int) -> Side:
    """Return how kernels see a matrix of so many rows and numbers in a row.

    One load takes no more than `n_bytes`.
    """
    by_row = steps.number == 1
    whole, stride = (ends[1], steps.row) if by_row else (ends[0], steps.number)
    length = vector_length(kind, steps.start, whole, stride, steps.matrix)
    return Side(kind, by_row, max(1, min(length, n_bytes // BYTES[kind])))


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
def fold(kind, written, has_bias):
    """Return the kernel that writes sums of matrices and of the bias of each column.

    What it writes are numbers of the kind `written`.
    """
    real, threads = REAL[kind], BLOCK
    _, store = mover(written, 1)

    def body(parts, bias, c, n_columns, n_parts, start, row):
        m, n = cuda.blockIdx.y, cuda.blockIdx.x * threads + cuda.threadIdx.x
        total = cuda.local.array(1, real)
        if n < n_columns:
            total[0] = bias[n] if has_bias else real(0)
            for k in range(n_parts):
                total[0] += parts[(k * cuda.gridDim.y + m) * n_columns + n]
            store(c, start + m * row + n, total, 0)

    word = "stored" if written == kind else "real"
    return Kernel(body, kind, ("real", "real", word, *["int"] * 4))
