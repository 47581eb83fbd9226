"""What the layers of all forms share: each runs the ops of its form on its own arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from ..ops.balance import balance_bias
from .layer import Array, Gradients, Layer, Observer
from .optimizer import Optimizer


class FormLayer(Layer):
    """A layer of one form of FFF.

    A class of layers sets the ops of its form and says what they take; a layer comes into being by
    `_hold`.

    Attributes
    ----------
    n_in, n_out : int
        Widths of the input and of the output.
    activation : str
        act on the score of a node.
    bias : ndarray, LeafBias or None
        Added to the scores.
    """

    _forward: ClassVar[Callable[..., Any]]
    _backward: ClassVar[Callable[..., Any]]

    #: The arrays that the ops take after x, in this order; a bias comes by keyword.
    _arrays: ClassVar[tuple[str, ...]]

    #: The attributes from which, with the arrays, a layer can be built again.
    _structure: ClassVar[tuple[str, ...]]

    n_in: int
    n_out: int
    activation: str
    bias: Any

    def _hold(self, arrays: tuple[Array, ...], bias: Any) -> None:
        """Take over the parameters, or refuse what does not fit; all other attributes are there."""
        self.bias = bias
        self.parameters = {**dict(zip(self._arrays, arrays, strict=True)), **self._named(bias)}
        for name, array in self.parameters.items():
            setattr(self, name, array)
        self(np.empty((0, self.n_in), arrays[0].dtype))

    def _named(self, bias: Any) -> dict[str, Array]:
        """Return a bias, or its gradient, by the name of the parameter; of None nothing."""
        return {} if bias is None else {"bias": bias}

    def _arguments(self) -> list[Array]:
        """Return what the ops take after x."""
        return [getattr(self, name) for name in self._arrays]

    def _options(self) -> dict[str, Any]:
        """Return what the forward pass takes by keyword."""
        return {"bias": self.bias, "activation": self.activation}

    def _backward_options(self, grad_y: Array, x: Array, path: Any) -> dict[str, Any]:
        """Return what the backward passes take by keyword."""
        return {}

    def __call__(self, x: Array) -> Array:
        """Return the output (..., n_out) for samples x (..., n_in)."""
        y: Array = self._forward(x, *self._arguments(), **self._options())
        return y

    def forward(self, x: Array) -> tuple[Array, tuple[Array, Any]]:
        """Return the output for x and what `backward` needs."""
        y, path = self._traced(x)
        return y, (x, path)

    def observe(self, x: Array, see: Observer, name: str = "") -> Array:
        """Return what calling the layer does, and show `see` the trace."""
        y, path = self._traced(x)
        see(name, self, path)
        return y

    def _traced(self, x: Array) -> tuple[Array, Any]:
        """Return what calling the layer does, and the trace."""
        y, path = self._forward(x, *self._arguments(), **self._options(), return_trace=True)
        return y, path

    def backward(
        self, grad_y: Array, trace: tuple[Array, Any], *, sparse: bool = False
    ) -> tuple[Array, Gradients]:
        """Return the gradient of the input and those of the parameters.

        With `sparse`, those of which a sample reads only some rows are row gradients.
        """
        x, path = trace
        options = self._backward_options(grad_y, x, path)
        grad_x, *grads = self._backward(
            grad_y, x, *self._arguments(), path, sparse=sparse, **options
        )
        return grad_x, dict(zip(self.parameters, grads, strict=False))  # without a bias it is None

    def config(self) -> dict[str, Any]:
        """Return the structure as a JSON object."""
        structure = {name: getattr(self, name) for name in self._structure}
        return {"kind": type(self).__name__, **structure, "bias": self.bias is not None}


class TreeLayer(FormLayer):
    """A layer of a form with trees, whose visited rows may be stepped in the backward pass itself.

    Attributes
    ----------
    depth, n_trees : int
        Levels of each tree, and number of trees.
    score_loss, balance_rate
        See `FFF`.
    """

    _backward_update: ClassVar[Callable[..., Any]]

    _structure: ClassVar[tuple[str, ...]] = ("n_in", "n_out", "depth", "n_trees", "activation")

    bias: Array | None
    depth: int
    n_trees: int

    score_loss: Callable[[Any], tuple[float, Array]] | None = None
    balance_rate = 0.0

    def leaves(self, x: Array) -> Array:
        """Return the leaf of every sample in each tree, int32 (..., n_trees)."""
        leaves: Array = self._traced(x)[1].leaves
        return leaves

    def _backward_options(self, grad_y: Array, x: Array, path: Any) -> dict[str, Any]:
        return {} if self.score_loss is None else {"grad_scores": self.score_loss(path)[1]}

    def backward_update(
        self, grad_y: Array, trace: tuple[Array, Any], optimizer: Optimizer, prefix: str = ""
    ) -> Array:
        """Step the visited rows in the backward pass itself; return the gradient of the input."""
        x, path = trace
        if self.balance_rate != 0:
            balance_bias(self.bias, path, rate=self.balance_rate)
        rules = {name: optimizer.rule(prefix + name) for name in self.parameters}
        biases = {"bias": self.bias, "bias_rule": rules.pop("bias", None)}
        grad_x: Array = self._backward_update(
            grad_y,
            x,
            *self._arguments(),
            path,
            *rules.values(),
            **biases,
            **self._backward_options(grad_y, x, path),
        )
        return grad_x
