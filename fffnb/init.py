"""How the parameters of all forms are drawn."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

from . import buffers
from .leaves import LeafBias
from .nodes import check_dtype, check_size, count_flat_rows, count_nodes, refuse_beyond_memory


def init_nodes(
    n_in: int,
    n_out: int,
    depth: int,
    n_trees: int = 1,
    *,
    scheme: Literal["sphere", "uniform"] = "sphere",
    rng: int | np.random.Generator | None = 0,
    dtype: DTypeLike = np.float32,
) -> NDArray[np.floating]:
    """Draw the nodes of a forest.

    Parameters
    ----------
    n_in, n_out : int
        Widths of the input and of the output.
    depth : int
        Levels of each tree, which is also the number of nodes that a sample visits in it.
    n_trees : int, default 1
        Number of trees; their outputs are summed.
    scheme : {"sphere", "uniform"}, default "sphere"
        "sphere": every x vector and every y vector has length 1 and a uniform direction, as in the
        original FFF project. "uniform": x in ±1/√n_in and y in ±1/√depth, as in UltraFastBERT
        (arXiv:2311.10770).
    rng : int, numpy.random.Generator or None, default 0
        Seed or generator; None draws fresh entropy.
    dtype : float32 or float64, default float32
        Type of the result.

    Returns
    -------
    ndarray, shape (n_trees, 2**depth - 1, n_in + n_out)
        Rows ``[x | y]``.

    Raises
    ------
    TypeError, ValueError
        If a size is not a positive integer, or `scheme` or `dtype` is unknown.
    MemoryError
        If the nodes would not fit in the memory of this machine; says how many bytes they take.

    Examples
    --------
    >>> import fffnb
    >>> fffnb.init_nodes(784, 10, depth=4).shape
    (1, 15, 794)
    """
    return _draw_nodes(n_in, n_out, count_nodes(depth), depth, n_trees, scheme, rng, dtype)


def init_bag(
    n_in: int,
    n_out: int,
    n_nodes: int,
    n_trees: int = 1,
    *,
    scheme: Literal["sphere", "uniform"] = "sphere",
    rng: int | np.random.Generator | None = 0,
    dtype: DTypeLike = np.float32,
) -> NDArray[np.floating]:
    """Draw the nodes of bags.

    Parameters
    ----------
    n_in, n_out, n_trees, scheme, rng, dtype
        As those of `init_nodes`, but that "uniform" draws y in ±1/√n_nodes, as in a dense layer of
        n_nodes neurons.
    n_nodes : int
        Number of nodes of each bag, any.

    Returns
    -------
    ndarray, shape (n_trees, n_nodes, n_in + n_out)
        Rows ``[x | y]``.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As by `init_nodes`.

    Examples
    --------
    >>> import fffnb
    >>> fffnb.init_bag(784, 10, n_nodes=64).shape
    (1, 64, 794)
    """
    n_nodes = check_size("n_nodes", n_nodes)
    return _draw_nodes(n_in, n_out, n_nodes, n_nodes, n_trees, scheme, rng, dtype)


def init_keys(
    n_in: int,
    n_out: int,
    n_keys: int,
    n_trees: int = 1,
    *,
    rng: int | np.random.Generator | None = 0,
    dtype: DTypeLike = np.float32,
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Draw product keys and the y vectors of their nodes, all of length 1, in uniform directions.

    Parameters
    ----------
    n_in, n_out : int
        Widths of the input, which must be even, and of the output.
    n_keys : int
        Keys of each half of the input; there are n_keys² nodes.
    n_trees, rng, dtype
        As those of `init_nodes`; the trees have keys of their own and share the y vectors.

    Returns
    -------
    keys : ndarray, shape (n_trees, 2, n_keys, n_in / 2)
        The keys.
    y_vectors : ndarray, shape (n_keys**2, n_out)
        The output vectors of the nodes.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As by `init_nodes`; also if `n_in` is odd.

    Examples
    --------
    >>> import fffnb
    >>> keys, y_vectors = fffnb.init_keys(784, 10, n_keys=32)
    >>> keys.shape, y_vectors.shape
    ((1, 2, 32, 392), (1024, 10))
    """
    n_in, n_out = check_size("n_in", n_in), check_size("n_out", n_out)
    n_keys, n_trees = check_size("n_keys", n_keys), check_size("n_trees", n_trees)
    if n_in % 2:
        raise ValueError(f"n_in must be even, as keys score the halves of x, got {n_in}")
    kind = check_dtype(dtype)
    shapes = {"keys": (n_trees, 2, n_keys, n_in // 2), "y_vectors": (n_keys**2, n_out)}
    for name, shape in shapes.items():
        refuse_beyond_memory(name, shape, kind)
    generator = np.random.default_rng(rng)
    keys, y_vectors = (buffers.empty(shape, kind) for shape in shapes.values())
    for vectors in (keys.reshape(-1, n_in // 2), *np.split(y_vectors, n_keys)):
        _draw(vectors, n_in, "sphere", generator)
    return keys, y_vectors


def init_flat(
    n_in: int,
    n_out: int,
    depth: int,
    n_trees: int = 1,
    *,
    rows: Literal["nodes", "patterns"] = "nodes",
    scheme: Literal["sphere", "uniform"] = "sphere",
    rng: int | np.random.Generator | None = 0,
    dtype: DTypeLike = np.float32,
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Draw the planes and the y vectors of a forest of the flat form.

    Parameters
    ----------
    n_in, n_out, depth, n_trees, scheme, rng, dtype
        As those of `init_nodes`; the planes are drawn as x vectors are.
    rows : {"nodes", "patterns"}, default "nodes"
        What has a y vector: "nodes", each node of the tree, which samples share whose signs agree
        down to it; "patterns", each level for each pattern of all signs, which is each leaf.

    Returns
    -------
    planes : ndarray, shape (n_trees, depth, n_in)
        One plane for each level of each tree.
    y_vectors : ndarray, shape (n_trees, n_rows, n_out)
        The output vectors; n_rows is ``2**depth - 1`` for nodes and ``2**depth * depth`` for
        patterns, where row ``leaf * depth + level`` is that of a level for a leaf.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As by `init_nodes`, or if `rows` is unknown.

    Examples
    --------
    >>> import fffnb
    >>> planes, y_vectors = fffnb.init_flat(784, 10, depth=4)
    >>> planes.shape, y_vectors.shape
    ((1, 4, 784), (1, 15, 10))
    >>> fffnb.init_flat(784, 10, depth=4, rows="patterns")[1].shape
    (1, 64, 10)
    """
    n_in, n_out = check_size("n_in", n_in), check_size("n_out", n_out)
    n_trees = check_size("n_trees", n_trees)
    shape = (n_trees, count_flat_rows(depth, rows), n_out)
    kind = check_dtype(dtype)
    _check_scheme(scheme)
    refuse_beyond_memory("planes", (n_trees, depth, n_in), kind)
    refuse_beyond_memory("y_vectors", shape, kind)
    generator = np.random.default_rng(rng)
    planes = buffers.empty((n_trees, depth, n_in), kind)
    y_vectors = buffers.empty(shape, kind)
    for tree_planes, tree_vectors in zip(planes, y_vectors, strict=True):
        _draw(tree_planes, n_in, scheme, generator)
        _draw(tree_vectors, depth, scheme, generator)
    return planes, y_vectors


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


def _draw_nodes(
    n_in: int,
    n_out: int,
    n_nodes: int,
    bound: int,
    n_trees: int,
    scheme: str,
    rng: int | np.random.Generator | None,
    dtype: DTypeLike,
) -> NDArray[np.floating]:
    """Draw trees or bags of nodes, whose y vectors are in ±1/√bound if "uniform"."""
    n_in, n_out = check_size("n_in", n_in), check_size("n_out", n_out)
    shape = (check_size("n_trees", n_trees), n_nodes, n_in + n_out)
    kind = check_dtype(dtype)
    _check_scheme(scheme)
    refuse_beyond_memory("nodes", shape, kind)
    generator = np.random.default_rng(rng)
    nodes = buffers.empty(shape, kind)
    for tree in nodes:  # tree by tree: the draws need no second copy of a large forest
        _draw(tree[:, :n_in], n_in, scheme, generator)
        _draw(tree[:, n_in:], bound, scheme, generator)
    return nodes


def _check_scheme(scheme: str) -> None:
    """Refuse a way to draw that is unknown."""
    if scheme not in ("sphere", "uniform"):
        raise ValueError(f"scheme must be 'sphere' or 'uniform', got {scheme!r}")


def _draw(vectors: NDArray[Any], bound: int, scheme: str, generator: np.random.Generator) -> None:
    """Fill the rows of a matrix: in ±1/√bound if "uniform", else with unit vectors."""
    real: Any = vectors.dtype.type
    if scheme == "uniform":
        vectors[...] = generator.random(vectors.shape, real) * 2 - 1
        vectors /= math.sqrt(bound)
    else:
        vectors[...] = generator.standard_normal(vectors.shape, real)
        vectors /= np.sqrt(np.einsum("ij,ij->i", vectors, vectors))[:, None]


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
