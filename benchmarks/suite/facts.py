"""Facts of the machine that move results more than most commits do; asv holds numbers alone."""

from __future__ import annotations

import zlib

import numba
from llvmlite import binding

from fffnb.cpu import jit

LAYERS = (None, "omp", "tbb", "workqueue")

#: Bits of the widest vectors by the feature of the CPU that promises them, the widest first.
VECTORS = {"avx512f": 512, "avx": 256, "sse2": 128, "neon": 128}


def track_llvm_cpu() -> int:
    """Return the CRC-32 of the name by which LLVM knows the CPU: another number, another CPU."""
    return zlib.crc32(binding.get_host_cpu_name().encode())


def track_vector_bits() -> int:
    """Return the bits of the widest vectors that LLVM may use, 0 where it says nothing of them."""
    features = binding.get_host_cpu_features()
    return next((bits for name, bits in VECTORS.items() if features.get(name)), 0)


track_vector_bits.unit = "bits"  # type: ignore[attr-defined]


def track_threads() -> int:
    """Return the threads that Numba starts."""
    return int(numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]


track_threads.unit = "threads"  # type: ignore[attr-defined]


def track_threading_layer() -> int:
    """Return the threading layer of Numba by its place in LAYERS: 1 is OpenMP."""
    return LAYERS.index(jit.threading_layer())
