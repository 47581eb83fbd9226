"""Hugging Face's BERT with Fast FeedForward layers in the place of its feed-forward blocks.

`from_ultrafastbert` and `to_ultrafastbert` are those of `fffnb.bridges.ultrafastbert`.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import nn
from . import convert, missing

try:
    import torch
    import transformers
    from transformers.models.bert.modeling_bert import BertLayer
except ModuleNotFoundError as error:
    raise missing(error.name or "transformers", "bert") from error

from .ultrafastbert import from_ultrafastbert, to_ultrafastbert

__all__ = ["from_ultrafastbert", "replace_feed_forward", "set_feed_forward", "to_ultrafastbert"]

#: What a BertLayer must have for its feed-forward block to be replaced.
BLOCK = ("intermediate", "output.dense", "output.LayerNorm.weight")


def replace_feed_forward(
    model: torch.nn.Module,
    *,
    depth: int,
    n_trees: int = 1,
    activation: str = "gelu",
    bias: bool = True,
    rng: int | np.random.Generator | None = 0,
    **options: Any,
) -> torch.nn.Module:
    """Put newly drawn FFF layers in the place of the feed-forward blocks of a BERT.

    In each ``BertLayer`` of transformers one layer, hidden_size → hidden_size, replaces both dense
    layers and the activation between them; dropout, residual connection and LayerNorm stay.

    Parameters
    ----------
    model : torch.nn.Module
        A ``BertModel``, a model with one inside, such as ``BertForMaskedLM``, or a ``BertLayer``.
        It is changed in place, and has other parameters then: make optimisers afterwards.
    depth, n_trees, activation, bias, rng
        See `fffnb.nn.FFF`; all layers are drawn from one generator, in the order of the model.
    **options
        What `fffnb.bridges.torch.FFF` takes besides, except the device, which is the model's.

    Returns
    -------
    torch.nn.Module
        The same model.

    Raises
    ------
    TypeError, ValueError, AttributeError
        As `set_feed_forward` and `fffnb.nn.FFF`; the model is as it was then.

    Examples
    --------
    >>> import torch, transformers
    >>> from fffnb.bridges.bert import replace_feed_forward
    >>> config = transformers.BertConfig(
    ...     vocab_size=30, hidden_size=8, num_hidden_layers=2, num_attention_heads=2
    ... )
    >>> model = replace_feed_forward(transformers.BertModel(config), depth=4)
    >>> model(torch.tensor([[1, 2, 3]])).last_hidden_state.shape
    torch.Size([1, 3, 8])
    """
    blocks = _blocks(model)
    generator = np.random.default_rng(rng)
    layers = [
        nn.FFF(
            _width(block),
            _width(block),
            depth,
            n_trees=n_trees,
            activation=activation,
            bias=bias,
            rng=generator,
            dtype=_dtype(block),
        )
        for block in blocks
    ]
    return set_feed_forward(model, layers, **options)


def set_feed_forward(
    model: torch.nn.Module, layers: Sequence[Any], **options: Any
) -> torch.nn.Module:
    """Put copies of given FFF layers in the place of the feed-forward blocks of a BERT.

    Parameters
    ----------
    model : torch.nn.Module
        See `replace_feed_forward`.
    layers : sequence of fffnb.nn.FFF, fffnb.bridges.torch.FFF or fffnb.bridges.jax.FFF
        One for each ``BertLayer``, hidden_size → hidden_size, of the dtype of the model. They are
        copied.
    **options
        See `replace_feed_forward`.

    Returns
    -------
    torch.nn.Module
        The same model.

    Raises
    ------
    TypeError
        If the model is no module or in half precision, or a layer no FFF layer or of another
        dtype.
    ValueError
        If there is no ``BertLayer`` in the model, or layers are too few, too many or of other
        widths; the model is as it was then.
    AttributeError
        If this version of transformers builds its ``BertLayer`` in another way.

    Examples
    --------
    >>> import fffnb, transformers
    >>> from fffnb.bridges.bert import set_feed_forward
    >>> config = transformers.BertConfig(
    ...     vocab_size=30, hidden_size=8, num_hidden_layers=2, num_attention_heads=2
    ... )
    >>> layers = [fffnb.FFF(8, 8, depth=4, activation="gelu", rng=i) for i in range(2)]
    >>> model = set_feed_forward(transformers.BertModel(config), layers)
    >>> model.encoder.layer[0].intermediate.nodes.shape
    torch.Size([1, 15, 16])
    """
    blocks = _blocks(model)
    if len(layers) != len(blocks):
        raise ValueError(
            f"layers must be one for each BertLayer of the model, {len(blocks)}, got {len(layers)}"
        )
    made = []
    for i, (block, layer) in enumerate(zip(blocks, layers, strict=True)):
        layer = convert(layer, "numpy")
        _check_layer(f"layers[{i}]", layer, block)
        device = block.output.LayerNorm.weight.device
        made.append(convert(layer, "torch", device=device, **options).train(block.training))
    for block, layer in zip(blocks, made, strict=True):
        block.intermediate = layer
        block.output.dense = torch.nn.Identity().train(block.training)
    return model


def _blocks(model: object) -> list[Any]:
    """Return the BertLayers of a model."""
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__qualname__}")
    blocks = [module for module in model.modules() if isinstance(module, BertLayer)]
    if not blocks:
        raise ValueError(
            f"model must contain a BertLayer of transformers, got {type(model).__qualname__} "
            "without one"
        )
    for name in BLOCK:
        try:
            operator.attrgetter(name)(blocks[0])
        except AttributeError:
            raise AttributeError(
                f"BertLayer must have {name}, which it has in transformers 4.46 to 5, "
                f"got one of version {transformers.__version__} without it"
            ) from None
    return blocks


def _width(block: Any) -> int:
    """Return the hidden size of a BertLayer."""
    return int(block.output.LayerNorm.weight.shape[0])


def _dtype(block: Any) -> np.dtype[Any]:
    """Return NumPy's dtype of the parameters of a BertLayer."""
    name = str(block.output.LayerNorm.weight.dtype).removeprefix("torch.")
    if name not in ("float32", "float64"):
        raise TypeError(
            f"model must be float32 or float64, got {name}: replace its blocks before they are in "
            "half precision, and run it under torch.autocast"
        )
    return np.dtype(name)


def _check_layer(name: str, layer: nn.FFF, block: Any) -> None:
    """Refuse a layer that does not fit into a BertLayer."""
    width, dtype = _width(block), _dtype(block)
    if (layer.n_in, layer.n_out) != (width, width):
        raise ValueError(
            f"{name} must be {width} → {width}, the hidden_size, got {layer.n_in} → {layer.n_out}"
        )
    if layer.nodes.dtype != dtype:
        raise TypeError(f"{name} must be {dtype} like the model, got {layer.nodes.dtype}")
