"""What the kernels' threads do with rows: vector loads and stores, products.

A team is `lanes` threads that work on the same rows. Each keeps its share of a row in a local
array, which stays in registers where its size and all loops over it are constants.
"""

import functools
from typing import Any

import numba
import numpy as np
from numba import cuda, types

SIMULATED = bool(numba.config.ENABLE_CUDASIM)  # type: ignore[attr-defined]

WARP = 32

#: Storage of a layer's numbers: bytes of one, and the type in which kernels compute with it.
BYTES = {"float32": 4, "float64": 8, "float16": 2, "bfloat16": 2}
REAL: dict[str, Any] = {
    "float32": numba.float32,
    "float64": numba.float64,
    "float16": numba.float32,
    "bfloat16": numba.float32,
}

#: Bytes of the widest load.
WIDEST = 16


def helper(function: Any) -> Any:
    """Decorate what kernels call; it becomes part of them."""
    jit: Any = cuda.jit
    return jit(device=True)(function)


def real_of(kind: str) -> str:
    """Return the kind of the numbers that kernels compute with."""
    return "float64" if kind == "float64" else "float32"


def vector_length(kind: str, *sizes: int) -> int:
    """Return how many numbers of a kind one load takes where rows of these sizes lie in a row."""
    length = WIDEST // BYTES[kind]
    while any(size % length for size in sizes):
        length //= 2
    return length


if SIMULATED:

    @functools.cache
    def mover(kind, length):
        """Return load(a, i, out, j) and store(a, i, values, j) of `length` numbers of a kind."""
        if kind == "bfloat16":

            def load(a, i, out, j):
                bits = np.asarray([a[i + k] for k in range(length)], np.uint16)
                out[j : j + length] = (bits.astype(np.uint32) << 16).view(np.float32)

            def store(a, i, values, j):
                bits = np.asarray([values[j + k] for k in range(length)], np.float32)
                bits = bits.view(np.uint32)
                for k in range(length):
                    a[i + k] = (bits[k] + 0x7FFF + (bits[k] >> 16 & 1)) >> 16

        else:

            def load(a, i, out, j):
                for k in range(length):
                    out[j + k] = a[i + k]

            def store(a, i, values, j):
                for k in range(length):
                    a[i + k] = values[j + k]

        return load, store

    def peek(a, i):
        """Return a[i]."""
        return a[i]

    def poke(a, i, value):
        """Set a[i]."""
        a[i] = value

    @helper
    def fetch_add(a, i, value):
        """Add to a[i], which other threads may do too, and return what it was."""
        return cuda.atomic.add(a, i, value)

else:
    from llvmlite import ir
    from numba.cuda.extending import intrinsic

    INTEGER = {bits: ir.IntType(bits) for bits in (16, 32)}

    def pointer(context, builder, kind, array, at):
        """Return the address of element `at` of a pointer or of an array."""
        if isinstance(kind, types.CPointer):
            return builder.gep(array, [at])
        return builder.gep(context.make_array(kind)(context, builder, array).data, [at])

    def _widen(builder, kind, value):
        """Return stored bits as a number to compute with."""
        if kind == "float16":
            return builder.fpext(builder.bitcast(value, ir.HalfType()), ir.FloatType())
        if kind == "bfloat16":
            bits = builder.shl(builder.zext(value, INTEGER[32]), INTEGER[32](16))
            return builder.bitcast(bits, ir.FloatType())
        return value

    def _narrow(builder, kind, value):
        """Return a number as it is stored, rounded to the nearest, ties to even."""
        if kind == "float16":
            return builder.bitcast(builder.fptrunc(value, ir.HalfType()), INTEGER[16])
        if kind == "bfloat16":
            assembly = ir.FunctionType(INTEGER[16], [ir.FloatType()])
            return builder.asm(assembly, "cvt.rn.bf16.f32 $0, $1;", "=h,f", [value], False)
        return value

    def _read(builder, source, length, size):
        """Return `length` stored numbers, 16-bit ones two at a time: half as many loads."""
        pairs = size == 2 and length > 1
        element = INTEGER[32] if pairs else source.type.pointee
        vector = ir.VectorType(element, length // 2 if pairs else length)
        loaded = builder.load(builder.bitcast(source, vector.as_pointer()))
        loaded.align = size * length
        parts = [builder.extract_element(loaded, INTEGER[32](k)) for k in range(vector.count)]
        if not pairs:
            return parts
        halves = [(part, builder.lshr(part, INTEGER[32](16))) for part in parts]
        return [builder.trunc(half, INTEGER[16]) for pair in halves for half in pair]

    def _write(builder, target, numbers, size):
        """Write stored numbers at once."""
        vector = ir.VectorType(target.type.pointee, len(numbers))
        packed = ir.Constant(vector, ir.Undefined)
        for k, number in enumerate(numbers):
            packed = builder.insert_element(packed, number, INTEGER[32](k))
        if size == 2 and len(numbers) > 1:
            vector = ir.VectorType(INTEGER[32], len(numbers) // 2)
            packed = builder.bitcast(packed, vector)
        written = builder.store(packed, builder.bitcast(target, vector.as_pointer()))
        written.align = size * len(numbers)

    @functools.cache
    def mover(kind, length):
        """Return load(a, i, out, j) and store(a, i, values, j) of `length` numbers of a kind.

        The first of them lies on a multiple of their bytes.
        """
        size = BYTES[kind]

        def places(context, builder, signature, arguments):
            """Return the address in memory and those in the local array."""
            a, i, local, j = arguments
            data = context.make_array(signature.args[2])(context, builder, local).data
            own = [builder.gep(data, [builder.add(j, j.type(k))]) for k in range(length)]
            return pointer(context, builder, signature.args[0], a, i), own

        @intrinsic
        def load(typing, a, i, out, j):
            def generate(context, builder, signature, arguments):
                source, own = places(context, builder, signature, arguments)
                numbers = _read(builder, source, length, size)
                for number, place in zip(numbers, own, strict=True):
                    builder.store(_widen(builder, kind, number), place)
                return context.get_dummy_value()

            return types.void(a, types.int64, out, types.int64), generate

        @intrinsic
        def store(typing, a, i, values, j):
            def generate(context, builder, signature, arguments):
                target, own = places(context, builder, signature, arguments)
                numbers = [_narrow(builder, kind, builder.load(place)) for place in own]
                _write(builder, target, numbers, size)
                return context.get_dummy_value()

            return types.void(a, types.int64, values, types.int64), generate

        return load, store

    @intrinsic
    def peek(typing, a, i):
        """Return a[i] of an array; an index below zero is not looked for, which costs much."""

        def generate(context, builder, signature, arguments):
            place = pointer(context, builder, signature.args[0], *arguments)
            return builder.load(place)

        return a.dtype(a, types.int64), generate

    @intrinsic
    def poke(typing, a, i, value):
        """Set a[i] of an array, as `peek` returns it."""

        def generate(context, builder, signature, arguments):
            place = pointer(context, builder, signature.args[0], *arguments[:2])
            builder.store(arguments[2], place)
            return context.get_dummy_value()

        return types.void(a, types.int64, a.dtype), generate

    @intrinsic
    def fetch_add(typing, a, i, value):
        """Add to the int32 a[i], which other threads may do too, and return what it was."""

        def generate(context, builder, signature, arguments):
            target = pointer(context, builder, signature.args[0], arguments[0], arguments[1])
            return builder.atomic_rmw("add", target, arguments[2], "monotonic")

        return types.int32(a, types.int64, types.int32), generate


def share_of(n: int, length: int, lanes: int) -> int:
    """Return how many numbers of a row of n each of its threads holds, in whole vectors."""
    return -(-n // (lanes * length)) * length


@functools.cache
def dot_of(kind, share, length):
    """Return dot(a, i, b, j), the product of a thread's shares of two rows.

    Sums of products are written as `fma`. Left to the compiler, which of the products is rounded
    would differ from kernel to kernel, and from lane to lane in a sum over a warp.
    """
    real = REAL[kind]

    @helper
    def dot(a, i, b, j):
        parts = cuda.local.array(length, real)
        for k in range(length):
            parts[k] = real(0)
        for m in range(0, share, length):
            for k in range(length):
                parts[k] = cuda.fma(a[i + m + k], b[j + m + k], parts[k])
        whole = real(0)
        for k in range(length):
            whole += parts[k]
        return whole

    return dot


@functools.cache
def row_movers(kind, n, length, lanes, share):
    """Return fetch(a, start, column, lane, out, j) and put(a, start, column, lane, values, j).

    They move a thread's share of a row of n numbers at `start`, from `column` on. Lanes take turns,
    `length` numbers each; what a share has beyond the end of the row is zero.
    """
    load, store = mover(kind, length)
    real = REAL[kind]
    full = n % (lanes * share) == 0

    @helper
    def fetch(a, start, column, lane, out, j):
        for i in range(0, share, length):
            at = column + i * lanes + lane * length
            if full or at < n:
                load(a, start + at, out, j + i)
            else:
                for k in range(length):
                    out[j + i + k] = real(0)

    @helper
    def put(a, start, column, lane, values, j):
        for i in range(0, share, length):
            at = column + i * lanes + lane * length
            if full or at < n:
                store(a, start + at, values, j + i)

    return fetch, put
