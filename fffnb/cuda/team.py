"""What the kernels' threads do together: sums over a team, and clusters of blocks.

A block holds one or several teams of `lanes` threads. In the simulator, which has no warps, teams
sum through shared memory, and a block meets no other.
"""

import functools

from numba import cuda, int32, types

from .simt import REAL, SIMULATED, WARP, helper, poke

if SIMULATED:

    @functools.cache
    def cluster_of(kind, size):
        """Return rank(), send(a, i, value, rank) and meet() of a cluster, here of one block."""
        if size > 1:
            raise NotImplementedError("blocks do not meet in the simulator")

        def rank():
            return 0

        def send(a, i, value, rank):
            a[i] = value

        @helper
        def meet():
            cuda.syncthreads()

        return rank, send, meet

    @functools.cache
    def team_sum(kind, lanes, teams):
        """Return total(value, turn), the sum of the values of a team's threads."""
        real, threads, size = REAL[kind], lanes * teams, 2 * lanes * teams

        @helper
        def total(value, turn):
            room = cuda.shared.array(size, real)
            thread = cuda.threadIdx.x
            room[turn * threads + thread] = value
            cuda.syncthreads()
            first = turn * threads + thread // lanes * lanes
            sum_ = room[first]
            for k in range(1, lanes):
                sum_ += room[first + k]
            return sum_

        return total

    @functools.cache
    def team_sums(kind, lanes, teams, n):
        """Return total(values), which sums each of n values over a team's threads."""
        total_of = team_sum(kind, lanes, teams)

        @helper
        def total(values):
            for j in range(n):
                values[j] = total_of(values[j], j % 2)

        return total

else:
    from llvmlite import ir
    from numba.cuda.extending import intrinsic

    from .simt import INTEGER, pointer

    @functools.cache
    def cluster_of(kind, size):
        """Return rank(), send(a, i, value, rank) and meet() of a cluster of blocks.

        `rank` is that of this block; `send` sets a[i], in the shared memory of another; `meet` is a
        barrier for all of them.
        """
        if size == 1:

            @helper
            def rank():
                return int32(0)

            @helper
            def send(a, i, value, rank):
                poke(a, i, value)

            @helper
            def meet():
                cuda.syncthreads()

            return rank, send, meet

        letter, number = ("d", "f64") if kind == "float64" else ("f", "f32")

        @intrinsic
        def rank(typing):
            def generate(context, builder, signature, arguments):
                assembly = ir.FunctionType(INTEGER[32], [])
                return builder.asm(assembly, "mov.u32 $0, %cluster_ctarank;", "=r", [], True)

            return types.int32(), generate

        @intrinsic
        def send(typing, a, i, value, rank):
            code = (
                "{ .reg .u64 %own; .reg .u32 %place; cvta.to.shared.u64 %own, $0; "
                "cvt.u32.u64 %place, %own; mapa.shared::cluster.u32 %place, %place, $1; "
                f"st.shared::cluster.{number} [%place], $2; }}"
            )

            def generate(context, builder, signature, arguments):
                array, at, number, rank = arguments
                place = pointer(context, builder, signature.args[0], array, at)
                place = builder.ptrtoint(place, ir.IntType(64))
                given = [place, rank, number]
                assembly = ir.FunctionType(ir.VoidType(), [each.type for each in given])
                builder.asm(assembly, code, f"l,r,{letter},~{{memory}}", given, True)
                return context.get_dummy_value()

            return types.void(a, types.int64, REAL[kind], types.int32), generate

        @intrinsic
        def meet(typing):
            code = "barrier.cluster.arrive.release; barrier.cluster.wait.acquire;"

            def generate(context, builder, signature, arguments):
                assembly = ir.FunctionType(ir.VoidType(), [])
                builder.asm(assembly, code, "~{memory}", [], True)
                return context.get_dummy_value()

            return types.void(), generate

        return rank, send, meet

    @helper
    def warp_sum(value):
        """Return the sum of the values of a warp."""
        for distance in (16, 8, 4, 2, 1):
            value += cuda.shfl_xor_sync(0xFFFFFFFF, value, distance)
        return value

    @functools.cache
    def team_sum(kind, lanes, teams):
        """Return total(value, turn), the sum of the values of a team's threads.

        Calls that follow each other take turns, 0 and 1: one barrier is enough then.
        """
        real, warps, size = REAL[kind], lanes // WARP, 2 * WARP
        if warps == 1:

            @helper
            def total(value, turn):
                return warp_sum(value)

        else:

            @helper
            def total(value, turn):
                room = cuda.shared.array(size, real)
                thread = cuda.threadIdx.x
                value = warp_sum(value)
                if thread % WARP == 0:
                    room[turn * WARP + thread // WARP] = value
                cuda.syncthreads()
                part = real(0)
                if thread % WARP < warps:
                    part = room[turn * WARP + thread // lanes * warps + thread % WARP]
                return warp_sum(part)

        return total

    @functools.cache
    def team_sums(kind, lanes, teams, n):
        """Return total(values), which sums each of n values over a team's threads, one warp."""

        @helper
        def total(values):
            for distance in (16, 8, 4, 2, 1):  # all values together: they need not wait in turn
                for j in range(n):
                    values[j] += cuda.shfl_xor_sync(0xFFFFFFFF, values[j], distance)

        return total
