"""Weights of UltraFastBERT (arXiv:2311.10770), which needs nothing but PyTorch.

It keeps a forest as two linear layers over all of its nodes, tree after tree: row k of
``linear_in.weight`` is the x vector of node k, column k of ``linear_out.weight`` its y vector, node
k's children are 2k + 1 and 2k + 2, and a path goes right where the score is positive. Its depth
counts the edges of a path, so it is one less than the depth here; its parallel_size is n_trees.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .. import nn
from ..nodes import MAX_DEPTH, check_size, count_nodes, pack_nodes, split_nodes
from . import convert, missing

try:
    import torch
except ModuleNotFoundError as error:
    raise missing("torch", "torch") from error

#: The tensors of a layer by name, with the axis along which the nodes lie, and how many axes.
LAYOUT = {"linear_in.weight": (0, 2), "linear_in.bias": (0, 1), "linear_out.weight": (1, 2)}


def from_ultrafastbert(
    state_dict: Mapping[str, torch.Tensor],
    *,
    depth: int,
    parallel_size: int,
    prefix: str = "",
    activation: str = "gelu",
) -> nn.FFF:
    """Return NumPy's layer with the weights of one of UltraFastBERT's, bit by bit.

    Parameters
    ----------
    state_dict : mapping of str to torch.Tensor
        Holds ``linear_in.weight`` (parallel_size * n_nodes, n_in), ``linear_in.bias``
        (parallel_size * n_nodes,) and ``linear_out.weight`` (n_out, parallel_size * n_nodes) with
        n_nodes = 2 ** (depth + 1) - 1, all float32 or all float64, on any device. It is copied.
    depth : int
        Edges of a path, as UltraFastBERT counts: the layer has ``depth + 1`` levels.
    parallel_size : int
        Number of trees.
    prefix : str, default ""
        What the three names begin with, such as ``"encoder.layers.0.ffn."``; others are left out.
    activation : str, default "gelu"
        What the model applies to its scores, which a state_dict does not tell; see `fff_forward`.

    Returns
    -------
    fffnb.nn.FFF
        The layer, with a bias for each node. ``convert(layer, "torch")`` is PyTorch's.

    Raises
    ------
    TypeError
        If something is no tensor of float32 or float64, or a number no int.
    ValueError
        If names are missing, unknown or of other sizes, which says what would fit;
        if ``linear_out.bias`` is there and not zero, as a layer here adds nothing to its output;
        if the activation is unknown.

    Examples
    --------
    >>> import torch
    >>> from fffnb.bridges.ultrafastbert import from_ultrafastbert
    >>> state = {
    ...     "linear_in.weight": torch.randn(2 * 7, 5),
    ...     "linear_in.bias": torch.randn(2 * 7),
    ...     "linear_out.weight": torch.randn(5, 2 * 7),
    ... }
    >>> layer = from_ultrafastbert(state, depth=2, parallel_size=2)
    >>> layer.nodes.shape, layer.depth
    ((2, 7, 10), 3)
    """
    shape = (check_size("parallel_size", parallel_size), count_nodes(_levels(depth)))
    tensors = _tensors(state_dict, prefix)
    _check_sizes(tensors, prefix, depth, *shape)
    weight_in, bias, weight_out = (tensor.detach().cpu().numpy() for tensor in tensors.values())
    n_in, n_out = weight_in.shape[1], weight_out.shape[0]
    nodes = pack_nodes(weight_in.reshape(*shape, n_in), weight_out.T.reshape(*shape, n_out))
    return nn.FFF.of(n_in, activation, nodes, bias.reshape(shape).copy())


def to_ultrafastbert(layer: Any, *, activation: str = "gelu") -> dict[str, torch.Tensor]:
    """Return the weights of a layer as the state_dict of one of UltraFastBERT's, bit by bit.

    Parameters
    ----------
    layer : fffnb.nn.FFF, fffnb.bridges.torch.FFF or fffnb.bridges.jax.FFF
        The layer; it is copied. One without a bias gets zeros.
    activation : str, default "gelu"
        What the module that will hold the weights applies to its scores.

    Returns
    -------
    dict of str to torch.Tensor
        ``linear_in.weight``, ``linear_in.bias`` and ``linear_out.weight``, on the CPU, of the
        layer's dtype, for ``depth=layer.depth - 1`` and ``parallel_size=layer.n_trees``.

    Raises
    ------
    TypeError
        If the layer is no FFF layer.
    ValueError
        If the layer has another activation.

    Examples
    --------
    >>> import fffnb
    >>> from fffnb.bridges.ultrafastbert import to_ultrafastbert
    >>> layer = fffnb.FFF(5, 5, depth=3, n_trees=2, activation="gelu")
    >>> to_ultrafastbert(layer)["linear_out.weight"].shape
    torch.Size([5, 14])
    """
    layer = convert(layer, "numpy")
    if layer.activation != activation:
        raise ValueError(
            f"layer must have the activation of the module that will hold its weights, "
            f"{activation!r}, got {layer.activation!r}"
        )
    x_vectors, y_vectors = split_nodes(layer.nodes, layer.n_in)
    bias = np.zeros(layer.nodes.shape[:2], layer.nodes.dtype) if layer.bias is None else layer.bias
    arrays = (
        x_vectors.reshape(layer.neurons, layer.n_in),
        bias.reshape(layer.neurons),
        y_vectors.reshape(layer.neurons, layer.n_out).T,
    )
    return {key: torch.from_numpy(array.copy()) for key, array in zip(LAYOUT, arrays, strict=True)}


def _levels(depth: int) -> int:
    """Return the levels of a tree whose paths have `depth` edges."""
    if isinstance(depth, bool) or not isinstance(depth, (int, np.integer)):
        raise TypeError(f"depth must be an int, got {type(depth).__name__}")
    if not 0 <= depth < MAX_DEPTH:
        raise ValueError(
            f"depth must be from 0 to {MAX_DEPTH - 1}, the edges of a path, got {depth}"
        )
    return int(depth) + 1


def _tensors(state_dict: object, prefix: str) -> dict[str, torch.Tensor]:
    """Return the three tensors of a layer, the only ones under the prefix."""
    if not isinstance(state_dict, Mapping):
        raise TypeError(
            f"state_dict must map names to tensors, got {type(state_dict).__qualname__}"
        )
    found = {key[len(prefix) :]: state_dict[key] for key in state_dict if key.startswith(prefix)}
    if not found.keys() >= LAYOUT.keys():
        raise ValueError(
            f"state_dict must hold {', '.join(prefix + key for key in LAYOUT)}, "
            + _what_is_there(state_dict)
        )
    for key, tensor in found.items():
        if not isinstance(tensor, torch.Tensor):
            raise TypeError(f"{prefix}{key} must be a tensor, got {type(tensor).__qualname__}")
    shift = found.pop("linear_out.bias", None)
    if shift is not None and shift.any():
        raise ValueError(
            f"{prefix}linear_out.bias must be absent or zero, as an FFF layer adds nothing to its "
            f"output, got values up to {shift.abs().max():.3g}"
        )
    if len(found) > len(LAYOUT):
        raise ValueError(
            f"state_dict must hold nothing but {', '.join(LAYOUT)} under the prefix {prefix!r}, "
            f"got {', '.join(sorted(found.keys() - LAYOUT.keys())[:3])}"
        )
    return {key: found[key] for key in LAYOUT}


def _what_is_there(state_dict: Mapping[str, Any]) -> str:
    """Return what to say of a state_dict that lacks names: prefixes that fit, or what it holds."""
    first = next(iter(LAYOUT))
    prefixes = [
        prefix
        for prefix in (key.removesuffix(first) for key in state_dict if key.endswith(first))
        if all(prefix + key in state_dict for key in LAYOUT)
    ]
    if prefixes:
        return f"which it has with prefix= {' or '.join(map(repr, prefixes[:3]))}"
    return f"got {', '.join(list(state_dict)[:3]) or 'nothing'}"


def _check_sizes(
    tensors: Mapping[str, torch.Tensor], prefix: str, depth: int, n_trees: int, n_nodes: int
) -> None:
    """Refuse tensors of other sizes or dtypes than a forest's."""
    rows = n_trees * n_nodes
    dtype = tensors["linear_in.weight"].dtype
    for key, (axis, ndim) in LAYOUT.items():
        tensor = tensors[key]
        if tensor.dtype not in (torch.float32, torch.float64) or tensor.dtype != dtype:
            raise TypeError(
                f"{prefix}{key} must be float32 or float64 like the others, got {tensor.dtype}; "
                "tensor.float() is a copy"
            )
        if tensor.ndim != ndim or tensor.shape[axis] != rows:
            raise ValueError(
                f"{prefix}{key} must have {ndim} axes and {rows} = parallel_size * (2 ** (depth + "
                f"1) - 1) nodes on axis {axis} for parallel_size={n_trees} and depth={depth}, "
                f"got shape {tuple(tensor.shape)}{_fitting(tensors, n_trees, n_nodes)}"
            )


def _fitting(tensors: Mapping[str, torch.Tensor], n_trees: int, n_nodes: int) -> str:
    """Return which depth or parallel_size would fit tensors that agree among themselves."""
    sizes = {
        tensors[key].shape[axis] if tensors[key].ndim == ndim else None
        for key, (axis, ndim) in LAYOUT.items()
    }
    rows = sizes.pop()
    if sizes or not rows:
        return ""
    ways = []
    if rows % n_trees == 0 and (rows // n_trees + 1).bit_count() == 1:
        ways.append(f"depth={(rows // n_trees).bit_length() - 1}")
    if rows % n_nodes == 0:
        ways.append(f"parallel_size={rows // n_nodes}")
    return f"; it fits with {' or '.join(ways)}" if ways else ""
