"""What a layer is."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self

from numpy.typing import NDArray

from ..ops.rules import RowGradient
from .optimizer import Optimizer

Array = NDArray[Any]
Gradients = dict[str, Array | RowGradient]

#: What is shown the name of a layer with a form, the layer, and the trace of its hard forward pass.
Observer = Callable[[str, "Layer", Any], None]


class Layer:
    """What all layers share.

    Attributes
    ----------
    parameters : dict of str to ndarray
        The trained arrays by name, each also an attribute of that name; an optimiser updates them
        in place.
    neurons, neurons_read : int
        How many neurons there are, and how many of them one sample reads.
    """

    neurons = 0
    neurons_read = 0

    def __init__(self) -> None:
        self.parameters: dict[str, Array] = {}

    def __call__(self, x: Array) -> Array:
        """Return the output for samples x (batch, n_in), keeping nothing for a backward pass."""
        return self.forward(x)[0]

    def forward(self, x: Array) -> tuple[Array, Any]:
        """Return the output for x and what `backward` needs."""
        raise NotImplementedError

    def backward(
        self, grad_y: Array, trace: Any, *, sparse: bool = False
    ) -> tuple[Array, Gradients]:
        """Return the gradient of the input and those of the parameters by name.

        With `sparse`, those of nodes and their biases are row gradients.
        """
        raise NotImplementedError

    def backward_update(
        self, grad_y: Array, trace: Any, optimizer: Optimizer, prefix: str = ""
    ) -> Array:
        """Step the parameters, which the optimiser knows under `prefix` + name; return grad_x."""
        grad_x, gradients = self.backward(grad_y, trace, sparse=True)
        optimizer.step({prefix + name: gradient for name, gradient in gradients.items()})
        return grad_x

    def with_parameters(self, parameters: Mapping[str, Array]) -> Self:
        """Return a copy of the layer that uses other arrays, such as those on a GPU."""
        layer = copy.copy(self)
        layer.parameters = dict(parameters)
        for name, array in parameters.items():
            setattr(layer, name, array)
        return layer

    def observe(self, x: Array, see: Observer, name: str = "") -> Array:
        """Return what calling the layer does; show `see` the traces of layers with a form."""
        return self(x)

    def config(self) -> dict[str, Any]:
        """Return the structure as a JSON object, which `layer_from_config` reads."""
        return {"kind": type(self).__name__}


class Several(Layer):
    """What layers made of layers share; the parameter p of layer i is called ``"i.p"``."""

    def __init__(self, *layers: Layer) -> None:
        self.layers = layers
        self.parameters = {
            f"{i}.{name}": array
            for i, layer in enumerate(layers)
            for name, array in layer.parameters.items()
        }
        self.neurons = sum(layer.neurons for layer in layers)
        self.neurons_read = sum(layer.neurons_read for layer in layers)

    def named(self, name: str = "") -> Iterator[tuple[str, Layer]]:
        """Yield the layers, each with its name in a model that calls this one `name`."""
        for i, layer in enumerate(self.layers):
            yield f"{name}.{i}" if name else str(i), layer

    def with_parameters(self, parameters: Mapping[str, Array]) -> Self:
        """Return a copy of all layers that use other arrays."""
        model = copy.copy(self)
        model.parameters = dict(parameters)
        model.layers = tuple(
            layer.with_parameters({name: parameters[f"{i}.{name}"] for name in layer.parameters})
            for i, layer in enumerate(self.layers)
        )
        return model

    def config(self) -> dict[str, Any]:
        """Return the structure as a JSON object."""
        return {**super().config(), "layers": [layer.config() for layer in self.layers]}
