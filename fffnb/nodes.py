"""The node layout: one row ``[x | y]`` per node, trees of ``2**depth - 1`` rows, forests of trees.

A node is a pair of vectors: ``x`` in input space (n_in) and ``y`` in output space (n_out). Node k's
children are ``2 * k + 1`` (left) and ``2 * k + 2`` (right). ``nodes`` is always 3-D,
``(n_trees, 2**depth - 1, n_in + n_out)``, C-contiguous and of native byte order, in memory and in
files.
"""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

#: A leaf is an int32, so a tree has at most 31 levels.
MAX_DEPTH = 31

#: What may have a y vector in the flat form: see `init_flat`.
FLAT_ROWS = ("nodes", "patterns")


def count_nodes(depth: int) -> int:
    """Return the number of nodes of a tree of `depth` levels.

    Parameters
    ----------
    depth : int
        Number of nodes that one sample visits, 1 to 31.

    Returns
    -------
    int
        ``2**depth - 1``.

    Raises
    ------
    TypeError, ValueError
        If `depth` is not an integer or out of range.

    Examples
    --------
    >>> import fffnb
    >>> fffnb.count_nodes(8)
    255
    """
    depth = check_size("depth", depth)
    if depth > MAX_DEPTH:
        raise ValueError(f"depth must be at most {MAX_DEPTH} (leaves are int32), got {depth}")
    return (1 << depth) - 1


def depth_of(n_nodes: int) -> int:
    """Return the depth of a tree of `n_nodes` nodes.

    Parameters
    ----------
    n_nodes : int
        Number of nodes of one tree.

    Returns
    -------
    int
        The depth for which ``count_nodes(depth) == n_nodes``.

    Raises
    ------
    ValueError
        If `n_nodes` is not ``2**depth - 1`` for a depth from 1 to 31.

    Examples
    --------
    >>> import fffnb
    >>> fffnb.depth_of(255)
    8
    """
    depth = int(n_nodes + 1).bit_length() - 1
    if not 1 <= depth <= MAX_DEPTH or n_nodes != 2**depth - 1:
        raise ValueError(
            f"the number of nodes must be 2**depth - 1 (1, 3, 7, ... nodes a tree), got {n_nodes}"
        )
    return depth


def default_depth(n_in: int) -> int:
    """Return the depth of a layer of which only the input width is known.

    Parameters
    ----------
    n_in : int
        Width of the input.

    Returns
    -------
    int
        ``max(1, floor(log2(n_in)))``, the choice of the original FFF project.

    Examples
    --------
    >>> import fffnb
    >>> fffnb.default_depth(784)
    9
    """
    return max(1, check_size("n_in", n_in).bit_length() - 1)


def pack_nodes(
    x_vectors: NDArray[np.floating], y_vectors: NDArray[np.floating]
) -> NDArray[np.floating]:
    """Interleave input and output vectors into nodes.

    Parameters
    ----------
    x_vectors : ndarray, shape (n_trees, n_nodes, n_in) or (n_nodes, n_in)
        Input vectors; 2-D means one tree.
    y_vectors : ndarray, shape (n_trees, n_nodes, n_out) or (n_nodes, n_out)
        Output vectors, of the same number of dimensions and the same dtype.

    Returns
    -------
    ndarray, shape (n_trees, n_nodes, n_in + n_out)
        A new, C-contiguous array of rows ``[x | y]``.

    Raises
    ------
    TypeError, ValueError
        If the arrays do not fit together, are not float32 or float64, or are no whole trees.

    Examples
    --------
    >>> import numpy as np
    >>> import fffnb
    >>> fffnb.pack_nodes(np.zeros((7, 3)), np.ones((7, 2))).shape
    (1, 7, 5)
    """
    for name, vectors in (("x_vectors", x_vectors), ("y_vectors", y_vectors)):
        if type(vectors) not in (np.ndarray, np.memmap):
            raise TypeError(f"{name} must be a numpy.ndarray, got {type(vectors).__name__}")
        if vectors.ndim not in (2, 3):
            raise ValueError(
                f"{name} must be (n_trees, n_nodes, n) or (n_nodes, n), got shape {vectors.shape}"
            )
        if vectors.dtype.newbyteorder("=") not in (
            np.dtype(np.float32),
            np.dtype(np.float64),
        ):
            raise TypeError(f"{name} must be float32 or float64, got {vectors.dtype}")
    if x_vectors.shape[:-1] != y_vectors.shape[:-1]:
        raise ValueError(
            "y_vectors must have the trees and nodes of x_vectors, "
            f"{x_vectors.shape[:-1]}, got {y_vectors.shape[:-1]}"
        )
    if x_vectors.dtype != y_vectors.dtype:
        raise TypeError(
            f"y_vectors must have the dtype of x_vectors, {x_vectors.dtype}, got {y_vectors.dtype}"
        )
    if 0 in x_vectors.shape or 0 in y_vectors.shape:
        raise ValueError(
            "x_vectors and y_vectors must not be empty, "
            f"got shapes {x_vectors.shape} and {y_vectors.shape}"
        )
    depth_of(x_vectors.shape[-2])
    nodes = np.concatenate([x_vectors, y_vectors], axis=-1)
    nodes = np.ascontiguousarray(nodes, nodes.dtype.newbyteorder("="))
    return nodes if nodes.ndim == 3 else nodes[None]


def split_nodes(
    nodes: NDArray[np.floating], n_in: int
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Return the input and the output vectors of nodes, as views.

    Parameters
    ----------
    nodes : ndarray, shape (n_trees, n_nodes, n_in + n_out)
        Rows ``[x | y]``.
    n_in : int
        Width of the input.

    Returns
    -------
    x_vectors : ndarray, shape (n_trees, n_nodes, n_in)
        View of the input vectors; writing to it writes to `nodes`.
    y_vectors : ndarray, shape (n_trees, n_nodes, n_out)
        View of the output vectors.

    Raises
    ------
    TypeError, ValueError
        If `nodes` is not 3-D or leaves no room for an output beside `n_in`.

    Examples
    --------
    >>> import fffnb
    >>> nodes = fffnb.init_nodes(3, 2, depth=4)
    >>> x_vectors, y_vectors = fffnb.split_nodes(nodes, n_in=3)
    >>> x_vectors.shape, y_vectors.shape
    ((1, 15, 3), (1, 15, 2))
    """
    n_in = check_size("n_in", n_in)
    if not isinstance(nodes, np.ndarray):
        raise TypeError(f"nodes must be a numpy.ndarray, got {type(nodes).__name__}")
    if nodes.ndim != 3 or nodes.shape[2] <= n_in:
        raise ValueError(
            f"nodes must be (n_trees, n_nodes, n_in + n_out) with n_in = {n_in} and n_out >= 1, "
            f"got shape {nodes.shape}"
        )
    return nodes[:, :, :n_in], nodes[:, :, n_in:]


def check_size(name: str, value: int) -> int:
    """Return `value` as an int, or say what is wrong with it."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
    return int(value)


def count_flat_rows(depth: int, rows: str) -> int:
    """Return the number of y vectors of a tree of the flat form: see `init_flat`."""
    n_nodes = count_nodes(depth)
    if rows not in FLAT_ROWS:
        raise ValueError(f"rows must be 'nodes' or 'patterns', got {rows!r}")
    return n_nodes if rows == "nodes" else (n_nodes + 1) * depth


def check_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    """Return `dtype` if parameters may have it, or say what is wrong with it."""
    kind: np.dtype[Any] = np.dtype(dtype)
    if kind not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise TypeError(f"dtype must be float32 or float64, got {kind}")
    return kind


def refuse_beyond_memory(name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Raise MemoryError before an allocation that this machine cannot back with memory."""
    needed = math.prod(shape) * dtype.itemsize
    try:
        present = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (
        AttributeError,
        ValueError,
        OSError,
    ):  # Windows: only the address space is known
        present = 2 ** (8 * np.dtype(np.intp).itemsize - 1)
    if needed > present:
        raise MemoryError(
            f"{name} of shape {shape} and dtype {dtype} would take {needed:,} bytes, "
            f"this machine has {present:,}"
        )
