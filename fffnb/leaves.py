"""The leaf layout: routers choose one of ``2**depth`` leaves a tree, each a small network.

Routers are vectors in input space, ``(n_trees, 2**depth - 1, n_in)``, numbered as nodes are. A leaf
is a network of `width` hidden neurons, each of which is laid out as a node is: ``leaves`` is
``(n_trees, 2**depth, width, n_in + n_out)``, rows ``[x | y]``. Both are C-contiguous and of native
byte order.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from . import buffers
from .nodes import check_dtype, check_size, count_nodes, refuse_beyond_memory


class LeafBias(NamedTuple):
    """The biases of the leaf form, or their gradients.

    Attributes
    ----------
    routers : ndarray, shape (n_trees, 2**depth - 1)
        Added to the scores of the routers; as a gradient None where the routers have none.
    hidden : ndarray, shape (n_trees, 2**depth, width)
        Added to the scores of the hidden neurons.
    output : ndarray, shape (n_trees, 2**depth, n_out)
        Added to the output of each leaf.
    """

    routers: Any
    hidden: Any
    output: Any


def init_leaf(
    n_in: int,
    n_out: int,
    depth: int,
    width: int,
    n_trees: int = 1,
    *,
    rng: int | np.random.Generator | None = 0,
    dtype: DTypeLike = np.float32,
) -> tuple[NDArray[np.floating], NDArray[np.floating], LeafBias]:
    """Draw the routers and the leaves of a forest of the leaf form.

    Every number lies in ±1/√n, where n numbers are added up: n_in of the input for routers and
    hidden neurons, `width` hidden neurons for the outputs; biases likewise, as in torch's linear
    layers.

    Parameters
    ----------
    n_in, n_out : int
        Widths of the input and of the output.
    depth : int
        Levels of routers, 1 to 31; a tree has ``2**depth`` leaves.
    width : int
        Hidden neurons of each leaf.
    n_trees : int, default 1
        Number of trees; their outputs are summed.
    rng : int, numpy.random.Generator or None, default 0
        Seed or generator; None draws fresh entropy.
    dtype : float32 or float64, default float32
        Type of the result.

    Returns
    -------
    routers : ndarray, shape (n_trees, 2**depth - 1, n_in)
        The vectors that choose the leaf.
    leaves : ndarray, shape (n_trees, 2**depth, width, n_in + n_out)
        The hidden neurons, rows ``[x | y]``.
    bias : LeafBias
        Their biases and those of the outputs.

    Raises
    ------
    TypeError, ValueError
        If a size is not a positive integer, or `dtype` is unknown.
    MemoryError
        If an array would not fit in the memory of this machine; says how many bytes it takes.

    Examples
    --------
    >>> import fffnb
    >>> routers, leaves, bias = fffnb.init_leaf(784, 10, depth=4, width=8)
    >>> routers.shape, leaves.shape, bias.output.shape
    ((1, 15, 784), (1, 16, 8, 794), (1, 16, 10))
    """
    n_in, n_out = check_size("n_in", n_in), check_size("n_out", n_out)
    n_nodes, n_trees = count_nodes(depth), check_size("n_trees", n_trees)
    width, kind = check_size("width", width), check_dtype(dtype)
    forest = (n_trees, n_nodes + 1)
    shapes = {
        "routers": (n_trees, n_nodes, n_in),
        "leaves": (*forest, width, n_in + n_out),
        "bias.routers": (n_trees, n_nodes),
        "bias.hidden": (*forest, width),
        "bias.output": (*forest, n_out),
    }
    for name, shape in shapes.items():
        refuse_beyond_memory(name, shape, kind)
    generator = np.random.default_rng(rng)
    routers, leaves, *biases = (_uniform(shape, kind, generator) for shape in shapes.values())
    leaves[..., n_in:] /= math.sqrt(width)
    biases[2] /= math.sqrt(width)
    for array in (routers, leaves[..., :n_in], *biases[:2]):
        array /= math.sqrt(n_in)
    return routers, leaves, LeafBias(*biases)


def _uniform(
    shape: tuple[int, ...], dtype: np.dtype[Any], generator: np.random.Generator
) -> NDArray[Any]:
    """Return an array drawn from ±1, without a second copy of it."""
    array = buffers.empty(shape, dtype)
    real: Any = dtype.type
    generator.random(dtype=real, out=array)
    array *= 2
    array -= 1
    return array
