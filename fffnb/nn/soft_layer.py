"""What layers that train softly share: how decisions are made, and what a step of them leaves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..ops.hardening import hardening_loss
from ..ops.paths import check_leak, check_temperature, gate_code
from .layer import Array, Layer, Several
from .optimizer import check_number


class SoftLayer(Layer):
    """A layer that trains softly, by `forward` and `backward`, and takes hard paths when called.

    Attributes
    ----------
    temperature, leak, gate : float, float, str
        How decisions are made in `forward`. Copies with other arrays, such as those on a GPU, have
        the same temperature at any time.
    hardening : float
        Weight of the mean `hardening_loss`, whose gradient `backward` adds.
    """

    leak: float
    gate: str
    hardening: float

    def _train_by(
        self,
        temperature: float,
        gate: str,
        leak: float,
        hardening: float,
        rng: int | np.random.Generator | None,
    ) -> None:
        """Take over how decisions are made, or refuse what is out of range."""
        gate_code(gate)
        self._shared = {"temperature": check_temperature(temperature)}
        self.leak = check_leak(leak)
        self.gate, self.hardening = gate, check_number("hardening", hardening, least=0.0)
        self._generator = np.random.default_rng(rng)

    @property
    def temperature(self) -> float:
        """What scores are divided by before they become shares of a decision."""
        return self._shared["temperature"]

    @temperature.setter
    def temperature(self, temperature: float) -> None:
        self._shared["temperature"] = temperature

    def _decisions(self) -> dict[str, Any]:
        """Return what soft forward passes take by keyword."""
        return {
            "temperature": self.temperature,
            "gate": self.gate,
            "leak": self.leak,
            "rng": self._generator,
        }

    def _grad_scores(self, trace: Any) -> Array | None:
        """Return the gradient of the weighted hardening loss, None if its weight is 0."""
        return self.hardening * hardening_loss(trace)[1] if self.hardening != 0 else None

    def training_state(self) -> dict[str, Any]:
        """Return what the next step depends on beside the parameters, as a JSON object."""
        leaks = self._generator.bit_generator.state
        plain = json.loads(json.dumps(leaks, default=lambda array: array.tolist()))
        return {"temperature": self.temperature, "leaks": plain}

    def load_training_state(self, state: dict[str, Any]) -> None:
        """Take over what `training_state` returned."""
        temperature = check_temperature(state["temperature"])
        self._generator.bit_generator.state = state["leaks"]
        self.temperature = temperature


def soft_layers(model: Layer, name: str = "") -> Iterator[tuple[str, SoftLayer]]:
    """Yield the soft layers of a model with their names."""
    if isinstance(model, SoftLayer):
        yield name, model
    elif isinstance(model, Several):
        for inner, layer in model.named(name):
            yield from soft_layers(layer, inner)
