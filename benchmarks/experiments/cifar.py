"""The experiments on CIFAR-10, through PyTorch."""

from __future__ import annotations

from typing import Any

from .experiment import Experiment
from .models import Words
from .settings import Recipe, Setting


def train(*arguments: Any) -> dict[str, Any]:
    """Train by PyTorch, which is imported here and not before."""
    try:
        from . import lenet
    except ModuleNotFoundError as error:
        raise ImportError(f"this needs PyTorch: {error}") from error
    return lenet.train(*arguments)


def lenet() -> Experiment:
    """Return the original network, its head of 400-120-84-10 in every form."""
    rows: list[tuple[str, Words, float | None]] = [
        ("dense", {"form": "dense"}, 59.36),
        ("tree", {"form": "tree"}, 54.25),
        ("flat by node", {"form": "flat"}, 60.23),
        *(
            (
                f"linear bottleneck, {width}",
                {"form": "bottleneck", "width": width, "relu": False},
                None,
            )
            for width in (8, 16)
        ),
        ("flat by node, 4 x 4", {"form": "flat", "n_trees": 4, "depth": 4, "bias": True}, None),
        (
            "flat by pattern, 4 x 4",
            {"form": "flat-patterns", "n_trees": 4, "depth": 4, "bias": True},
            None,
        ),
        (
            "flat by pattern, 8 x 2",
            {"form": "flat-patterns", "n_trees": 8, "depth": 2, "bias": True},
            None,
        ),
    ]
    original = Recipe(epochs=40, batch_size=128, lr=1e-3)
    cycle = Recipe(epochs=8, batch_size=128, lr=3e-3, schedule="one-cycle")
    return Experiment(
        "cifar-lenet",
        "CIFAR-10, LeNet",
        tuple(
            Setting(f"{label}, {name}", words, recipe, data="cifar10", published=published)
            for name, recipe in (("40 epochs", original), ("one cycle", cycle))
            for label, words, published in rows
        ),
        seeds=3,
        minutes=600,
        train=train,
    )
