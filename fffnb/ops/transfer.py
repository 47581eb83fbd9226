"""Sending NumPy arrays to the GPU, for callers who use no framework of their own."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from .. import cuda
from .arrays import Array, check_array


def require_cupy() -> Any:
    """Return CuPy where kernels can run on its arrays, or say what is missing."""
    cuda.support.require()
    if cuda.launch.SIMULATED:
        raise RuntimeError("CuPy needs a GPU, and NUMBA_ENABLE_CUDASIM=1 only simulates one")
    try:
        return importlib.import_module("cupy")
    except ImportError as error:
        reason = " ".join(str(error).split())
        raise ImportError(f"CuPy cannot be imported ({reason}); {cuda.support.INSTALL}") from error


def to_device(array: Array) -> Any:
    """Copy an array to the current GPU, so that ops on it run there.

    Parameters
    ----------
    array : ndarray
        Nodes, a bias, samples or the state of a rule; any dtype and strides.

    Returns
    -------
    cupy.ndarray or Numba device array
        A C-contiguous copy: of CuPy where it is installed (``cupy.asnumpy`` brings it back), else
        of numba-cuda (its method ``copy_to_host``).

    Raises
    ------
    TypeError
        If `array` is no NumPy array.
    RuntimeError
        If this machine has no usable GPU, or a package is missing; says which.

    Examples
    --------
    >>> import numpy as np
    >>> import fffnb
    >>> x, nodes = np.ones((5, 3), np.float32), fffnb.init_nodes(3, 2, depth=4)
    >>> x, nodes = fffnb.to_device(x), fffnb.to_device(nodes)  # doctest: +SKIP
    >>> y = fffnb.fff_forward(x, nodes)                        # doctest: +SKIP
    """
    array = check_array("array", array)
    cuda.support.require()
    native = array.astype(array.dtype.newbyteorder("="), order="C", copy=False)
    if not cuda.launch.SIMULATED and importlib.util.find_spec("cupy"):
        cupy: Any = importlib.import_module("cupy")
        return cupy.asarray(native)
    from numba import cuda as numba_cuda

    send: Any = numba_cuda.to_device
    return send(native)
