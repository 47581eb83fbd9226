"""Training one setting with one seed, for a record."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from fffnb import nn
from fffnb.data import Dataset
from fffnb.nn.layer import Array
from fffnb.nn.schedules import Schedule

from .models import network
from .settings import Recipe, Setting
from .watches import WATCHES
from .work import Work, work

Record = dict[str, Any]
Callback = Callable[[int, nn.History], None]

#: The images of data sets: channels, height, width.
IMAGES = {"mnist": (1, 28, 28), "cifar10": (3, 32, 32)}

#: Share of the steps in which `one_cycle` rises, and its factors at both ends.
RISE, FIRST, LAST = 0.3, 0.04, 1e-3


def one_cycle(total_steps: int) -> Schedule:
    """Return a schedule that rises to 1 and falls again, each along half a cosine."""
    top = RISE * total_steps

    def factor(step: int) -> float:
        if step < top:
            end, share = FIRST, 1 - step / top
        else:
            end, share = LAST, (step - top) / (total_steps - top)
        return end + (1 - end) * 0.5 * (1 + math.cos(math.pi * share))

    return factor


class BestEpoch:
    """A callback that keeps the parameters of the epoch that did best on the held-out samples."""

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        self.parameters, self.epoch, self.accuracy = parameters, 0, -1.0
        self.kept: dict[str, Any] = {}

    def __call__(self, epoch: int, history: nn.History) -> None:
        """Keep the parameters if this epoch is better than all before it."""
        if history.accuracy[-1] > self.accuracy:
            self.epoch, self.accuracy = epoch, history.accuracy[-1]
            self.kept = copy.deepcopy(dict(self.parameters))

    def restore(self) -> Record:
        """Write that epoch's parameters to those of the model; return what a record says of it."""
        for name, parameter in self.parameters.items():
            parameter[...] = self.kept[name]
        return {"epoch": self.epoch, "validation": self.accuracy}


class Shifts:
    """A callback that moves every image by some pixels at random, anew for each epoch."""

    def __init__(self, x: Array, shape: tuple[int, int, int], most: int, seed: int) -> None:
        self.x, self.images, self.most = x, x.reshape(-1, *shape).copy(), most
        self.rng = np.random.default_rng((seed, 2))
        self(0)

    def __call__(self, epoch: int, history: nn.History | None = None) -> None:
        """Overwrite the training samples by their images, moved; what comes in is background."""
        most, (height, width) = self.most, self.images.shape[2:]
        moved = self.x.reshape(self.images.shape)
        places = self.rng.integers(0, 2 * most + 1, (2, len(moved)))
        edges = ((0, 0), (0, 0), (most, most), (most, most))
        for top in range(2 * most + 1):
            for left in range(2 * most + 1):
                here = np.flatnonzero((places[0] == top) & (places[1] == left))
                padded = np.pad(self.images[here], edges, constant_values=-1)
                moved[here] = padded[..., top : top + height, left : left + width]


class Trained(NamedTuple):
    """A network trained at one rate.

    Attributes
    ----------
    record : dict
        What is known before its test.
    validation : float
        The accuracy of its best epoch on held-out samples.
    test : callable
        Goes back to that epoch, tests it and returns the rest of the record.
    """

    record: Record
    validation: float
    test: Callable[[], Record]


def train(setting: Setting, seed: int, data: Dataset, device: str, bar: Any) -> Record:
    """Train a network; test it once, as it was after the epoch that validation chose."""
    return by_validation(setting, seed, data, partial(attempt, setting, seed, device, bar))


def by_validation(
    setting: Setting, seed: int, data: Dataset, attempt: Callable[[Recipe, Dataset], Trained]
) -> Record:
    """Train at each rate of a recipe; test the network that did best on held-out samples."""
    recipe = setting.recipe
    if recipe.centred:
        mean = split(data, recipe, seed)[0].mean(axis=0)
        data = data._replace(x_train=data.x_train - mean, x_test=data.x_test - mean)
    tried = {each.lr: attempt(each, data) for each in recipe.rates()}
    whole = {lr: each for lr, each in tried.items() if each.record["diverged"] is None}
    if not whole:
        return tried.popitem()[1].record
    lr = max(whole, key=lambda rate: whole[rate].validation)
    return {**whole[lr].record, "lr": lr, **whole[lr].test()}


def attempt(
    setting: Setting, seed: int, device: str, bar: Any, recipe: Recipe, data: Dataset
) -> Trained:
    """Train a network at one rate."""
    model = network(setting.model, data.x_train.shape[1], data.n_classes, seed)
    x, y, held = split(data, recipe, seed)
    best, watch = BestEpoch(model.parameters), WATCHES[setting.watch](model, data)
    callbacks: list[Callback] = [best, watch, lambda epoch, history: bar.update()]
    if recipe.cooling != 1:
        factor = recipe.cooling ** (1 / max(1, recipe.epochs - 1))
        callbacks.append(nn.Annealing(model, nn.step(1, factor)))
    if recipe.shift:
        callbacks.append(Shifts(x, IMAGES[setting.data], recipe.shift, seed))
    begin = time.perf_counter()
    history, fault = fit(model, recipe, seed, (x, y), held, device, callbacks)
    fault = fault or worse_than_guessing(history.loss[-1], data.n_classes)
    record = begun(setting, seed, work(model), time.perf_counter() - begin, history, fault)

    def test() -> Record:
        chosen = best.restore()
        accuracy = nn.accuracy(model, data.x_test, data.y_test)
        return {**chosen, "test": accuracy, "watched": watch.result()}

    return Trained(record, best.accuracy, test)


def split(data: Dataset, recipe: Recipe, seed: int) -> tuple[Array, Array, tuple[Array, Array]]:
    """Return training samples and those held out, both copies."""
    order = np.random.default_rng((seed, 1)).permutation(len(data.x_train))[: recipe.samples]
    n_held = round(len(order) * recipe.held)
    held, kept = order[:n_held], order[n_held:]
    return data.x_train[kept], data.y_train[kept], (data.x_train[held], data.y_train[held])


def begun(
    setting: Setting,
    seed: int,
    count: Work,
    seconds: float,
    history: nn.History,
    fault: str | None,
) -> Record:
    """Return the record of a run up to its test."""
    seen = {"loss": history.loss, "accuracy": history.accuracy}
    settings = setting.to_json()
    made = {"seed": seed, "settings": settings, **count._asdict(), "seconds": seconds}
    return {**made, "history": seen, "diverged": fault}


def worse_than_guessing(loss: float, n_classes: int) -> str | None:
    """Return why a run with this loss in its last epoch counts as diverged, or None."""
    guessing = math.log(n_classes)
    if loss <= guessing:
        return None
    return f"the loss ended at {loss:.3g}, that of guessing is {guessing:.3g}"


def fit(
    model: nn.Layer,
    recipe: Recipe,
    seed: int,
    samples: tuple[Array, Array],
    held: tuple[Array, Array],
    device: str,
    callbacks: list[Callback],
) -> tuple[nn.History, str | None]:
    """Train by a recipe; return the history, and the error where the loss was not finite."""
    seen = nn.History()  # kept here, as a run that diverges returns none

    def call(epoch: int, history: nn.History) -> None:
        nonlocal seen
        seen = history
        for callback in callbacks:
            callback(epoch, history)

    try:
        seen = nn.fit(
            model,
            *samples,
            optimizer=make_optimizer(model, recipe),
            epochs=recipe.epochs,
            batch_size=recipe.batch_size,
            schedule=make_schedule(recipe, len(samples[0])),
            validation=held,
            seed=seed,
            progress=False,
            callback=call,
            device=device,
        )
    except ValueError as error:
        if not str(error).startswith("the loss must stay finite"):
            raise
        return seen, str(error)
    if seen.interrupted:  # by Ctrl-C: what is not whole is no run
        raise KeyboardInterrupt
    return seen, None


def make_optimizer(model: nn.Layer, recipe: Recipe) -> nn.Optimizer:
    """Return the optimiser of a recipe."""
    kind: Callable[..., nn.Optimizer] = {"adamw": nn.AdamW, "sgd": nn.SGD}[recipe.optimizer]
    return kind(model.parameters, lr=recipe.lr, weight_decay=recipe.weight_decay)


def make_schedule(recipe: Recipe, n_samples: int) -> Schedule:
    """Return the schedule of a recipe for so many training samples."""
    if recipe.schedule == "constant":
        return nn.constant()
    return one_cycle(recipe.epochs * math.ceil(n_samples / recipe.batch_size))
