"""What an experiment is, and how its runs are made."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fffnb import data
from fffnb.data import Dataset
from fffnb.nn.run import progress_bar

from . import runs
from .settings import Setting
from .train import Record, train

#: Trains a setting with a seed on data, on a device; updates a bar after each epoch.
Trainer = Callable[[Setting, int, Dataset, str, Any], Record]


@dataclass(frozen=True)
class Experiment:
    """A list of settings, and how their results are shown.

    Attributes
    ----------
    name, title : str
        Its name on the command line, and what it asks.
    settings : tuple of Setting
        The rows.
    seeds : int
        Runs of each by default.
    minutes : int
        What all of them take, about, on two cores, or on a GPU where `train` is PyTorch's.
    train : callable
        How one of them is trained.
    picture : str
        What is drawn: see `benchmarks.experiments.pictures`.
    """

    name: str
    title: str
    settings: tuple[Setting, ...]
    seeds: int
    minutes: int
    train: Trainer = train
    picture: str = "accuracies"

    def quick(self) -> Experiment:
        """Return an experiment that only shows that all of it runs, with results of its own."""
        settings = tuple(replace(each, recipe=each.recipe.quick()) for each in self.settings)
        return replace(self, name=f"{self.name}-quick", settings=settings, seeds=1, minutes=1)

    def only(self, text: str) -> Experiment:
        """Return the experiment with the settings whose label holds a text."""
        return replace(self, settings=tuple(each for each in self.settings if text in each.label))


def load(settings: Iterable[Setting], folder: str | None) -> dict[str, Dataset]:
    """Read the data that settings name; where there is none, say what to fetch and where from."""
    found = {}
    for name in sorted({setting.data for setting in settings}):
        try:
            found[name] = data.load(name, folder)
        except ValueError as error:
            raise ValueError(f"{error}; {FETCH[name]}") from error
    return found


#: Where data come from.
FETCH = {
    "mnist": "--data-dir must hold the four files of MNIST, train-images-idx3-ubyte and so on, "
    "raw or gzipped: http://yann.lecun.com/exdb/mnist/ or a mirror of it",
    "cifar10": "--data-dir must hold CIFAR-10's binary version, data_batch_1.bin and so on: "
    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
}


def run(
    experiment: Experiment, seeds: int, folder: Path, data_dir: str | None, device: str
) -> list[list[Record]]:
    """Make the runs that are not finished; return for each setting the records of its seeds."""
    place = folder / experiment.name
    todo = [(setting, seed) for seed in range(seeds) for setting in experiment.settings]
    missing = [each for each in todo if runs.finished(place, *each) is None]
    print(
        f"{experiment.name}: {len(todo)} runs, {len(todo) - len(missing)} of them finished; "
        f"{experiment.seeds} seeds take about {experiment.minutes} minutes in all",
        flush=True,
    )
    sets = load((setting for setting, _ in missing), data_dir)
    passes = sum(len(each.recipe.rates()) * each.recipe.epochs for each, _ in missing)
    with progress_bar(None, passes, 0) as bar:
        for setting, seed in missing:
            bar.set_postfix(run=f"{setting.label}, seed {seed}")
            record = experiment.train(setting, seed, sets[setting.data], device, bar)
            runs.keep(place, setting, seed, record)
    return [
        [runs.read(place, setting, seed) for seed in range(seeds)]
        for setting in experiment.settings
    ]
