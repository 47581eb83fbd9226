"""The convolutional network of the original project on CIFAR-10, through PyTorch."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from fffnb import nn
from fffnb.bridges import convert
from fffnb.data import Dataset
from fffnb.nn.layer import Array

from . import models
from .models import Words
from .settings import Recipe, Setting
from .train import (
    IMAGES,
    BestEpoch,
    Record,
    begun,
    make_schedule,
    split,
    worse_than_guessing,
)
from .work import work

#: What two convolutions and poolings leave of an image, and the widths that follow.
HEAD = (400, 120, 84, 10)

#: Samples in a batch of an evaluation.
EVALUATION_BATCH = 1000


def train(setting: Setting, seed: int, data: Dataset, device: str, bar: Any) -> Record:
    """Train the network with a head of some form; test it once, as it was after the best epoch."""
    recipe = setting.recipe
    torch.manual_seed(seed)
    head = make_head(setting.model, seed)
    model = torch.nn.Sequential(*convolutions(), module(head)).to(device)
    x, y, held = split(data, recipe, seed)
    history = nn.History()
    best = BestEpoch({name: each.data for name, each in model.named_parameters()})
    begin = time.perf_counter()
    for loss in epochs(model, recipe, seed, x, y, device):
        history.loss.append(loss)
        if not math.isfinite(loss):
            break
        history.accuracy.append(accuracy(model, *held, device))
        best(len(history.accuracy), history)
        bar.update()
    fault = worse_than_guessing(history.loss[-1], data.n_classes)
    record = begun(setting, seed, work(head), time.perf_counter() - begin, history, fault)
    if fault is not None:
        return record
    chosen = best.restore()
    test = accuracy(model, data.x_test, data.y_test, device)
    return {**record, **chosen, "test": test, "watched": {}}


def make_head(words: Words, seed: int) -> nn.Sequential:
    """Return the layers after the convolutions, all of one form."""
    generator = np.random.default_rng(seed)
    layers: list[nn.Layer] = []
    for widths in pairwise(HEAD):
        layers += [nn.ReLU(), models.make_layer(words, *widths, generator)]
    return nn.Sequential(*layers[1:])


def convolutions() -> list[torch.nn.Module]:
    """Return what comes before the head."""
    return [
        torch.nn.Unflatten(1, IMAGES["cifar10"]),
        *(torch.nn.Conv2d(3, 6, 5), torch.nn.ReLU(), torch.nn.MaxPool2d(2)),
        *(torch.nn.Conv2d(6, 16, 5), torch.nn.ReLU(), torch.nn.MaxPool2d(2)),
        torch.nn.Flatten(),
    ]


def module(layer: nn.Layer) -> Any:
    """Return a layer as a module of PyTorch."""
    if isinstance(layer, nn.Sequential):
        return torch.nn.Sequential(*(module(each) for each in layer.layers))
    if isinstance(layer, nn.ReLU):
        return torch.nn.ReLU()
    if isinstance(layer, nn.Linear):
        linear = torch.nn.Linear(layer.n_in, layer.n_out)
        linear.load_state_dict(
            {name: torch.from_numpy(each.T.copy()) for name, each in layer.parameters.items()}
        )
        return linear
    return convert(layer, "torch")


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
