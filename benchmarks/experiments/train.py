"""Training one setting with one seed, for a record."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from fffnb import nn
from fffnb.data import Dataset
from fffnb.nn.schedules import Schedule

from .models import network
from .settings import Recipe, Setting
from .watches import WATCHES
from .work import work

Record = dict[str, Any]
Callback = Callable[[int, nn.History], None]

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
    """A callback that keeps the parameters of the epoch that did best on the validation samples."""

    def __init__(self, model: nn.Layer) -> None:
        self.model, self.epoch, self.accuracy = model, 0, -1.0
        self.parameters: dict[str, Any] = {}

    def __call__(self, epoch: int, history: nn.History) -> None:
        """Keep the parameters if this epoch is better than all before it."""
        if history.accuracy[-1] > self.accuracy:
            self.epoch, self.accuracy = epoch, history.accuracy[-1]
            self.parameters = {name: a.copy() for name, a in self.model.parameters.items()}

    def restore(self) -> None:
        """Give the model the parameters of that epoch."""
        for name, parameter in self.model.parameters.items():
            parameter[...] = self.parameters[name]


def train(setting: Setting, seed: int, data: Dataset, device: str, bar: Any) -> Record:
    """Train a network; test it once, as it was after the epoch that validation chose."""
    recipe = setting.recipe
    model = network(setting.model, data.x_train.shape[1], data.n_classes, seed)
    best, watch = BestEpoch(model), WATCHES[setting.watch](model, data)
    callbacks: list[Callback] = [best, watch, lambda epoch, history: bar.update()]
    if recipe.cooling != 1:
        callbacks.append(nn.Annealing(model, nn.cosine(recipe.epochs, recipe.cooling)))
    begin = time.perf_counter()
    history, fault = fit(model, recipe, seed, data, device, callbacks)
    record: Record = {
        "seed": seed,
        "settings": setting.to_json(),
        **work(model)._asdict(),
        "seconds": time.perf_counter() - begin,
        "history": history,
        "diverged": fault,
    }
    if fault is None:
        best.restore()
        record["epoch"], record["validation"] = best.epoch, best.accuracy
        record["test"] = nn.accuracy(model, data.x_test, data.y_test)
        record["watched"] = watch.result()
    return record


def fit(
    model: nn.Layer,
    recipe: Recipe,
    seed: int,
    data: Dataset,
    device: str,
    callbacks: list[Callback],
) -> tuple[dict[str, Any], str | None]:
    """Train by a recipe; return the history, and why the run diverged, or None."""
    x, y = data.x_train[: recipe.samples], data.y_train[: recipe.samples]
    seen = nn.History()

    def call(epoch: int, history: nn.History) -> None:
        nonlocal seen
        seen = history
        for callback in callbacks:
            callback(epoch, history)

    fault = None
    try:
        nn.fit(
            model,
            x,
            y,
            optimizer=make_optimizer(model, recipe),
            epochs=recipe.epochs,
            batch_size=recipe.batch_size,
            schedule=make_schedule(recipe, len(x)),
            validation=recipe.held,
            seed=seed,
            progress=False,
            callback=call,
            device=device,
        )
    except ValueError as error:
        if not str(error).startswith("the loss must stay finite"):
            raise
        fault = str(error)
    else:
        guessing = math.log(data.n_classes)
        if seen.loss[-1] > guessing:
            fault = f"the loss ended at {seen.loss[-1]:.3g}, that of guessing is {guessing:.3g}"
    return seen.to_dict(), fault


def make_optimizer(model: nn.Layer, recipe: Recipe) -> nn.Optimizer:
    """Return the optimiser of a recipe."""
    kind: Callable[..., nn.Optimizer] = {"adamw": nn.AdamW, "sgd": nn.SGD}[recipe.optimizer]
    return kind(model.parameters, lr=recipe.lr, weight_decay=recipe.weight_decay)


def make_schedule(recipe: Recipe, n_samples: int) -> Schedule:
    """Return the schedule of a recipe for so many samples, some of which are held out."""
    if recipe.schedule == "constant":
        return nn.constant()
    n_kept = n_samples - round(n_samples * recipe.held)
    return one_cycle(recipe.epochs * math.ceil(n_kept / recipe.batch_size))
