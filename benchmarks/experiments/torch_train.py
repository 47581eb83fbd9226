"""Training one setting with one seed by PyTorch, for a record."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch

from fffnb import nn
from fffnb.data import Dataset
from fffnb.nn.layer import Array

from .settings import Recipe, Setting
from .torch_networks import build
from .train import (
    IMAGES,
    BestEpoch,
    Record,
    Shifts,
    Trained,
    begun,
    by_validation,
    make_schedule,
    split,
    worse_than_guessing,
)

#: Samples in a batch of an evaluation.
EVALUATION_BATCH = 1000


def train(setting: Setting, seed: int, data: Dataset, device: str, bar: Any) -> Record:
    """Train a network; test it once, as it was after the epoch that validation chose."""
    return by_validation(setting, seed, data, partial(attempt, setting, seed, device, bar))


def attempt(
    setting: Setting, seed: int, device: str, bar: Any, recipe: Recipe, data: Dataset
) -> Trained:
    """Train a network at one rate."""
    network, count = build(setting.model, seed)
    model = network.to(device)
    x, y, held = split(data, recipe, seed)
    history = nn.History()
    best = BestEpoch({name: each.data for name, each in model.named_parameters()})
    begin = time.perf_counter()
    shifts = Shifts(x, IMAGES[setting.data], recipe.shift, seed)
    for loss in epochs(model, recipe, seed, x, y, device):
        history.loss.append(loss)
        if not math.isfinite(loss):
            break
        history.accuracy.append(accuracy(model, *held, device))
        best(len(history.accuracy), history)
        shifts(len(history.loss))
        bar.update()
    fault = worse_than_guessing(history.loss[-1], data.n_classes)
    record = begun(setting, seed, count, time.perf_counter() - begin, history, fault)

    def test() -> Record:
        chosen = best.restore()
        right = accuracy(model, data.x_test, data.y_test, device)
        return {**chosen, "test": right, "watched": {}}

    return Trained(record, best.accuracy, test)


def epochs(
    model: torch.nn.Module, recipe: Recipe, seed: int, x: Array, y: Array, device: str
) -> Iterator[float]:
    """Take the steps of each epoch; yield its mean loss."""
    rate = make_schedule(recipe, len(x))
    optimizer = make_optimizer(model, recipe)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    for epoch in range(recipe.epochs):
        order = np.random.default_rng((seed, 3, epoch)).permutation(len(x))
        total = torch.zeros((), device=device)
        for start in range(0, len(x), recipe.batch_size):
            picked = order[start : start + recipe.batch_size]
            inputs, labels = (torch.from_numpy(each[picked]).to(device) for each in (x, y))
            loss = torch.nn.functional.cross_entropy(model(inputs), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.detach() * len(picked)
        yield float(total) / len(x)


def make_optimizer(model: torch.nn.Module, recipe: Recipe) -> Any:
    """Return the optimiser of a recipe."""
    kind = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[recipe.optimizer]
    return kind(model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)


def accuracy(model: torch.nn.Module, x: Array, labels: Array, device: str) -> float:
    """Return the share of samples that are classified rightly."""
    right = 0
    with torch.inference_mode():
        for start in range(0, len(x), EVALUATION_BATCH):
            part = slice(start, start + EVALUATION_BATCH)
            output = model(torch.from_numpy(x[part]).to(device))
            right += int((output.argmax(1).cpu().numpy() == labels[part]).sum())
    return right / len(x)
