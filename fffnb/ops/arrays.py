"""What an array is: the checks that run before any kernel, and their errors."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import buffers
from ..nodes import check_size, depth_of

Array = NDArray[Any]

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


def check_array(name: str, array: object) -> Array:
    """Return `array` if it is a plain NumPy array, or raise TypeError."""
    if type(array) is np.ndarray or type(array) is np.memmap:
        return array
    if isinstance(array, np.ndarray):
        raise TypeError(
            f"{name} must be a plain numpy.ndarray, got the subclass {type(array).__name__}, "
            "whose meaning the kernels do not know"
        )
    kind = type(array)
    raise TypeError(f"{name} must be a numpy.ndarray, got {kind.__module__}.{kind.__qualname__}")


def check_native(name: str, array: object, dtype: np.dtype[Any] | None = None) -> Array:
    """Return an array that kernels can read or write where it lies."""
    array = check_array(name, array)
    if not array.dtype.isnative:
        raise TypeError(
            f"{name} must be of native byte order, got {array.dtype.str}; "
            f"{name}.astype({name}.dtype.newbyteorder('=')) is a native copy"
        )
    if dtype is None:
        if array.dtype not in FLOATS:
            raise TypeError(f"{name} must be float32 or float64, got {array.dtype}")
    elif array.dtype != dtype:
        raise TypeError(f"{name} must be {dtype}, got {array.dtype}")
    if not array.flags.c_contiguous:
        raise ValueError(
            f"{name} must be C-contiguous, got strides {array.strides} at shape {array.shape}; "
            f"np.ascontiguousarray({name}) is a contiguous copy"
        )
    return array


def check_nodes(nodes: object) -> tuple[Array, int]:
    """Return nodes and their depth."""
    array = check_array("nodes", nodes)
    depth = check_nodes_shape(array.shape)
    return check_native("nodes", array), depth


def check_axes(shape: tuple[int, ...]) -> None:
    """Refuse a shape that nodes cannot have, be they those of a tree or not."""
    if len(shape) == 2:
        raise ValueError(
            f"nodes must be 3-D (n_trees, n_nodes, n_in + n_out), got shape {shape}; "
            "nodes[None] makes one tree of it"
        )
    if len(shape) != 3 or 0 in shape:
        raise ValueError(
            f"nodes must be 3-D (n_trees, n_nodes, n_in + n_out) and not empty, got {shape}"
        )


def check_nodes_shape(shape: tuple[int, ...]) -> int:
    """Return the depth of nodes of this shape."""
    check_axes(shape)
    try:
        return depth_of(shape[1])
    except ValueError as error:
        raise ValueError(f"nodes of shape {shape}: {error}") from None


def output_width(n_in: int, shape: tuple[int, ...], n_out: int | None) -> int:
    """Return the width of the output that nodes of this shape leave beside x."""
    width = shape[2] - n_in
    if n_out is not None and check_size("n_out", n_out) != width:
        raise ValueError(
            f"x must have {shape[2] - n_out} columns for n_out = {n_out} and nodes of shape "
            f"{shape}, got {n_in}"
        )
    if width < 1:
        raise ValueError(
            f"x must have fewer columns than nodes, {shape[2]} = n_in + n_out, got {n_in}"
        )
    return width


def check_writeable(name: str, array: Array) -> Array:
    """Return `array` if it may be written to."""
    if not array.flags.writeable:
        raise ValueError(f"{name} must be writeable to be updated in place, got a read-only array")
    return array


def check_shape(name: str, array: Array, shape: tuple[int, ...], why: str) -> Array:
    """Return `array` if it has the shape that something else implies."""
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape} ({why}), got {array.shape}")
    return array


def check_bias(bias: Array, shape: tuple[int, ...], like: Array, why: str) -> Array:
    """Return a bias that fits a parameter."""
    return check_shape("bias", check_native("bias", bias, like.dtype), shape, why)


def check_node_bias(bias: Array, nodes: Array) -> Array:
    """Return a bias that fits nodes: one number for each."""
    return check_bias(bias, nodes.shape[:2], nodes, "n_trees and n_nodes of nodes")


def check_rows(name: str, array: object, dtype: np.dtype[Any], of: str = "nodes") -> Array:
    """Return an input (..., n) that has the dtype of a parameter, up to byte order."""
    array = check_array(name, array)
    if array.dtype != dtype and array.dtype.newbyteorder("=") != dtype:
        raise TypeError(f"{name} must have the dtype of {of}, {dtype}, got {array.dtype}")
    if array.ndim == 0 or array.shape[-1] == 0:
        raise ValueError(f"{name} must have shape (..., n) with n >= 1, got {array.shape}")
    return array


def as_batch(array: Array) -> Array:
    """Return (..., n) as a C-contiguous native (batch, n), copied only when it must be."""
    if array.ndim != 2 or not array.flags.c_contiguous or not array.dtype.isnative:
        shape = (math.prod(array.shape[:-1]), array.shape[-1])
        array = np.ascontiguousarray(array, array.dtype.newbyteorder("=")).reshape(shape)
    return unlocked(array)


class _Alias:
    """The memory of an array, said to be writeable."""

    def __init__(self, array: Array) -> None:
        self.array = array
        interface = array.__array_interface__
        self.__array_interface__ = {**interface, "data": (interface["data"][0], False)}


def unlocked(array: Array) -> Array:
    """Return an input as kernels take it: Numba would compile them again for a read-only one.

    They never write to it.
    """
    return array if array.flags.writeable else np.asarray(_Alias(array))


def check_out(
    out: Array, shape: tuple[int, ...], of: str, like: Array, inputs: dict[str, Array | None]
) -> None:
    """Refuse an output that lies over an input, or cannot take a result.

    `like` is the parameter whose dtype it must have, `of` its name.
    """
    if check_array("out", out).dtype != like.dtype:
        raise TypeError(f"out must have the dtype of {of}, {like.dtype}, got {out.dtype}")
    check_writeable("out", check_shape("out", out, shape, "that of the output"))
    for name, array in {of: like, **inputs}.items():
        if array is not None and overlap(out, array):
            raise ValueError(f"out must not overlap {name}, got arrays that share memory")


def output_for(out: Array | None, batch: int, width: int, dtype: np.dtype[Any]) -> Array:
    """Return where kernels write an output (batch, width): to `out` if they can."""
    if out is not None and out.flags.c_contiguous:
        return out.reshape(batch, width)
    return buffers.empty((batch, width), dtype)


def hand_over(y: Array, out: Array | None, lead: tuple[int, ...]) -> Array:
    """Return an output that kernels wrote to `output_for` as (*lead, width), or as `out`."""
    y = y.reshape(*lead, y.shape[1])
    if out is None:
        return y
    if not out.flags.c_contiguous:
        out[...] = y
    return out


def overlap(a: Array, b: Array) -> bool:
    """Tell whether two arrays share memory; where finding out takes long, say yes."""
    most: Any = 10_000  # an int, which NumPy's types before 2.5 do not know
    try:
        return np.shares_memory(a, b, max_work=most)
    except np.exceptions.TooHardError:
        return True


def check_number(name: str, value: object) -> float:
    """Return a real number as a float, or say what is wrong with it."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    return float(value)
