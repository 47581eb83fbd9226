"""What the GPU half needs of this machine, and words for what is missing."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import re
from typing import Any

#: Compute capability of the oldest GPU that the kernels are written for.
OLDEST = (7, 0)

INSTALL = "pip install 'fffnb[cu13]' (or 'fffnb[cu12]' for CUDA 12) installs what it needs"


@functools.cache
def require() -> None:
    """Raise RuntimeError, saying what is missing, unless kernels can run here."""
    import numba

    if numba.config.ENABLE_CUDASIM:  # type: ignore[attr-defined]
        return
    from numba import cuda as numba_cuda

    cuda: Any = numba_cuda
    if getattr(cuda, "implementation", "Built-in") != "NVIDIA":
        raise RuntimeError(
            f"fffnb runs on GPUs by numba-cuda, not by the numba.cuda inside Numba; {INSTALL}"
        )
    _require_numpy()
    if importlib.util.find_spec("cuda") is None or importlib.util.find_spec("cuda.core") is None:
        raise RuntimeError(f"fffnb starts GPU kernels by cuda-core, which is missing; {INSTALL}")
    if not cuda.is_available():
        reason = " ".join(str(cuda.cuda_error() or "no device").split())
        raise RuntimeError(f"fffnb found no usable GPU: {reason}")
    capability = tuple(cuda.get_current_device().compute_capability)
    if capability < OLDEST:
        raise RuntimeError(
            f"fffnb needs a GPU of compute capability {OLDEST[0]}.{OLDEST[1]} or newer, "
            f"got {capability[0]}.{capability[1]}"
        )
    _require_compiler()


def _require_numpy() -> None:
    """Refuse a NumPy that numba-cuda does not know."""
    import numpy as np

    version = importlib.metadata.version("numba-cuda")
    if not hasattr(np, "row_stack") and [*map(int, re.findall(r"\d+", version))][:3] <= [0, 30, 4]:
        raise RuntimeError(
            f"numba-cuda {version} fails under NumPy {np.__version__}; install 'numpy<2.5'"
        )


def _require_compiler() -> None:
    """Refuse an installation without NVVM, the compiler of kernels."""
    from cuda.pathfinder import DynamicLibNotFoundError, load_nvidia_dynamic_lib

    try:
        load_nvidia_dynamic_lib("nvvm")
    except DynamicLibNotFoundError as error:
        raise RuntimeError(f"a part of the CUDA toolkit is missing: {error}; {INSTALL}") from error
