"""What the modules of all forms share: the parameters and the structure of NumPy's layer."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import torch

from ... import nn
from ...nn.namespace import to_host
from .tensors import copied


class FormModule(torch.nn.Module):
    """A module with the parameters of NumPy's layer of one form.

    What the layer's structure names, such as `n_in` and `activation`, are attributes of the same
    names here. A class of modules names its parameters, and adds settings of its own in `_hold`.
    """

    #: The parameters that the layer may have; those that it has not are None.
    _names: ClassVar[tuple[str, ...]]

    #: The attributes that are shown, beside the structure.
    _settings: ClassVar[tuple[str, ...]] = ()

    def __init__(self, layer: Any, device: Any, **settings: Any) -> None:
        super().__init__()
        self._hold(layer, device, **settings)

    def _hold(self, layer: Any, device: Any) -> None:
        """Take over the structure of a layer, and its arrays as parameters."""
        self._config = layer.config()
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
        return nn.layer_from_config(self._structure(), copies)

    def _structure(self) -> dict[str, Any]:
        """Return the structure as the config of NumPy's layer."""
        fixed = ("kind", "bias")
        return {
            word: value if word in fixed else getattr(self, word)
            for word, value in self._config.items()
        }

    def extra_repr(self) -> str:
        """Return the structure and the settings, as they are shown."""
        structure = self._structure()
        del structure["kind"]
        shown = structure | {word: getattr(self, word) for word in self._settings}
        return ", ".join(f"{word}={value!r}" for word, value in shown.items())
