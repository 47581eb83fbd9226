"""What one sample costs: multiply-adds of a forward pass by hard paths, and vectors read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from fffnb import nn
from fffnb.nn.layer import Several

from .models import Bottleneck, Orthogonal


class Work(NamedTuple):
    """What a layer or a network does for one sample.

    Attributes
    ----------
    multiply_adds : int
        Every number of a vector that is dotted or mixed: keys, routers and side paths too.
    x_read, x_kept : int
        Vectors of the width of the input that are dotted, and how many there are.
    y_read, y_kept : int
        Vectors of the width of the output that are mixed, and how many there are.
    """

    multiply_adds: int = 0
    x_read: int = 0
    x_kept: int = 0
    y_read: int = 0
    y_kept: int = 0

    def plus(self, other: Work) -> Work:
        """Return the work of both."""
        return Work(*(a + b for a, b in zip(self, other, strict=True)))


def work(model: nn.Layer) -> Work:
    """Return the work of a layer or of all layers of a network."""
    if isinstance(model, nn.SoftFFF | Orthogonal):
        return work(model.layer)
    for kind, count in COUNTS.items():
        if isinstance(model, kind):
            return count(model)
    if isinstance(model, Several):
        total = Work()
        for layer in model.layers:
            total = total.plus(work(layer))
        return total
    raise TypeError(f"model must be a layer whose work is known, got {type(model).__name__}")


def _dense(layer: nn.Linear) -> Work:
    return Work(layer.n_in * layer.n_out, layer.n_out, layer.n_out)


def _nodes(layer: Any, x_read: int, x_kept: int, y_read: int, y_kept: int) -> Work:
    multiply_adds = x_read * layer.n_in + y_read * layer.n_out
    return Work(multiply_adds, x_read, x_kept, y_read, y_kept)


def _neurons(layer: nn.FFF | Bottleneck) -> Work:
    read, kept = layer.neurons_read, layer.neurons
    return _nodes(layer, read, kept, read, kept)


def _flat(layer: nn.FlatFFF) -> Work:
    planes = layer.neurons_read
    return _nodes(layer, planes, planes, planes, layer.neurons)


def _bag(layer: nn.BagFFF) -> Work:
    nodes = layer.neurons
    mixed = nodes if layer.k is None else layer.n_trees * layer.k
    return _nodes(layer, nodes, nodes, mixed, nodes)


def _keys(layer: nn.ProductKeyFFF) -> Work:
    keys = layer.n_trees * layer.n_keys  # pairs of halves: as much as vectors of the whole width
    return _nodes(layer, keys, keys, layer.n_trees * layer.k, layer.neurons)


def _leaf(layer: nn.LeafFFF) -> Work:
    hidden = layer.n_trees * layer.width
    kept = hidden * 2**layer.depth
    routers = layer.neurons - kept
    return _nodes(layer, layer.neurons_read, routers + kept, hidden, kept)


COUNTS: dict[type[nn.Layer], Callable[[Any], Work]] = {
    nn.Linear: _dense,
    nn.FFF: _neurons,
    Bottleneck: _neurons,
    nn.FlatFFF: _flat,
    nn.BagFFF: _bag,
    nn.ProductKeyFFF: _keys,
    nn.LeafFFF: _leaf,
    nn.ReLU: lambda layer: Work(),
}
