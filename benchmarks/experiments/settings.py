"""What is trained: settings of one run as plain data, which records hold and compare."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from .models import Words


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes
    ----------
    epochs, batch_size : int
        Passes over the training samples, and samples in a step.
    optimizer : {"adamw", "sgd"}
        `fffnb.nn.AdamW` or `fffnb.nn.SGD`.
    lr : float or tuple of float
        The largest rate of the schedule, or rates of which every run takes the one that does best
        on its held-out samples.
    weight_decay : float
        That of the optimiser.
    schedule : {"constant", "one-cycle"}
        The rate over the steps: see `benchmarks.experiments.train.one_cycle`.
    cooling : float
        Factor on the temperature of soft layers in the last epoch, reached by equal factors.
    centred : bool
        Subtract the mean of the training samples from all, as the biases of a first layer can.
    shift : int
        By how many pixels at most training images are moved, at random, in each direction.
    held : float
        Share of the training samples that is held out for validation.
    samples : int or None
        How many training samples there are before that; all by default.
    """

    epochs: int = 5
    batch_size: int = 128
    optimizer: str = "adamw"
    lr: float | tuple[float, ...] = 1e-3
    weight_decay: float = 1e-2
    schedule: str = "constant"
    cooling: float = 1.0
    centred: bool = False
    shift: int = 0
    held: float = 1 / 12
    samples: int | None = None

    def rates(self) -> list[Recipe]:
        """Return a recipe for each rate."""
        rates = self.lr if isinstance(self.lr, tuple) else (self.lr,)
        return [replace(self, lr=lr) for lr in rates]

    def quick(self) -> Recipe:
        """Return what only shows that all of it runs."""
        return replace(self, epochs=1, samples=3000)


@dataclass(frozen=True)
class Setting:
    """One row of a table.

    Attributes
    ----------
    label : str
        Its name, unlike all others of the experiment.
    model : dict
        The network: see `benchmarks.experiments.models`.
    recipe : Recipe
        How it is trained.
    data : {"mnist", "cifar10"}
        On what.
    watch : str
        What else is looked at: see `benchmarks.experiments.watches`.
    published : float or None
        What was published for it, an accuracy in per cent.
    """

    label: str
    model: Words
    recipe: Recipe = field(default_factory=Recipe)
    data: str = "mnist"
    watch: str = ""
    published: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return all that a run depends on but its seed."""
        settings = asdict(self)
        del settings["published"]
        return settings
