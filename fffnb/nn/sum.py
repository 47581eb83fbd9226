"""Layers side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .layer import Array, Gradients, Layer, Observer, Several
from .optimizer import Optimizer


class Sum(Several):
    """Layers with the same input, whose outputs are added; parameters are named as in `Sequential`.

    Beside an FFF layer a small dense path sees every sample: a master leaf, as in
    arXiv:2405.16836, whose learned mixing of the two this is without.

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
        return _add([layer(x) for layer in self.layers])

    def forward(self, x: Array) -> tuple[Array, list[Any]]:
        """Return the output for x and what `backward` needs."""
        outputs, traces = zip(*(layer.forward(x) for layer in self.layers), strict=True)
        return _add(outputs), list(traces)

    def backward(
        self, grad_y: Array, trace: list[Any], *, sparse: bool = False
    ) -> tuple[Array, Gradients]:
        """Return the gradient of the input and those of all parameters."""
        grad_x, gradients = [], Gradients()
        for i, layer in enumerate(self.layers):
            gradient, own = layer.backward(grad_y, trace[i], sparse=sparse)
            grad_x.append(gradient)
            gradients.update({f"{i}.{name}": gradient for name, gradient in own.items()})
        return _add(grad_x), gradients

    def backward_update(
        self, grad_y: Array, trace: list[Any], optimizer: Optimizer, prefix: str = ""
    ) -> Array:
        """Step all parameters; return the gradient of the input."""
        return _add(
            [
                layer.backward_update(grad_y, trace[i], optimizer, f"{prefix}{i}.")
                for i, layer in enumerate(self.layers)
            ]
        )

    def observe(self, x: Array, see: Observer, name: str = "") -> Array:
        """Return the output for x, and let `see` look at each layer inside."""
        return _add([layer.observe(x, see, inner) for inner, layer in self.named(name)])


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
