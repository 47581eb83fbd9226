"""The layers of experiments by name, and the networks made of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from scipy.special import expit

import fffnb
from fffnb import nn
from fffnb.nn.form_layer import TreeLayer
from fffnb.nn.layer import Array, Gradients
from fffnb.nn.optimizer import Optimizer
from fffnb.ops.leaf_trace import LeafSoftTrace

#: A layer in words that JSON can hold: its form, and the options of its maker.
Words = dict[str, Any]


def network(words: Words, n_in: int, n_out: int, seed: int) -> nn.Layer:
    """Return one layer, or with "hidden" two of a form, a ReLU on so many numbers between them."""
    options = dict(words)
    hidden = options.pop("hidden", None)
    generator = np.random.default_rng(seed)
    if hidden is None:
        return make_layer(options, n_in, n_out, generator)
    first = make_layer(options, n_in, hidden, generator)
    return nn.Sequential(first, nn.ReLU(), make_layer(options, hidden, n_out, generator))


def make_layer(words: Words, n_in: int, n_out: int, rng: np.random.Generator) -> nn.Layer:
    """Return the layer of a form; with "side", a dense path of so many neurons is added to it."""
    options = dict(words)
    form, side = options.pop("form"), options.pop("side", 0)
    layer = MAKERS[form](n_in, n_out, rng=rng, **options)
    return nn.Sum(layer, Bottleneck(n_in, n_out, width=side, rng=rng)) if side else layer


class Bottleneck(nn.Sequential):
    """A dense layer of so many neurons, linear or with ReLU."""

    def __init__(
        self, n_in: int, n_out: int, *, width: int, rng: np.random.Generator, relu: bool = True
    ) -> None:
        first, last = nn.Linear(n_in, width, rng=rng), nn.Linear(width, n_out, rng=rng)
        super().__init__(*((first, nn.ReLU(), last) if relu else (first, last)))
        self.n_in, self.n_out, self.neurons, self.neurons_read = n_in, n_out, width, width


def forest(
    form: str,
    n_in: int,
    n_out: int,
    *,
    balance: float = 0.0,
    balance_rate: float = 0.0,
    orthogonality: float = 0.0,
    **options: Any,
) -> nn.Layer:
    """Return a layer of trees with the costs of these weights."""
    options = {"depth": None, **options}
    layer = nn.make_layer(form, n_in, n_out, **options)
    if isinstance(layer, nn.FFF):
        layer.balance_rate = balance_rate
        if balance:
            layer.score_loss = partial(fffnb.balance_loss, weight=balance)
    return Orthogonal(layer, orthogonality) if orthogonality else layer


def bag(n_in: int, n_out: int, *, orthogonality: float = 0.0, **options: Any) -> nn.Layer:
    """Return a bag with the orthogonality cost of this weight."""
    layer = nn.BagFFF(n_in, n_out, **options)
    return Orthogonal(layer, orthogonality) if orthogonality else layer


def soft(
    n_in: int,
    n_out: int,
    *,
    rng: np.random.Generator,
    hardening: float = 0.0,
    **options: Any,
) -> nn.SoftFFF:
    """Return a tree that is trained softly."""
    layer = nn.FFF(n_in, n_out, rng=rng, **options)
    return nn.SoftFFF(layer, hardening=hardening, rng=rng)


def balanced_leaf(n_in: int, n_out: int, *, balance: float, **options: Any) -> BalancedLeaf:
    """Return a layer of the leaf form with the loss of this weight."""
    layer = BalancedLeaf(n_in, n_out, **options)
    layer.balance = balance
    return layer


def straight(n_in: int, n_out: int, *, temperature: float, **options: Any) -> nn.FFF:
    """Return a tree whose decisions have the straight-through gradient."""
    return nn.FFF(n_in, n_out, straight_through=temperature, **options)


class BalancedLeaf(nn.LeafFFF):
    """The leaf form with a loss that evens out how many samples come to each leaf.

    It is that of arXiv:2405.16836: weight · 2**depth / batch² · Σ over the leaves of the samples
    that come there by hard paths times the sum of the shares that come there by soft ones.
    """

    balance = 1.0

    def backward(
        self, grad_y: Array, trace: tuple[Array, Any], *, sparse: bool = False
    ) -> tuple[Array, Gradients]:
        """Return the gradients of the layer and of that loss."""
        grad_x, gradients = super().backward(grad_y, trace)
        x, soft = trace
        slopes = balance_slopes(soft) * self.balance
        gradients["routers"] += np.einsum("bti,bn->tin", slopes, x, optimize=True)
        gradients["router_bias"] += slopes.sum(axis=0)
        return grad_x + np.einsum("bti,tin->bn", slopes, self.routers, optimize=True), gradients


def balance_slopes(trace: LeafSoftTrace) -> Array:
    """Return the gradient of that loss, of weight 1, with respect to the scores of the routers."""
    n_routers = trace.router_scores.shape[-1]
    reached = np.zeros_like(trace.weights)  # by whom, on hard paths; node k leads to 2k + 1, 2k + 2
    reached[..., 0] = 1
    for k in range(n_routers):
        goes_right = trace.router_scores[..., k] >= 0
        reached[..., 2 * k + 2] = reached[..., k] * goes_right
        reached[..., 2 * k + 1] = reached[..., k] - reached[..., 2 * k + 2]
    batch, n_leaves = len(reached), n_routers + 1
    below = trace.weights * (reached.sum(axis=0) * n_leaves / batch**2)
    for k in reversed(range(n_routers)):
        below[..., k] = below[..., 2 * k + 1] + below[..., 2 * k + 2]
    share = expit(trace.router_scores / trace.temperature)
    slopes: Array = (1 - share) * below[..., 2::2] - share * below[..., 1::2]
    return slopes / trace.temperature


class Shared(TreeLayer):
    """A layer whose rows are each the sum of their own, zero at first, and one of their level.

    What all rows of a level have in common is learned from every sample. For inference the two are
    added up, so that it reads what any layer of the form does.
    """

    own: Array
    shared: Array

    @property
    def levels(self) -> Array:
        """The level of each row."""
        raise NotImplementedError

    @property
    def firsts(self) -> Array:
        """The first row of each level."""
        return np.unique(self.levels, return_index=True)[1]

    def plain(self) -> nn.Layer:
        """Return the layer that inference uses."""
        raise NotImplementedError

    def _hold(self, arrays: tuple[Array, ...], bias: Array | None) -> None:
        rows = arrays[-1]
        self.own, self.shared = np.zeros_like(rows), rows[:, self.firsts].copy()
        super()._hold(arrays, bias)
        mine = dict(zip(self._arrays[:-1], arrays, strict=False))
        self.parameters = {**mine, "own": self.own, "shared": self.shared, **self._named(bias)}

    def _arguments(self) -> list[Array]:
        np.add(self.own, self.shared[:, self.levels], out=getattr(self, self._arrays[-1]))
        return super()._arguments()

    def backward(
        self, grad_y: Array, trace: Any, *, sparse: bool = False
    ) -> tuple[Array, Gradients]:
        """Return the gradients of all parameters, all dense."""
        x, path = trace
        options = self._backward_options(grad_y, x, path)
        grads = self._backward(grad_y, x, *self._arguments(), path, **options)
        named = dict(zip(("x", *self._arrays, "bias"), grads, strict=True))
        rows = named[self._arrays[-1]]
        named["own"] = rows
        named["shared"] = np.stack(
            [rows[:, self.levels == level].sum(axis=1) for level in range(self.depth)], axis=1
        )
        return grads[0], {name: named[name] for name in self.parameters}

    def backward_update(
        self, grad_y: Array, trace: Any, optimizer: Optimizer, prefix: str = ""
    ) -> Array:
        """Step all parameters after the backward pass."""
        return nn.Layer.backward_update(self, grad_y, trace, optimizer, prefix)


class SharedTree(Shared, nn.FFF):
    """A tree whose nodes share x and y vectors of their level."""

    @property
    def levels(self) -> Array:
        """The level of each node."""
        return np.repeat(np.arange(self.depth), 2 ** np.arange(self.depth))

    def plain(self) -> nn.FFF:
        """Return the layer that inference uses."""
        (nodes,) = self._arguments()
        layer = nn.FFF.of(self.n_in, self.activation, nodes, self.bias)
        layer.straight_through = self.straight_through
        return layer


class SharedFlat(Shared, nn.FlatFFF):
    """A flat layer with rows by pattern, which share y vectors of their level."""

    def __init__(self, n_in: int, n_out: int, **options: Any) -> None:
        super().__init__(n_in, n_out, rows="patterns", **options)

    @property
    def levels(self) -> Array:
        """The level of each row."""
        return np.tile(np.arange(self.depth), 2**self.depth)

    def plain(self) -> nn.FlatFFF:
        """Return the layer that inference uses."""
        planes, y_vectors = self._arguments()
        return nn.FlatFFF.of(self.activation, planes, y_vectors, self.bias)


class Orthogonal(nn.Layer):
    """A layer of nodes with the orthogonality cost of the original project on x and y vectors."""

    def __init__(self, layer: Any, weight: float) -> None:
        self.layer, self.weight = layer, weight
        self.parameters = layer.parameters
        self.neurons, self.neurons_read = layer.neurons, layer.neurons_read

    def __call__(self, x: Array) -> Array:
        """Return the output of the layer."""
        y: Array = self.layer(x)
        return y

    def forward(self, x: Array) -> tuple[Array, Any]:
        """Return the output of the layer and its trace."""
        output: tuple[Array, Any] = self.layer.forward(x)
        return output

    def backward(
        self, grad_y: Array, trace: Any, *, sparse: bool = False
    ) -> tuple[Array, Gradients]:
        """Return the gradients, which are dense, those of the nodes with that of the cost."""
        gradients: dict[str, Any]
        grad_x, gradients = self.layer.backward(grad_y, trace)
        n_in = self.layer.n_in
        slopes = fffnb.split_nodes(gradients["nodes"], n_in)
        for slope, vectors in zip(slopes, fffnb.split_nodes(self.layer.nodes, n_in), strict=True):
            slope += self.weight * fffnb.orthogonality_loss(vectors)[1]
        return grad_x, gradients


#: Makers of layers, called with n_in, n_out, rng and the options.
MAKERS: dict[str, Callable[..., nn.Layer]] = {
    "dense": nn.Linear,
    "bottleneck": Bottleneck,
    "tree": partial(forest, "tree"),
    "flat": partial(forest, "flat"),
    "flat-patterns": partial(forest, "flat-patterns"),
    "shared-patterns": SharedFlat,
    "shared-tree": SharedTree,
    "straight": straight,
    "soft": soft,
    "bag": bag,
    "keys": nn.ProductKeyFFF,
    "leaf": nn.LeafFFF,
    "balanced-leaf": balanced_leaf,
}
