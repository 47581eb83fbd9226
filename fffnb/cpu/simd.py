"""Vectors in registers for kernels: what LLVM would not vectorise from plain loops.

A vector holds `lanes` consecutive elements of an array. `outer` multiplies two tuples of vectors
into a tuple of sums, the tile that every fast kernel here is built from. Multiplications and
additions fuse where the machine can, in the order written; nothing is reassociated, so that a
result depends neither on the tile that computed it nor on its place in a batch.
"""

from __future__ import annotations

from typing import Any

from llvmlite import binding, ir
from numba.core import cgutils, types
from numba.extending import intrinsic, models, register_model

#: Bytes of a vector: those of the widest registers of this machine, at least 32.
BYTES = 64 if binding.get_host_cpu_features().get("avx512f", False) else 32

_FUSED = ("contract",)
_PLAIN = ("nsz",)  # something, or Numba adds the flags of the kernel


class Vector(types.Type):
    """The type of a vector of floating-point numbers."""

    def __init__(self, dtype: types.Float) -> None:
        self.dtype = dtype
        self.lanes = 8 * BYTES // dtype.bitwidth
        super().__init__(name=f"Vector({dtype}, {self.lanes})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, vector: Vector) -> None:
        super().__init__(manager, vector, _llvm(vector))


def _llvm(vector: Vector) -> Any:
    return ir.VectorType(
        ir.FloatType() if vector.dtype.bitwidth == 32 else ir.DoubleType(), vector.lanes
    )


def _address(context: Any, builder: Any, array_type: Any, array: Any, j: Any) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.gep(data, [j])


@intrinsic
def lanes(typingctx: Any, array: Any) -> Any:
    """Return the number of elements of `array` in a vector."""
    n = Vector(array.dtype).lanes

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return context.get_constant(types.intp, n)

    return types.intp(array), codegen


@intrinsic
def load(typingctx: Any, array: Any, j: Any) -> Any:
    """Return the vector array[j : j + lanes] of a contiguous array."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _load(context, builder, signature.args[0], *args)

    return Vector(array.dtype)(array, types.intp), codegen


def _load(context: Any, builder: Any, array_type: Any, array: Any, j: Any) -> Any:
    vector = Vector(array_type.dtype)
    at = _address(context, builder, array_type, array, j)
    at = builder.bitcast(at, _llvm(vector).as_pointer())
    return builder.load(at, align=vector.dtype.bitwidth // 8)


@intrinsic
def store(typingctx: Any, array: Any, j: Any, vector: Any) -> Any:
    """Write a vector to array[j : j + lanes]."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        at = _address(context, builder, signature.args[0], *args[:2])
        at = builder.bitcast(at, _llvm(vector).as_pointer())
        builder.store(args[2], at, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), codegen


def _mask(builder: Any, vector: Vector, n: Any) -> Any:
    """Return the mask of the first n lanes."""
    wide = ir.VectorType(ir.IntType(64), vector.lanes)
    count = _splat(builder, wide, n)
    return builder.icmp_signed("<", ir.Constant(wide, list(range(vector.lanes))), count)


def _splat(builder: Any, kind: Any, scalar: Any) -> Any:
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, ir.IntType(32)(0))
    return builder.shuffle_vector(
        one,
        ir.Constant(kind, ir.Undefined),
        ir.Constant(ir.VectorType(ir.IntType(32), kind.count), None),
    )


def _masked(builder: Any, name: str, kind: Any, result: Any, arguments: Any) -> Any:
    element = "f32" if isinstance(kind.element, ir.FloatType) else "f64"
    function = cgutils.get_or_insert_function(
        builder.module,
        ir.FunctionType(result, [argument.type for argument in arguments]),
        f"llvm.masked.{name}.v{kind.count}{element}.p0",
    )
    return builder.call(function, arguments)


@intrinsic
def load_part(typingctx: Any, array: Any, j: Any, n: Any) -> Any:
    """Return array[j : j + n] as a vector whose other lanes are 0."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _load_part(context, builder, signature.args[0], *args)

    return Vector(array.dtype)(array, types.intp, types.intp), codegen


def _load_part(context: Any, builder: Any, array_type: Any, array: Any, j: Any, n: Any) -> Any:
    vector = Vector(array_type.dtype)
    kind = _llvm(vector)
    at = builder.bitcast(_address(context, builder, array_type, array, j), kind.as_pointer())
    align = ir.IntType(32)(vector.dtype.bitwidth // 8)
    mask = _mask(builder, vector, n)
    return _masked(builder, "load", kind, kind, [at, align, mask, ir.Constant(kind, None)])


@intrinsic
def load_all(typingctx: Any, array: Any, places: Any, j: Any) -> Any:
    """Return the tuple of the vectors `load(array, place + j)`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _each(
            builder, args, lambda at: _load(context, builder, signature.args[0], args[0], at)
        )

    return types.UniTuple(Vector(array.dtype), len(places))(array, places, types.intp), codegen


@intrinsic
def load_part_all(typingctx: Any, array: Any, places: Any, j: Any, n: Any) -> Any:
    """Return the tuple of the vectors `load_part(array, place + j, n)`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = signature.args[0]
        return _each(
            builder, args, lambda at: _load_part(context, builder, kind, args[0], at, args[3])
        )

    vectors = types.UniTuple(Vector(array.dtype), len(places))
    return vectors(array, places, types.intp, types.intp), codegen


def _each(builder: Any, args: Any, load: Any) -> Any:
    """Return the tuple of load(place + j) for arguments (array, places, j)."""
    n = args[1].type.count
    places = (builder.add(builder.extract_value(args[1], i), args[2]) for i in range(n))
    return cgutils.pack_array(builder, [load(at) for at in places])


@intrinsic
def store_part(typingctx: Any, array: Any, j: Any, n: Any, vector: Any) -> Any:
    """Write the first n lanes of a vector to array[j : j + n]."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = _llvm(vector)
        at = _address(context, builder, signature.args[0], *args[:2])
        at = builder.bitcast(at, kind.as_pointer())
        align = ir.IntType(32)(array.dtype.bitwidth // 8)
        mask = _mask(builder, vector, args[2])
        _masked(builder, "store", kind, ir.VoidType(), [args[3], at, align, mask])
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, vector), codegen


@intrinsic
def broadcast(typingctx: Any, scalar: Any) -> Any:
    """Return the vector whose lanes are all `scalar`."""
    vector = Vector(scalar)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _splat(builder, _llvm(vector), args[0])

    return vector(scalar), codegen


@intrinsic(prefer_literal=True)
def zeros(typingctx: Any, array: Any, n: Any) -> Any:
    """Return a tuple of n vectors of zeros for elements of `array`; n is a literal."""
    vectors = types.UniTuple(Vector(array.dtype), n.literal_value)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return ir.Constant(context.get_value_type(vectors), None)

    return vectors(array, n), codegen


@intrinsic
def outer(typingctx: Any, sums: Any, a: Any, b: Any) -> Any:
    """Return sums[i * len(b) + k] + a[i] * b[k] for all i and k."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        old, left, right = (
            [builder.extract_value(value, i) for i in range(len(kind))]
            for value, kind in zip(args, signature.args, strict=True)
        )
        products = (builder.fmul(p, q, flags=_FUSED) for p in left for q in right)
        new = (builder.fadd(s, p, flags=_FUSED) for s, p in zip(old, products, strict=True))
        return cgutils.pack_array(builder, list(new))

    return sums(sums, a, b), codegen


@intrinsic
def pairs(typingctx: Any, sums: Any, a: Any, b: Any) -> Any:
    """Return sums[i] + a[i] * b[i] for all i."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        new = []
        for i in range(len(sums)):
            value, *factors = (builder.extract_value(values, i) for values in args)
            product = builder.fmul(*factors, flags=_FUSED)
            new.append(builder.fadd(value, product, flags=_FUSED))
        return cgutils.pack_array(builder, new)

    return sums(sums, a, b), codegen


@intrinsic
def inner(typingctx: Any, start: Any, a: Any, b: Any) -> Any:
    """Return the vector start + a[0] * b[0] + a[1] * b[1] + ..., added in this order."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value = args[0]
        for i in range(len(a)):
            factors = (builder.extract_value(values, i) for values in args[1:])
            value = builder.fadd(value, builder.fmul(*factors, flags=_FUSED), flags=_FUSED)
        return value

    return start(start, a, b), codegen


@intrinsic
def add(typingctx: Any, a: Any, b: Any) -> Any:
    """Return the sums of the vectors of two tuples."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pairs = ([builder.extract_value(value, i) for value in args] for i in range(len(a)))
        return cgutils.pack_array(builder, [builder.fadd(*pair, flags=_PLAIN) for pair in pairs])

    return a(a, b), codegen


@intrinsic
def total(typingctx: Any, vector: Any) -> Any:
    """Return the sum of the lanes of a vector, by halves."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        (value,) = args
        n = vector.lanes
        while n > 1:
            n //= 2
            halves = (_shuffle(builder, value, value, at) for at in (range(n), range(n, 2 * n)))
            value = builder.fadd(*halves, flags=_PLAIN)
        return builder.extract_element(value, ir.IntType(32)(0))

    return vector.dtype(vector), codegen


@intrinsic
def store_totals(typingctx: Any, array: Any, j: Any, vectors: Any) -> Any:
    """Write `total` of each of some vectors to array[j :], and anything up to a whole vector."""
    lanes = vectors.dtype.lanes

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        values = [builder.extract_value(args[2], i) for i in range(len(vectors))]
        values += [values[-1]] * (-len(values) % lanes)
        for i in range(0, len(values), lanes):
            at = builder.add(args[1], context.get_constant(types.intp, i))
            at = _address(context, builder, signature.args[0], args[0], at)
            at = builder.bitcast(at, _llvm(vectors.dtype).as_pointer())
            builder.store(
                _totals(builder, values[i : i + lanes]), at, align=vectors.dtype.dtype.bitwidth // 8
            )
        return context.get_dummy_value()

    return types.void(array, types.intp, vectors), codegen


def _totals(builder: Any, values: Any) -> Any:
    """Return the vector of the sums of as many vectors as each has lanes, or a step towards it.

    Halves are added as in `total`, but for two vectors at once, so that n sums cost n additions.
    """
    if len(values) == 1:
        return values[0]
    a, b = _totals(builder, values[0::2]), _totals(builder, values[1::2])
    lanes, groups = a.type.count, len(values) // 2
    size = lanes // groups
    halves = []
    for half in (range(size // 2), range(size // 2, size)):
        at = [v * lanes + g * size + k for g in range(groups) for v in (0, 1) for k in half]
        halves.append(_shuffle(builder, a, b, at))
    return builder.fadd(*halves, flags=_PLAIN)


def _shuffle(builder: Any, a: Any, b: Any, at: Any) -> Any:
    mask = ir.Constant(ir.VectorType(ir.IntType(32), len(at)), list(at))
    return builder.shuffle_vector(a, b, mask)


@intrinsic
def stream(typingctx: Any, array: Any, j: Any, vector: Any) -> Any:
    """Write a vector past the caches to array[j : j + lanes], which must be aligned to `BYTES`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        at = _address(context, builder, signature.args[0], *args[:2])
        at = builder.bitcast(at, _llvm(vector).as_pointer())
        written = builder.store(args[2], at, align=BYTES)
        once = builder.module.add_metadata([ir.IntType(32)(1)])
        written.set_metadata("nontemporal", once)
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), codegen


@intrinsic
def fence(typingctx: Any) -> Any:
    """Let what `stream` wrote be seen before anything that is written later."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), codegen
