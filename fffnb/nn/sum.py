"""Layers side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np

from .layer import Array, Gradients, Layer, Observer, Several
from .namespace import namespace_of
from .optimizer import Optimizer


class Sum(Several):
    """Layers with the same input, whose outputs are added; parameters are named as in `Sequential`.

    Beside an FFF layer a small dense path sees every sample; `Mix` learns how much each counts.

    Parameters
    ----------
    *layers : Layer
        The layers, at least one.

    Raises
    ------
    ValueError
        If there is no layer, or outputs have different shapes.

    Examples
    --------
    >>> from fffnb import nn
    >>> dense = nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
    >>> model = nn.Sum(nn.FFF(64, 10, depth=5), dense)
    >>> list(model.parameters)
    ['0.nodes', '1.0.weight', '1.0.bias', '1.2.weight', '1.2.bias']
    """

    def __init__(self, *layers: Layer) -> None:
        if not layers:
            raise ValueError("layers must hold at least one layer to add up, got none")
        super().__init__(*layers)

    def __call__(self, x: Array) -> Array:
        """Return the output for samples x, keeping nothing for a backward pass."""
        return self._join([layer(x) for layer in self.layers])

    def forward(self, x: Array) -> tuple[Array, list[Any]]:
        """Return the output for x and what `backward` needs."""
        outputs, traces = zip(*(layer.forward(x) for layer in self.layers), strict=True)
        return self._join(outputs), list(traces)

    def backward(
        self, grad_y: Array, trace: list[Any], *, sparse: bool = False
    ) -> tuple[Array, Gradients]:
        """Return the gradient of the input and those of all parameters."""
        grad_x, gradients = [], Gradients()
        grads = self._grads(grad_y)
        for i, layer in enumerate(self.layers):
            gradient, own = layer.backward(grads[i], trace[i], sparse=sparse)
            grad_x.append(gradient)
            gradients.update({f"{i}.{name}": gradient for name, gradient in own.items()})
        return _add(grad_x), gradients

    def backward_update(
        self, grad_y: Array, trace: list[Any], optimizer: Optimizer, prefix: str = ""
    ) -> Array:
        """Step all parameters; return the gradient of the input."""
        grads = self._grads(grad_y)
        return _add(
            [
                layer.backward_update(grads[i], trace[i], optimizer, f"{prefix}{i}.")
                for i, layer in enumerate(self.layers)
            ]
        )

    def observe(self, x: Array, see: Observer, name: str = "") -> Array:
        """Return the output for x, and let `see` look at each layer inside."""
        return self._join([layer.observe(x, see, inner) for inner, layer in self.named(name)])

    def _join(self, outputs: Sequence[Array]) -> Array:
        """Return the output, of those of the layers."""
        return _add(outputs)

    def _grads(self, grad_y: Array) -> Sequence[Array]:
        """Return the gradients of the outputs of the layers, of that of the output."""
        return [grad_y] * len(self.layers)


class Mix(Sum):
    """Two layers with the same input, and a learned share s of the first: s · a + (1 - s) · b.

    With an FFF layer first and a small dense network, the master leaf, second, this is the model of
    arXiv:2405.16836. s is the sigmoid of the parameter "mixing", 1/2 at first.

    Parameters
    ----------
    first, second : Layer
        The layers, at least one of which has parameters.

    Attributes
    ----------
    mixing : ndarray, shape (1,)
        The logit of s; its dtype is that of the parameters.
    share : float
        s.

    Raises
    ------
    ValueError
        If neither layer has parameters, or outputs have different shapes.

    Examples
    --------
    >>> from fffnb import nn
    >>> master = nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
    >>> model = nn.Mix(nn.LeafFFF(64, 10, depth=4, width=8), master)
    >>> model.share, list(model.parameters)[-1]
    (0.5, 'mixing')
    """

    mixing: Array

    def __init__(self, first: Layer, second: Layer) -> None:
        super().__init__(first, second)
        if not self.parameters:
            raise ValueError("one of the layers to mix must have parameters, got none")
        self._use(np.zeros(1, next(iter(self.parameters.values())).dtype))

    @classmethod
    def of(cls, first: Layer, second: Layer, mixing: Array) -> Mix:
        """Return a mixture of a given logit (1,)."""
        model = cls(first, second)
        model._use(mixing)
        return model

    def _use(self, mixing: Array) -> None:
        self.mixing = self.parameters["mixing"] = mixing

    @property
    def share(self) -> float:
        """How much the first layer counts, 0 to 1."""
        return float(self._shares()[0][0])

    def _shares(self) -> tuple[Array, Array]:
        """Return how much each layer counts, (1,), where the parameters lie."""
        exp = namespace_of(self.mixing).exp
        return 1 / (1 + exp(-self.mixing)), 1 / (1 + exp(self.mixing))

    def _join(self, outputs: Sequence[Array]) -> Array:
        return _add(self._scaled(outputs))

    def _grads(self, grad_y: Array) -> Sequence[Array]:
        return self._scaled([grad_y, grad_y])

    def _scaled(self, arrays: Sequence[Array]) -> list[Array]:
        """Return two arrays times the shares of the layers."""
        return [share * array for share, array in zip(self._shares(), arrays, strict=True)]

    def forward(self, x: Array) -> tuple[Array, list[Any]]:
        """Return the output for x and what `backward` needs."""
        (a, one), (b, two) = (layer.forward(x) for layer in self.layers)
        return self._join([a, b]), [one, two, a - b]

    def backward(
        self, grad_y: Array, trace: list[Any], *, sparse: bool = False
    ) -> tuple[Array, Gradients]:
        """Return the gradient of the input and those of all parameters."""
        mixing = self._grad_mixing(grad_y, trace)
        grad_x, gradients = super().backward(grad_y, trace, sparse=sparse)
        return grad_x, {**gradients, "mixing": mixing}

    def backward_update(
        self, grad_y: Array, trace: list[Any], optimizer: Optimizer, prefix: str = ""
    ) -> Array:
        """Step all parameters; return the gradient of the input."""
        mixing = self._grad_mixing(grad_y, trace)
        grad_x = super().backward_update(grad_y, trace, optimizer, prefix)
        optimizer.step({prefix + "mixing": mixing})
        return grad_x

    def _grad_mixing(self, grad_y: Array, trace: list[Any]) -> Array:
        """Return the gradient of the logit."""
        a, b = self._shares()
        gradient: Array = a * b * namespace_of(grad_y).sum(grad_y * trace[2])
        return gradient

    def with_parameters(self, parameters: Mapping[str, Array]) -> Self:
        """Return a copy of all layers that use other arrays."""
        model = super().with_parameters(parameters)
        model.mixing = parameters["mixing"]
        return model


def _add(arrays: Sequence[Array]) -> Array:
    """Return the sum of arrays of one shape."""
    total = arrays[0]
    for array in arrays[1:]:
        if array.shape != total.shape:
            raise ValueError(
                "layers must have outputs of one shape to be added, "
                f"got {total.shape} and {array.shape}"
            )
        total = total + array
    return total
