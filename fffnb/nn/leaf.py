"""The layer of the leaf form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import numpy as np
from numpy.typing import DTypeLike

from ..init import init_leaf
from ..leaves import LeafBias
from ..ops.leaf import leaf_forward
from ..ops.leaf_soft import leaf_backward_soft, leaf_forward_soft
from ..ops.leaf_trace import LeafSoftTrace
from .form_layer import FormLayer
from .layer import Array, Gradients
from .soft_layer import SoftLayer

#: Names of the biases among the parameters.
_NAMES = ("router_bias", "hidden_bias", "output_bias")


class LeafFFF(SoftLayer, FormLayer):
    """Layer of the first FFF paper: routers choose a small network, softly in training.

    `forward` and `backward` are those of `leaf_forward_soft`: training costs as much as that of a
    dense layer of ``2**depth * width`` hidden neurons. Calling the layer takes hard paths, as
    `leaf_forward` does.

    Parameters
    ----------
    n_in, n_out : int
        Widths of the input and of the output.
    depth : int
        Levels of routers; each tree has ``2**depth`` leaves.
    width : int
        Hidden neurons of each leaf.
    n_trees : int, default 1
        Number of trees.
    activation : str, default "relu"
        act on the score of a hidden neuron: see `leaf_forward`.
    bias : bool, default True
        Give routers, hidden neurons and outputs biases.
    temperature, gate, leak : float, str, float
        See `leaf_forward_soft`; attributes that may be set between steps. Files do not keep them.
    hardening : float, default 0
        Weight of the mean `hardening_loss`, whose gradient `backward` adds; likewise.
    rng, dtype
        How the parameters are drawn: see `init_leaf`. The leaks follow from the same generator.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As `init_leaf`, `leaf_forward` and `leaf_forward_soft`.

    Examples
    --------
    >>> import numpy as np
    >>> from fffnb import nn
    >>> layer = nn.LeafFFF(64, 10, depth=4, width=8, hardening=0.1)
    >>> layer(np.ones((3, 64), np.float32)).shape, layer.neurons_read, layer.neurons
    ((3, 10), 12, 143)
    """

    _forward = staticmethod(leaf_forward)
    _arrays = ("routers", "leaves")
    _structure = ("n_in", "n_out", "depth", "width", "n_trees", "activation")

    routers: Array
    leaves: Array
    bias: LeafBias | None

    def __init__(
        self,
        n_in: int,
        n_out: int,
        depth: int,
        width: int,
        *,
        n_trees: int = 1,
        activation: str = "relu",
        bias: bool = True,
        temperature: float = 1.0,
        gate: str = "sigmoid",
        leak: float = 0.0,
        hardening: float = 0.0,
        rng: int | np.random.Generator | None = 0,
        dtype: DTypeLike = np.float32,
    ) -> None:
        generator = np.random.default_rng(rng)
        routers, leaves, biases = init_leaf(
            n_in, n_out, depth, width, n_trees, rng=generator, dtype=dtype
        )
        self._train_by(temperature, gate, leak, hardening, generator)
        self._use(activation, routers, leaves, biases if bias else None)

    @classmethod
    def of(
        cls, activation: str, routers: Array, leaves: Array, bias: LeafBias | None = None
    ) -> LeafFFF:
        """Return a layer that uses given routers, leaves and biases: see `leaf_forward`."""
        layer = cls.__new__(cls)
        layer._train_by(1.0, "sigmoid", 0.0, 0.0, 0)
        layer._use(activation, routers, leaves, bias)
        return layer

    def _use(self, activation: str, routers: Array, leaves: Array, bias: LeafBias | None) -> None:
        self.n_in, self.n_out = routers.shape[2], leaves.shape[3] - routers.shape[2]
        self.n_trees, n_leaves, self.width = leaves.shape[:3]
        self.depth = int(n_leaves).bit_length() - 1
        self.activation = activation
        self.neurons = self.n_trees * (n_leaves - 1 + n_leaves * self.width)
        self.neurons_read = self.n_trees * (self.depth + self.width)
        self._hold((routers, leaves), bias)

    def _named(self, bias: LeafBias | None) -> dict[str, Array]:
        return {} if bias is None else dict(zip(_NAMES, bias, strict=True))

    def with_parameters(self, parameters: Mapping[str, Array]) -> Self:
        """Return a copy of the layer that uses other arrays."""
        layer = super().with_parameters(parameters)
        if self.bias is not None:
            layer.bias = LeafBias(*(parameters[name] for name in _NAMES))
        return layer

    def chosen(self, x: Array) -> Array:
        """Return the leaf of every sample in each tree, by hard paths, int32 (..., n_trees)."""
        leaves: Array = self._traced(x)[1].leaves
        return leaves

    def forward(self, x: Array) -> tuple[Array, tuple[Array, LeafSoftTrace]]:
        """Return the soft output for x and what `backward` needs."""
        y, trace = leaf_forward_soft(
            x,
            self.routers,
            self.leaves,
            **self._decisions(),
            **self._options(),
            return_trace=True,
        )
        return y, (x, trace)

    def backward(
        self, grad_y: Array, trace: tuple[Array, LeafSoftTrace], *, sparse: bool = False
    ) -> tuple[Array, Gradients]:
        """Return the gradient of the input and those of the parameters, which are dense."""
        x, soft = trace
        grads = leaf_backward_soft(
            grad_y,
            x,
            self.routers,
            self.leaves,
            soft,
            bias=self.bias,
            grad_scores=self._grad_scores(soft),
        )
        gradients: Gradients = {"leaves": grads.leaves, **self._named(grads.bias)}
        if grads.routers is not None:
            gradients["routers"] = grads.routers
        return grads.x, gradients
