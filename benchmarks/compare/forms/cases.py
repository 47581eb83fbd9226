"""Which layers of the forms are compared, and what is right."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

import fffnb
from fffnb import nn

Array = NDArray[Any]

#: Samples compared with the reference; and the inputs of a case.
CHECKED, INPUTS = 8, 4


class Case(NamedTuple):
    """A layer, how it is written plainly, and a batch.

    Attributes
    ----------
    make : function
        Makes the layer.
    plain : str
        The name of its functions in `numpy_forms` and `torch_forms`.
    truth : function
        From x and the layer to the right output.
    batch : int
        Samples.
    soft : bool
        Whether the forward pass is the one that trains; else it is that of a call.
    steps : bool
        Whether to train.
    options : dict
        What the plain functions take by keyword.
    """

    make: Callable[[], Any]
    plain: str
    truth: Callable[[Array, Any], Array]
    batch: int = 128
    soft: bool = False
    steps: bool = True
    options: Mapping[str, Any] = {}


def true_bag(x: Array, layer: nn.BagFFF) -> Array:
    """Return the output of a bag."""
    from fffnb.reference import bag

    return bag.forward(x, layer.nodes, layer.k).y


def true_keys(x: Array, layer: nn.ProductKeyFFF) -> Array:
    """Return the output of product keys, from the sums of all pairs."""
    rows = []
    for sample in x.astype(np.float64):
        halves = np.split(sample, 2)
        sums = np.add.outer(
            *(each @ half for each, half in zip(layer.keys[0], halves, strict=True))
        )
        chosen = np.argsort(sums, axis=None)[-layer.k :]
        rows.append(sums.ravel()[chosen] @ layer.y_vectors[chosen])
    return np.stack(rows)


def true_leaf(x: Array, layer: nn.LeafFFF, temperature: float | None = None) -> Array:
    """Return the output of the leaf form, by hard paths without a temperature."""
    from fffnb.reference import leaf

    options = leaf.Options(layer.bias, layer.activation, temperature=temperature)
    return leaf.forward(x, layer.routers, layer.leaves, options).y


def true_tree(x: Array, layer: nn.FFF) -> Array:
    """Return the output of a tree."""
    from fffnb.reference import tree

    return tree.forward(x, layer.nodes).y


def true_flat(x: Array, layer: nn.FlatFFF) -> Array:
    """Return the output of the flat form."""
    from fffnb.reference import flat

    return flat.forward(x, layer.planes, layer.y_vectors).y


def true_soft_tree(x: Array, layer: nn.SoftFFF) -> Array:
    """Return the soft output of a tree."""
    from fffnb.reference import soft

    return soft.forward(x, layer.nodes, soft.Options(temperature=1.0)).y


class HardLeafFFF(nn.LeafFFF):
    """The leaf form that takes hard paths in training too: it trains the leaves alone."""

    def forward(self, x: Array) -> tuple[Array, Any]:
        """Return the output for x and what `backward` needs."""
        y, path = self._traced(x)
        return y, (x, path)

    def backward(self, grad_y: Array, trace: Any, *, sparse: bool = False) -> tuple[Array, Any]:
        """Return the gradients of the input, of the leaves and of their biases, dense."""
        x, path = trace
        grads = fffnb.leaf_backward(grad_y, x, self.routers, self.leaves, path)
        return grads.x, {"leaves": grads.leaves, **self._named(grads.bias)}


def _bag(n_nodes: int, k: int | None = 8) -> Case:
    """Return a bag of the widths of UltraFastBERT's layer."""
    make = functools.partial(nn.BagFFF, 768, 768, n_nodes, k=k)
    return Case(make, "bag", true_bag, options={"k": k})


def _flat(rows: Literal["nodes", "patterns"]) -> Case:
    """Return the flat form in the place of UltraFastBERT's layer."""
    return Case(functools.partial(nn.FlatFFF, 768, 768, 12, rows=rows), "flat", true_flat)


LEAF = functools.partial(nn.LeafFFF, 784, 10, 4, 8)
SOFT_LEAF = functools.partial(true_leaf, temperature=1.0)
MAKE_KEYS = functools.partial(nn.ProductKeyFFF, 256, 256, 1024, k=16)
KEYS = Case(MAKE_KEYS, "keys", true_keys, options={"k": 16})
SOFT_TREE = Case(lambda: nn.SoftFFF(nn.FFF(768, 768, 12)), "tree_soft", true_soft_tree, soft=True)

CASES = {
    "bag, 8 of 64, 768 → 768": _bag(64),
    "bag, 8 of 4,096, 768 → 768": _bag(4096),
    "keys, 16 of 2^20, 256 → 256": KEYS,
    "leaf, hard, 16 × 8, 784 → 10": Case(LEAF, "leaf", true_leaf, 2048, steps=False),
    "leaf, soft, 16 × 8, 784 → 10": Case(LEAF, "leaf_soft", SOFT_LEAF, 2048, soft=True),
    "tree, soft, depth 12, 768 → 768": SOFT_TREE,
}

#: The leaves of `GPU_CASES`, smooth: in a large batch rounding would turn the ReLU of some neuron.
SMOOTH = "gelu"
LARGE_LEAF = functools.partial(nn.LeafFFF, 768, 768, 4, 32, activation=SMOOTH)
HARD_LEAF = functools.partial(HardLeafFFF, 768, 768, 4, 32, activation=SMOOTH)

#: What is compared on a GPU, in batches of several sizes.
GPU_CASES = {
    "tree, depth 12, 768 → 768": Case(functools.partial(nn.FFF, 768, 768, 12), "tree", true_tree),
    "flat, depth 12, 768 → 768": _flat("nodes"),
    "flat, patterns, depth 12, 768 → 768": _flat("patterns"),
    "bag, 8 of 64, 768 → 768": _bag(64),
    "bag, 16 of 4,096, 768 → 768": _bag(4096, 16),
    "bag, positive of 64, 768 → 768": _bag(64, None),
    "keys, 16 of 2^20, 256 → 256": KEYS,
    "leaf, hard, 16 × 32, 768 → 768": Case(
        HARD_LEAF, "leaf", true_leaf, options={"activation": SMOOTH}
    ),
    "leaf, soft, 16 × 32, 768 → 768": Case(
        LARGE_LEAF, "leaf_soft", SOFT_LEAF, soft=True, options={"activation": SMOOTH}
    ),
    "tree, soft, depth 12, 768 → 768": SOFT_TREE,
}


def ordered(layer: nn.Layer, gradients: Mapping[str, Any]) -> list[Any]:
    """Return gradients in the order of the parameters, None where there is none."""
    return [gradients.get(name) for name in layer.parameters]
