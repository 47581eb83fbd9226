"""Models in files: the structure as JSON metadata, the parameters as arrays."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..files import read_arrays, write_arrays
from ..leaves import LeafBias
from ..nodes import count_flat_rows
from .bag import BagFFF, ProductKeyFFF
from .flat import FlatFFF
from .layer import Array, Layer
from .layers import FFF, GELU, Linear, ReLU, Sequential
from .leaf import LeafFFF
from .sum import Sum

#: Sequential or Sum in Sequential in ..., at most so deep.
MAX_NESTING = 8


def save_model(
    path: str | os.PathLike[str], model: Layer, *, extra_metadata: Mapping[str, Any] | None = None
) -> None:
    """Write a model to a safetensors file, or leave the old file as it was.

    Parameters
    ----------
    path : path
        File to write.
    model : Layer
        The model.
    extra_metadata : mapping, optional
        What else to keep, as JSON: `load_metadata` returns it.

    Raises
    ------
    fffnb.files.FileError
        If the file cannot be written.
    ImportError
        If safetensors is not installed.

    Examples
    --------
    >>> import os, tempfile
    >>> from fffnb import nn
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "model.safetensors")
    ...     nn.save_model(path, nn.FFF(3, 2, depth=4))
    ...     nn.load_model(path).depth
    4
    """
    metadata = {"kind": "model", "config": model.config(), "extra": dict(extra_metadata or {})}
    write_arrays(path, model.parameters, metadata)


def load_model(path: str | os.PathLike[str]) -> Layer:
    """Read a model of `save_model`; everything is checked, nothing in the file is executed.

    Parameters
    ----------
    path : path
        File to read.

    Returns
    -------
    Layer
        The model with its parameters.

    Raises
    ------
    fffnb.files.FileError
        If the file is missing, damaged or no model.
    ValueError
        If structure and parameters do not fit together.
    """
    parameters, metadata = read_arrays(path, kind="model")
    return layer_from_config(metadata.get("config"), parameters)


def load_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what `save_model` kept as `extra_metadata`."""
    extra = read_arrays(path, kind="model")[1].get("extra")
    return extra if isinstance(extra, dict) else {}


def layer_from_config(config: Any, parameters: Mapping[str, Array]) -> Layer:
    """Build a layer from the structure that `Layer.config` returned and its parameters.

    Parameters
    ----------
    config : object
        JSON object; what it says of sizes must agree with the parameters.
    parameters : mapping of str to ndarray
        The parameters by name, all of them and no others; they are used, not copied.

    Returns
    -------
    Layer
        The layer.

    Raises
    ------
    ValueError
        If a kind is unknown, a field is missing or of a wrong type, or a parameter is missing, left
        over, or does not fit.
    """
    left = dict(parameters)
    layer = _build(config, left, "", 0)
    if left:
        raise ValueError(f"the structure has no place for the parameters {', '.join(left)}")
    return layer


def _build(config: Any, left: dict[str, Array], prefix: str, nesting: int) -> Layer:
    """Build one layer, taking its parameters out of `left`."""
    kind = config.get("kind") if isinstance(config, dict) else None
    if kind in ("Sequential", "Sum"):
        layers = config.get("layers")
        if not isinstance(layers, list) or nesting == MAX_NESTING:
            raise ValueError(
                f"the structure must hold a list of layers, nested at most {MAX_NESTING} times"
            )
        build = Sequential if kind == "Sequential" else Sum
        return build(
            *(_build(each, left, f"{prefix}{i}.", nesting + 1) for i, each in enumerate(layers))
        )
    if kind in ("ReLU", "GELU"):
        return ReLU() if kind == "ReLU" else GELU()
    if kind == "Linear":
        n_in, n_out = _integer(config, "n_in"), _integer(config, "n_out")
        weight = _take(left, prefix + "weight", (n_in, n_out))
        biased = _truth(config, "bias")
        return Linear.of(
            weight, _take(left, prefix + "bias", (n_out,), weight.dtype) if biased else None
        )
    if kind in ("FFF", "FlatFFF"):
        return _build_fff(config, left, prefix)
    if kind == "BagFFF":
        return _build_bag(config, left, prefix)
    if kind == "ProductKeyFFF":
        return _build_keys(config, left, prefix)
    if kind == "LeafFFF":
        return _build_leaf(config, left, prefix)
    raise ValueError(
        "a layer must be FFF, FlatFFF, BagFFF, ProductKeyFFF, LeafFFF, Linear, ReLU, GELU, "
        f"Sequential or Sum, got {kind!r}"
    )


def _build_fff(config: dict[str, Any], left: dict[str, Array], prefix: str) -> FFF | FlatFFF:
    """Build an FFF layer, of nodes or of planes, taking its parameters out of `left`."""
    n_in, n_out = _integer(config, "n_in"), _integer(config, "n_out")
    depth, n_trees = _integer(config, "depth"), _integer(config, "n_trees")
    biased, activation = _truth(config, "bias"), str(config.get("activation"))
    if config["kind"] == "FFF":
        forest = (n_trees, 2 ** min(depth, 64) - 1)
        nodes = _take(left, prefix + "nodes", (*forest, n_in + n_out))
        bias = _take(left, prefix + "bias", forest, nodes.dtype) if biased else None
        return FFF.of(n_in, activation, nodes, bias)
    n_rows = count_flat_rows(depth, str(config.get("rows")))
    planes = _take(left, prefix + "planes", (n_trees, depth, n_in))
    y_vectors = _take(left, prefix + "y_vectors", (n_trees, n_rows, n_out), planes.dtype)
    bias = _take(left, prefix + "bias", (n_trees, depth), planes.dtype) if biased else None
    return FlatFFF.of(activation, planes, y_vectors, bias)


def _build_bag(config: dict[str, Any], left: dict[str, Array], prefix: str) -> BagFFF:
    """Build the layer of a bag, taking its parameters out of `left`."""
    n_in, n_out = _integer(config, "n_in"), _integer(config, "n_out")
    forest = _integer(config, "n_trees"), _integer(config, "n_nodes")
    k = None if config.get("k", 0) is None else _integer(config, "k")
    nodes = _take(left, prefix + "nodes", (*forest, n_in + n_out))
    biased = _truth(config, "bias")
    bias = _take(left, prefix + "bias", forest, nodes.dtype) if biased else None
    return BagFFF.of(n_in, k, str(config.get("activation")), nodes, bias)


def _build_keys(config: dict[str, Any], left: dict[str, Array], prefix: str) -> ProductKeyFFF:
    """Build the layer of product keys, taking its parameters out of `left`."""
    n_in, n_out = _integer(config, "n_in"), _integer(config, "n_out")
    n_trees, n_keys = _integer(config, "n_trees"), _integer(config, "n_keys")
    if n_in % 2:
        raise ValueError(f"n_in of a layer of product keys must be even, got {n_in}")
    keys = _take(left, prefix + "keys", (n_trees, 2, n_keys, n_in // 2))
    y_vectors = _take(left, prefix + "y_vectors", (n_keys**2, n_out), keys.dtype)
    return ProductKeyFFF.of(_integer(config, "k"), str(config.get("activation")), keys, y_vectors)


def _build_leaf(config: dict[str, Any], left: dict[str, Array], prefix: str) -> LeafFFF:
    """Build a layer of the leaf form, taking its parameters out of `left`."""
    n_in, n_out = _integer(config, "n_in"), _integer(config, "n_out")
    depth, n_trees = min(_integer(config, "depth"), 64), _integer(config, "n_trees")
    width, biased = _integer(config, "width"), _truth(config, "bias")
    nodes, leaves = (n_trees, 2**depth - 1), (n_trees, 2**depth)
    routers = _take(left, prefix + "routers", (*nodes, n_in))
    table = _take(left, prefix + "leaves", (*leaves, width, n_in + n_out), routers.dtype)
    shapes = {"router": nodes, "hidden": (*leaves, width), "output": (*leaves, n_out)}
    bias = None
    if biased:
        arrays = (
            _take(left, f"{prefix}{name}_bias", shape, routers.dtype)
            for name, shape in shapes.items()
        )
        bias = LeafBias(*arrays)
    return LeafFFF.of(str(config.get("activation")), routers, table, bias)


def _take(
    left: dict[str, Array], name: str, shape: tuple[int, ...], dtype: np.dtype[Any] | None = None
) -> Array:
    """Take a parameter of a given shape, of a given dtype or of either float."""
    dtypes = (np.float32, np.float64) if dtype is None else (dtype,)
    array = left.pop(name, None)
    if array is None or array.shape != shape or array.dtype not in dtypes:
        came = "none" if array is None else f"{array.dtype} of shape {array.shape}"
        kind = "float" if dtype is None else dtype
        raise ValueError(f"parameter {name!r} must be a {kind} array of shape {shape}, got {came}")
    return array


def _integer(config: dict[str, Any], field: str) -> int:
    """Return a field that must be a positive integer."""
    value = config.get(field)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{field} of a layer must be a positive integer, got {value!r}")
    return value


def _truth(config: dict[str, Any], field: str) -> bool:
    """Return a field that must be true or false."""
    value = config.get(field)
    if not isinstance(value, bool):
        raise ValueError(f"{field} of a layer must be true or false, got {value!r}")
    return value
