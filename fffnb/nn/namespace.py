"""What layers, losses and optimisers need of the library whose arrays they are given.

NumPy's arrays are known at once; those of others, such as CuPy, go through array-api-compat.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np


def namespace_of(array: Any, name: str = "array") -> Any:
    """Return the functions of an array's library, by the names of the array API standard."""
    if isinstance(array, np.ndarray):
        return np
    if not hasattr(array, "dtype"):
        raise TypeError(f"{name} must be an array, got {type(array).__name__}")
    return compat().array_namespace(array)


def compat() -> Any:
    """Return array-api-compat, or say how to install it."""
    try:
        return importlib.import_module("array_api_compat")
    except ImportError as error:
        raise ImportError(
            "arrays that are not NumPy's, as on a GPU, need array-api-compat: "
            "python -m pip install 'fffnb[train]'"
        ) from error


def holds_floats(array: Any) -> bool:
    """Tell whether something is an array of float32 or float64."""
    if not hasattr(array, "dtype"):
        return False
    xp = namespace_of(array)
    return array.dtype in (xp.float32, xp.float64)


def holds_integers(array: Any) -> bool:
    """Tell whether something is an array of integers."""
    if isinstance(array, np.ndarray):
        return array.dtype.kind in "iu"
    return hasattr(array, "dtype") and bool(namespace_of(array).isdtype(array.dtype, "integral"))


def cast(array: Any, dtype: Any) -> Any:
    """Return an array as another dtype."""
    if isinstance(array, np.ndarray):
        return array.astype(dtype)  # numpy.astype came with NumPy 2.1
    return namespace_of(array).astype(array, dtype)


def concatenate(arrays: list[Any]) -> Any:
    """Return arrays one after the other along their first axis."""
    if isinstance(arrays[0], np.ndarray):
        return np.concatenate(arrays)  # numpy.concat came with NumPy 2.0
    return namespace_of(arrays[0]).concat(arrays)


def scalar(number: Any) -> Any:
    """Return NumPy's number as a float; reading another's might wait for a GPU: it stays."""
    return float(number) if isinstance(number, np.floating) else number


def to_host(array: Any) -> Any:
    """Return a copy as a NumPy array."""
    return array.get() if hasattr(array, "get") else np.array(array)


def ndtr(x: Any) -> Any:
    """Return the normal distribution function of each element, by the array's own library."""
    if isinstance(x, np.ndarray):
        from scipy.special import ndtr as of_numpy

        return of_numpy(x)
    if compat().is_cupy_array(x):
        return importlib.import_module("cupyx.scipy.special").ndtr(x)
    return namespace_of(x).asarray(ndtr(np.asarray(x)))
