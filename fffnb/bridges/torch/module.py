"""What the modules of all forms share: the parameters and the structure of NumPy's layer."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from ... import nn
from ...nn.namespace import to_host
from .tensors import check_gradient, copied


class FormModule(torch.nn.Module):
    """A module with the parameters of NumPy's layer of one form.

    What the structure of that layer names, such as `n_in` and `activation`, is an attribute of the
    same name here. A class of modules names its parameters and its other attributes.
    """

    #: The parameters that the layer may have; those that it has not are None.
    _names: ClassVar[tuple[str, ...]]

    #: The attributes that say how the layer trains, here as in NumPy's layer.
    _shared: ClassVar[tuple[str, ...]] = ()

    #: The attributes that NumPy's layer has not.
    _own: ClassVar[tuple[str, ...]] = ()

    def __init__(self, layer: Any, device: Any, **settings: Any) -> None:
        super().__init__()
        self._hold(layer, device, **settings)

    def _hold(self, layer: Any, device: Any) -> None:
        """Take over the structure of a layer, and its arrays as parameters."""
        for word in self._shared:
            setattr(self, word, getattr(layer, word))
        self._config = {
            word: value for word, value in layer.config().items() if word not in self._shared
        }
        for word in self._config.keys() - {"kind", "bias"}:
            setattr(self, word, self._config[word])
        for name in self._names:
            array = layer.parameters.get(name)
            tensor = None if array is None else torch.from_numpy(array).to(device)
            self.register_parameter(name, None if tensor is None else torch.nn.Parameter(tensor))

    @classmethod
    def from_numpy(cls, layer: Any, *, device: Any = None, **settings: Any) -> Self:
        """Return a module of the same structure with copies of the parameters.

        Parameters
        ----------
        layer : layer of `fffnb.nn`
            The layer of the same name, on NumPy or CuPy arrays.
        device, **settings
            As those of the class, where NumPy's layer has none of that name.

        Returns
        -------
        module
            The module.

        Examples
        --------
        >>> from fffnb import nn
        >>> from fffnb.bridges.torch import FFF
        >>> FFF.from_numpy(nn.FFF(64, 10, depth=5))
        FFF(n_in=64, n_out=10, depth=5, n_trees=1, activation='identity', bias=False, \
gradient='dense')
        """
        copies = {name: to_host(array) for name, array in layer.parameters.items()}
        module = cls.__new__(cls)
        FormModule.__init__(module, layer.with_parameters(copies), device, **settings)
        return module

    def to_numpy(self) -> Any:
        """Return NumPy's layer of the same structure with copies of the parameters.

        Returns
        -------
        layer of `fffnb.nn`
            The layer.

        Raises
        ------
        ValueError
            If the parameters are neither float32 nor float64.

        Examples
        --------
        >>> from fffnb.bridges.torch import FFF
        >>> FFF(64, 10, depth=5).to_numpy().nodes.shape
        (1, 31, 74)
        """
        copies = {name: copied(tensor) for name, tensor in self.named_parameters()}
        layer = nn.layer_from_config(self._structure(), copies)
        for word in self._shared:
            setattr(layer, word, getattr(self, word))
        return layer

    def _structure(self) -> dict[str, Any]:
        """Return the structure as the config of NumPy's layer."""
        fixed = ("kind", "bias")
        return {
            word: value if word in fixed else getattr(self, word)
            for word, value in self._config.items()
        }

    def extra_repr(self) -> str:
        """Return the structure and the settings that there are, as they are shown."""
        structure = self._structure()
        del structure["kind"]
        settings = {word: getattr(self, word) for word in (*self._shared, *self._own)}
        given = {word: value for word, value in settings.items() if value is not None}
        return ", ".join(f"{word}={value!r}" for word, value in (structure | given).items())


def sum_losses(model: torch.nn.Module, kept_by: type, name: str, what: str) -> Tensor:
    """Return the sum of the losses of a name that modules of a class keep, or say who would."""
    layers: list[Any] = [layer for layer in model.modules() if isinstance(layer, kept_by)]
    losses = [getattr(layer, name) for layer in layers if getattr(layer, name) is not None]
    if not losses:
        raise RuntimeError(
            f"model must hold a layer {what} has run in training mode, "
            f"got a {type(model).__name__} without"
        )
    return torch.stack(losses).sum()


class RowsModule(FormModule):
    """A module of a form of which the backward pass can give the gradients of visited rows."""

    _own: ClassVar[tuple[str, ...]] = ("gradient",)

    def _hold(self, layer: Any, device: Any, gradient: Literal["dense", "rows"] = "dense") -> None:
        check_gradient(gradient)
        super()._hold(layer, device)
        self.gradient = gradient
