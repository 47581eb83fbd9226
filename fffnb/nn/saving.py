"""Models in files: the structure as JSON metadata, the parameters as arrays."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from ..files import read_arrays, write_arrays
from ..leaves import LeafBias
from ..nodes import count_flat_rows
from ..ops.paths import check_temperature
from .bag import BagFFF, ProductKeyFFF
from .flat import FlatFFF
from .layer import Array, Layer
from .layers import FFF, GELU, Linear, ReLU, Sequential
from .leaf import LeafFFF
from .sum import Mix, Sum

#: Sequential, Sum or Mix in Sequential in ..., at most so deep.
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
    layer = _build(_Source(config, left, "", 0))
    if left:
        raise ValueError(f"the structure has no place for the parameters {', '.join(left)}")
    return layer


class _Source(NamedTuple):
    """What a layer is built from: its structure, and the parameters from which it takes its own."""

    config: Any
    left: dict[str, Array]
    prefix: str
    nesting: int

    def integer(self, field: str) -> int:
        """Return a field that must be a positive integer."""
        value = self.config.get(field)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{field} of a layer must be a positive integer, got {value!r}")
        return value

    def integers(self, *fields: str) -> Iterator[int]:
        """Yield fields that must be positive integers."""
        return map(self.integer, fields)

    def truth(self, field: str) -> bool:
        """Return a field that must be true or false."""
        value = self.config.get(field)
        if not isinstance(value, bool):
            raise ValueError(f"{field} of a layer must be true or false, got {value!r}")
        return value

    def number(self, field: str) -> float:
        """Return a field that must be a number."""
        value = self.config.get(field)
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise ValueError(f"{field} of a layer must be a number, got {value!r}")
        return value

    def text(self, field: str) -> str:
        """Return a field whose words the layer checks."""
        return str(self.config.get(field))

    def take(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any] | None = None) -> Array:
        """Take a parameter of a given shape, of a given dtype or of either float."""
        dtypes = (np.float32, np.float64) if dtype is None else (dtype,)
        name = self.prefix + name
        array = self.left.pop(name, None)
        if array is None or array.shape != shape or array.dtype not in dtypes:
            came = "none" if array is None else f"{array.dtype} of shape {array.shape}"
            kind = "float" if dtype is None else dtype
            raise ValueError(
                f"parameter {name!r} must be a {kind} array of shape {shape}, got {came}"
            )
        return array

    def inner(self) -> Iterator[Layer]:
        """Build the layers inside."""
        layers = self.config.get("layers")
        if not isinstance(layers, list) or self.nesting == MAX_NESTING:
            raise ValueError(
                f"the structure must hold a list of layers, nested at most {MAX_NESTING} times"
            )
        for i, config in enumerate(layers):
            yield _build(_Source(config, self.left, f"{self.prefix}{i}.", self.nesting + 1))


def _build(source: _Source) -> Layer:
    """Build one layer of any kind."""
    kind = source.config.get("kind") if isinstance(source.config, dict) else None
    if not isinstance(kind, str) or kind not in _BUILDERS:
        *kinds, last = _BUILDERS
        raise ValueError(f"a layer must be {', '.join(kinds)} or {last}, got {kind!r}")
    return _BUILDERS[kind](source)


def _build_fff(source: _Source) -> FFF:
    """Build an FFF layer."""
    n_in, n_out, depth, n_trees = source.integers("n_in", "n_out", "depth", "n_trees")
    biased, forest = source.truth("bias"), (n_trees, 2 ** min(depth, 64) - 1)
    nodes = source.take("nodes", (*forest, n_in + n_out))
    bias = source.take("bias", forest, nodes.dtype) if biased else None
    layer = FFF.of(n_in, source.text("activation"), nodes, bias)
    if "straight_through" in source.config:
        layer.straight_through = check_temperature(source.number("straight_through"))
    return layer


def _build_flat(source: _Source) -> FlatFFF:
    """Build a layer of the flat form."""
    n_in, n_out, depth, n_trees = source.integers("n_in", "n_out", "depth", "n_trees")
    biased, n_rows = source.truth("bias"), count_flat_rows(depth, source.text("rows"))
    planes = source.take("planes", (n_trees, depth, n_in))
    y_vectors = source.take("y_vectors", (n_trees, n_rows, n_out), planes.dtype)
    bias = source.take("bias", (n_trees, depth), planes.dtype) if biased else None
    return FlatFFF.of(source.text("activation"), planes, y_vectors, bias)


def _build_bag(source: _Source) -> BagFFF:
    """Build the layer of a bag."""
    n_in, n_out, *forest = source.integers("n_in", "n_out", "n_trees", "n_nodes")
    k = None if source.config.get("k", 0) is None else source.integer("k")
    biased = source.truth("bias")
    nodes = source.take("nodes", (*forest, n_in + n_out))
    bias = source.take("bias", tuple(forest), nodes.dtype) if biased else None
    return BagFFF.of(n_in, k, source.text("activation"), nodes, bias)


def _build_keys(source: _Source) -> ProductKeyFFF:
    """Build the layer of product keys."""
    n_in, n_out, n_trees, n_keys, k = source.integers("n_in", "n_out", "n_trees", "n_keys", "k")
    if n_in % 2:
        raise ValueError(f"n_in of a layer of product keys must be even, got {n_in}")
    keys = source.take("keys", (n_trees, 2, n_keys, n_in // 2))
    y_vectors = source.take("y_vectors", (n_keys**2, n_out), keys.dtype)
    return ProductKeyFFF.of(k, source.text("activation"), keys, y_vectors)


def _build_leaf(source: _Source) -> LeafFFF:
    """Build a layer of the leaf form."""
    n_in, n_out, depth, n_trees = source.integers("n_in", "n_out", "depth", "n_trees")
    width, biased = source.integer("width"), source.truth("bias")
    n_leaves = 2 ** min(depth, 64)
    routed, leaves = (n_trees, n_leaves - 1), (n_trees, n_leaves)
    routers = source.take("routers", (*routed, n_in))
    table = source.take("leaves", (*leaves, width, n_in + n_out), routers.dtype)
    bias = None
    if biased:
        bias = LeafBias(
            source.take("router_bias", routed, routers.dtype),
            source.take("hidden_bias", (*leaves, width), routers.dtype),
            source.take("output_bias", (*leaves, n_out), routers.dtype),
        )
    return LeafFFF.of(source.text("activation"), routers, table, bias)


def _build_linear(source: _Source) -> Linear:
    """Build a dense layer."""
    n_in, n_out = source.integers("n_in", "n_out")
    weight, biased = source.take("weight", (n_in, n_out)), source.truth("bias")
    return Linear.of(weight, source.take("bias", (n_out,), weight.dtype) if biased else None)


def _build_mix(source: _Source) -> Mix:
    """Build two layers and their shares."""
    layers = list(source.inner())
    if len(layers) != 2:
        raise ValueError(f"a Mix must hold two layers, got {len(layers)}")
    first, second = layers
    return Mix.of(first, second, source.take("mixing", (1,)))


#: What builds a layer, by the kind that its structure names.
_BUILDERS: dict[str, Callable[[_Source], Layer]] = {
    "FFF": _build_fff,
    "FlatFFF": _build_flat,
    "BagFFF": _build_bag,
    "ProductKeyFFF": _build_keys,
    "LeafFFF": _build_leaf,
    "Linear": _build_linear,
    "ReLU": lambda source: ReLU(),
    "GELU": lambda source: GELU(),
    "Sequential": lambda source: Sequential(*source.inner()),
    "Sum": lambda source: Sum(*source.inner()),
    "Mix": _build_mix,
}
