"""Weights of the `fastfeedforward` package (arXiv:2308.14711); needs NumPy alone.

It keeps one tree: ``node_weights`` and ``node_biases`` score the routers, numbered as here, and the
leaf i computes ``act(x @ w1s[i] + b1s[i]) @ w2s[i] + b2s[i]``. A path goes right from a score of 0
on, and its depth counts routers, both as in the leaf form here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .. import nn
from ..leaves import LeafBias
from ..ops.arrays import FLOATS, Array
from . import convert

#: The names of the arrays of a layer.
NAMES = ("node_weights", "node_biases", "w1s", "b1s", "w2s", "b2s")

#: What else its state_dict may hold: the depth, which shapes tell too, and counts of visits.
REST = ("depth", "node_usage", "leaf_usage")


def from_fastfeedforward(
    state_dict: Mapping[str, Any], *, prefix: str = "", activation: str = "relu"
) -> nn.LeafFFF:
    """Return NumPy's layer with the weights of an `FFF` of fastfeedforward, bit by bit.

    Parameters
    ----------
    state_dict : mapping of str to array
        Holds ``node_weights`` (2**depth - 1, input_width), ``node_biases`` (2**depth - 1, 1),
        ``w1s`` (2**depth, input_width, leaf_width), ``b1s`` (2**depth, leaf_width), ``w2s``
        (2**depth, leaf_width, output_width) and ``b2s`` (2**depth, output_width), all float32 or
        all float64: NumPy's arrays or CPU tensors of a ``state_dict()``. It is copied.
        ``depth``, ``node_usage`` and ``leaf_usage`` are not read.
    prefix : str, default ""
        What the names begin with, such as ``"encoder.0.ffn."``; others are left out.
    activation : str, default "relu"
        What the model applies in its leaves, which a state_dict does not tell; see `leaf_forward`.

    Returns
    -------
    fffnb.nn.LeafFFF
        The layer, with biases. ``convert(layer, "torch")`` is PyTorch's.

    Raises
    ------
    TypeError
        If something is no array of float32 or float64.
    ValueError
        If names are missing or unknown, shapes do not fit together, or there are no routers, as in
        a model of depth 0; if the activation is unknown.

    Examples
    --------
    >>> import numpy as np
    >>> from fffnb.bridges.fastfeedforward import from_fastfeedforward
    >>> shapes = {
    ...     "node_weights": (7, 5),
    ...     "node_biases": (7, 1),
    ...     "w1s": (8, 5, 3),
    ...     "b1s": (8, 3),
    ...     "w2s": (8, 3, 2),
    ...     "b2s": (8, 2),
    ... }
    >>> layer = from_fastfeedforward({name: np.ones(shape) for name, shape in shapes.items()})
    >>> layer.depth, layer.leaves.shape
    (3, (1, 8, 3, 7))
    """
    arrays = _arrays(state_dict, prefix)
    _check_shapes(arrays, prefix)
    routers, router_bias, w1s, hidden_bias, w2s, output_bias = arrays.values()
    leaves = np.ascontiguousarray(np.concatenate([w1s.transpose(0, 2, 1), w2s], axis=2))
    bias = LeafBias(router_bias.T.copy(), hidden_bias[None].copy(), output_bias[None].copy())
    return nn.LeafFFF.of(activation, routers[None].copy(), leaves[None], bias)


def to_fastfeedforward(layer: Any, *, activation: str = "relu") -> dict[str, Array]:
    """Return the weights of a layer as the state_dict of an `FFF` of fastfeedforward, bit by bit.

    Parameters
    ----------
    layer : fffnb.nn.LeafFFF or fffnb.bridges.torch.LeafFFF
        The layer, of one tree; it is copied. One without a bias gets zeros.
    activation : str, default "relu"
        What the module that will hold the weights applies in its leaves.

    Returns
    -------
    dict of str to ndarray
        What `from_fastfeedforward` reads, of the layer's dtype, and ``depth``, int64:
        ``{name: torch.from_numpy(array) for name, array in ...}`` is a state_dict.

    Raises
    ------
    TypeError
        If the layer is none of these.
    ValueError
        If the layer has several trees, or another activation.

    Examples
    --------
    >>> from fffnb import nn
    >>> from fffnb.bridges.fastfeedforward import to_fastfeedforward
    >>> to_fastfeedforward(nn.LeafFFF(5, 2, depth=3, width=4))["w1s"].shape
    (8, 5, 4)
    """
    own = convert(layer, "numpy")
    if not isinstance(own, nn.LeafFFF):
        raise TypeError(f"layer must be a LeafFFF, got {type(layer).__qualname__}")
    if own.n_trees != 1:
        raise ValueError(f"layer must have one tree, as fastfeedforward has, got {own.n_trees}")
    if own.activation != activation:
        raise ValueError(
            f"layer must have the activation of the module that will hold its weights, "
            f"{activation!r}, got {own.activation!r}"
        )
    (routers,), (leaves,) = own.routers, own.leaves
    if own.bias is None:
        sizes = (1, len(routers)), leaves.shape[:2], (len(leaves), own.n_out)
        router_bias, hidden_bias, output_bias = (np.zeros(size, leaves.dtype) for size in sizes)
    else:
        router_bias, (hidden_bias,), (output_bias,) = own.bias
    arrays = (
        routers,
        router_bias.T.copy(),
        leaves[:, :, : own.n_in].transpose(0, 2, 1).copy(),
        hidden_bias,
        leaves[:, :, own.n_in :].copy(),
        output_bias,
    )
    return {**dict(zip(NAMES, arrays, strict=True)), "depth": np.array(own.depth, np.int64)}


def _arrays(state_dict: object, prefix: str) -> dict[str, Array]:
    """Return the arrays of a layer, in the order of their names."""
    if not isinstance(state_dict, Mapping):
        raise TypeError(f"state_dict must map names to arrays, got {type(state_dict).__qualname__}")
    found = {key[len(prefix) :]: state_dict[key] for key in state_dict if key.startswith(prefix)}
    if not found.keys() >= set(NAMES):
        raise ValueError(
            f"state_dict must hold {', '.join(prefix + key for key in NAMES)}, "
            f"got {', '.join(list(state_dict)[:6]) or 'nothing'}"
        )
    left = found.keys() - set(NAMES) - set(REST)
    if left:
        raise ValueError(
            f"state_dict must hold nothing but {', '.join((*NAMES, *REST))} under the prefix "
            f"{prefix!r}, got {', '.join(sorted(left)[:3])}"
        )
    arrays = {key: np.asarray(found[key]) for key in NAMES}
    dtype = arrays["node_weights"].dtype
    for key, array in arrays.items():
        if array.dtype not in FLOATS or array.dtype != dtype:
            raise TypeError(
                f"{prefix}{key} must be float32 or float64 like the others, got {array.dtype}"
            )
    return arrays


def _check_shapes(arrays: Mapping[str, Array], prefix: str) -> None:
    """Refuse arrays that make no tree."""
    for key, axes in (("node_weights", 2), ("w1s", 3), ("w2s", 3)):
        shape = arrays[key].shape
        if len(shape) != axes or 0 in shape:
            raise ValueError(f"{prefix}{key} must have {axes} axes, not empty, got shape {shape}")
    n_nodes, n_in = arrays["node_weights"].shape
    n_leaves, width, n_out = n_nodes + 1, arrays["w1s"].shape[2], arrays["w2s"].shape[2]
    if n_leaves.bit_count() != 1:
        raise ValueError(f"{prefix}node_weights must have 2**depth - 1 rows, got {n_nodes}")
    shapes = {
        "node_biases": (n_nodes, 1),
        "w1s": (n_leaves, n_in, width),
        "b1s": (n_leaves, width),
        "w2s": (n_leaves, width, n_out),
        "b2s": (n_leaves, n_out),
    }
    for key, shape in shapes.items():
        if arrays[key].shape != shape:
            raise ValueError(
                f"{prefix}{key} must have shape {shape} beside node_weights of shape "
                f"{(n_nodes, n_in)}, leaf_width {width} and output_width {n_out}, "
                f"got {arrays[key].shape}"
            )
