"""Where the steps of a run are taken: with the caller's arrays, or with copies on a GPU."""

from __future__ import annotations

from typing import Any

from ..ops.transfer import require_cupy, to_device
from .evaluate import EVALUATION_BATCH
from .layer import Layer
from .namespace import compat
from .optimizer import Optimizer
from .staging import Staged


class Place:
    """The host, where steps are taken with the caller's model, optimiser and samples themselves.

    Attributes
    ----------
    model, optimizer
        What to step with.
    x, y, held
        Samples and targets to learn from, and such a pair to evaluate, or None.
    together : int
        How many steps go by until their losses are looked at.
    """

    together = 1

    def __init__(self, model: Layer, optimizer: Optimizer, x: Any, y: Any, held: Any) -> None:
        self.model, self.optimizer = model, optimizer
        self.x, self.y, self.held = x, y, held

    def send(self) -> None:
        """Take over what the caller's model and optimiser hold now."""

    def bring_back(self) -> None:
        """Write what was learned into the caller's model and optimiser."""


class Gpu(Place):
    """The current GPU, where steps are taken with copies; samples come when they are picked."""

    together = 16  # looking at a loss waits for the GPU

    def __init__(
        self, model: Layer, optimizer: Optimizer, x: Any, y: Any, held: Any, batch_size: int
    ) -> None:
        cupy = require_cupy()
        self.caller = optimizer
        hosts = {id(array): array for array in optimizer.parameters.values()}  # some may be shared
        copies = {key: cupy.empty(array.shape, array.dtype) for key, array in hosts.items()}
        self.pairs = [(hosts[key], copies[key]) for key in hosts]
        super().__init__(
            model.with_parameters({k: copies[id(v)] for k, v in model.parameters.items()}),
            optimizer.with_parameters({k: copies[id(v)] for k, v in optimizer.parameters.items()}),
            Staged(x, batch_size),
            Staged(y, batch_size),
            held and (Staged(held[0], EVALUATION_BATCH), to_device(held[1])),
        )
        self.send()

    def send(self) -> None:
        """Take over what the caller's model and optimiser hold now."""
        for host, copy in self.pairs:
            copy.set(host)
        self.optimizer.load_state_dict(self.caller.state_dict())

    def bring_back(self) -> None:
        """Write what was learned into the caller's model and optimiser."""
        for host, copy in self.pairs:
            copy.get(out=host)
        self.caller.load_state_dict(self.optimizer.state_dict())


def check_device(device: str | None) -> None:
    """Refuse a device that is unknown, or on which this machine cannot train."""
    if device not in (None, "cpu", "cuda"):
        raise ValueError(f"device must be 'cpu' or 'cuda', got {device!r}")
    if device == "cuda":
        require_cupy()
        compat()
