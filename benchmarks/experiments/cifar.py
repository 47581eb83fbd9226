"""The experiments on CIFAR-10, through PyTorch."""

from __future__ import annotations

from typing import Any

from .experiment import Experiment
from .models import Words
from .settings import Recipe, Setting


def train(*arguments: Any) -> dict[str, Any]:
    """Train by PyTorch, which is imported here and not before."""
    try:
        from . import torch_train
    except ModuleNotFoundError as error:
        raise ImportError(
            "this experiment needs PyTorch: python -m pip install 'fffnb[torch]'"
        ) from error
    return torch_train.train(*arguments)


def lenet() -> Experiment:
    """Return the original network, its head of 400-120-84-10 in several forms.

    By the original's recipe, and by one cycle with the rate that does best on held-out samples,
    where every form reads sixteen nodes a layer.
    """
    straight = {"form": "straight", "temperature": 1.0}
    original: list[tuple[str, Words, float | None]] = [
        ("dense", {"form": "dense"}, 59.36),
        ("tree", {"form": "tree"}, 54.25),
        ("flat by node", {"form": "flat"}, 60.23),
    ]
    rows: list[tuple[str, Words]] = [
        ("dense", {"form": "dense"}),
        ("linear bottleneck, 16", {"form": "bottleneck", "width": 16, "relu": False}),
        ("ReLU bottleneck, 16", {"form": "bottleneck", "width": 16}),
        ("tree, 4 x 4", {"form": "tree", **FOREST, "n_trees": 4, "depth": 4}),
        ("tree, 8 x 2", {"form": "tree", **FOREST}),
        ("tree straight through, 8 x 2", {**straight, **FOREST}),
        (
            "shared tree straight through, 8 x 2",
            {"form": "shared-tree", "straight_through": 1.0, **FOREST},
        ),
        ("flat by node, 8 x 2", {"form": "flat", **FOREST}),
        ("flat by pattern, 8 x 2", {"form": "flat-patterns", **FOREST}),
        ("shared and own patterns, 8 x 2", {"form": "shared-patterns", **FOREST}),
        (
            "shared and own patterns, 16 x 1",
            {"form": "shared-patterns", **FOREST, "n_trees": 16, "depth": 1},
        ),
    ]
    longest = Recipe(epochs=40, batch_size=128, lr=1e-3)
    cycle = Recipe(epochs=8, batch_size=128, lr=(3e-3, 5e-3, 8e-3), schedule="one-cycle")
    head = {"net": "lenet"}
    return Experiment(
        "cifar-lenet",
        "CIFAR-10, LeNet, head 400-120-84-10: 40 epochs, AdamW 1e-3, or one cycle of 8 epochs",
        (
            *(
                Setting(f"{label}, 40 epochs", {**head, **words}, longest, "cifar10", "", accuracy)
                for label, words, accuracy in original
            ),
            *(Setting(label, {**head, **words}, cycle, "cifar10") for label, words in rows),
        ),
        seeds=3,
        minutes=60,
        train=train,
    )


#: Sixteen nodes read.
FOREST = {"n_trees": 8, "depth": 2, "bias": True, "scheme": "uniform"}


def vit() -> Experiment:
    """Return the ViT of the first paper: dense layers beside forests of as many active neurons."""
    tree = {"form": "tree", "activation": "gelu", "bias": True, "scheme": "uniform"}
    rows: list[tuple[str, Words]] = [
        *((f"dense, {width}", {"form": "bottleneck", "width": width}) for width in (8, 32, 128)),
        ("tree, 1 x 8", {**tree, "depth": 8}),
        ("tree, 4 x 8", {**tree, "depth": 8, "n_trees": 4}),
        ("tree, 8 x 4", {**tree, "depth": 4, "n_trees": 8}),
        ("flat by pattern, 8 x 4", {"form": "flat-patterns", "n_trees": 8, "depth": 4}),
    ]
    recipe = Recipe(epochs=30, batch_size=128, lr=1e-3, schedule="one-cycle", shift=2)
    return Experiment(
        "vit-cifar",
        "CIFAR-10, a ViT of four blocks of width 128, 30 epochs, AdamW, one cycle to 1e-3",
        tuple(
            Setting(label, {"net": "vit", **words}, recipe, data="cifar10") for label, words in rows
        ),
        seeds=3,
        minutes=120,
        train=train,
    )
