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
    """Return the original network, its head of 400-120-84-10 in every form that PyTorch has."""
    rows: list[tuple[str, Words, float | None]] = [
        ("dense", {"form": "dense"}, 59.36),
        ("tree", {"form": "tree"}, 54.25),
        ("flat by node", {"form": "flat"}, 60.23),
        ("linear bottleneck, 8", {"form": "bottleneck", "width": 8, "relu": False}, None),
        ("linear bottleneck, 16", {"form": "bottleneck", "width": 16, "relu": False}, None),
        ("tree, 4 x 4", {"form": "tree", **FOREST}, None),
        ("flat by node, 4 x 4", {"form": "flat", **FOREST}, None),
        ("flat by pattern, 4 x 4", {"form": "flat-patterns", **FOREST}, None),
    ]
    recipes = {
        "40 epochs": Recipe(epochs=40, batch_size=128, lr=1e-3),
        "one cycle": Recipe(epochs=8, batch_size=128, lr=3e-3, schedule="one-cycle"),
    }
    return Experiment(
        "cifar-lenet",
        "CIFAR-10, LeNet with a head 400-120-84-10: AdamW 1e-3, or one cycle of 8 epochs to 3e-3",
        tuple(
            Setting(
                f"{label}, {name}",
                {"net": "lenet", **words},
                recipe,
                data="cifar10",
                published=published if recipe.epochs == 40 else None,
            )
            for name, recipe in recipes.items()
            for label, words, published in rows
        ),
        seeds=3,
        minutes=600,
        train=train,
    )


#: Sixteen nodes read.
FOREST = {"n_trees": 4, "depth": 4, "bias": True}


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
