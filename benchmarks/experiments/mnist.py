"""The experiments on MNIST that NumPy's layers run."""

from __future__ import annotations

from .experiment import Experiment
from .models import Words
from .settings import Recipe, Setting

#: The network of the original project, and its recipe for MNIST.
HIDDEN = {"hidden": 500}
ORIGINAL = Recipe(epochs=5, batch_size=128, lr=1e-3)


def forms() -> Experiment:
    """Return every form in the original network, by the original recipe."""
    rows: list[tuple[str, Words, float | None]] = [
        ("dense", {"form": "dense"}, 97.20),
        ("tree", {"form": "tree"}, 91.91),
        ("tree, orthogonality", {"form": "tree", "orthogonality": 1e-3}, 91.30),
        ("flat by node", {"form": "flat"}, None),
        ("flat by pattern", {"form": "flat-patterns", "depth": 4, "n_trees": 2}, None),
        ("bag, 8 of 64", {"form": "bag", "n_nodes": 64, "k": 8}, 95.01),
        (
            "bag, 8 of 64, orthogonality",
            {"form": "bag", "n_nodes": 64, "k": 8, "orthogonality": 1e-3},
            95.39,
        ),
        ("bag, positive of 64", {"form": "bag", "n_nodes": 64, "k": None}, 96.70),
        (
            "bag, positive of 64, orthogonality",
            {"form": "bag", "n_nodes": 64, "k": None, "orthogonality": 1e-3},
            97.17,
        ),
        ("product keys, 8 of 1024", {"form": "keys", "n_keys": 32, "k": 8}, None),
        ("leaf, depth 4, width 8", {"form": "leaf", "depth": 4, "width": 8}, None),
        ("forest, 8 trees of depth 8", {"form": "tree", "depth": 8, "n_trees": 8}, None),
    ]
    return Experiment(
        "mnist-forms",
        "MNIST, 784-500-10, 5 epochs, AdamW 1e-3, batch 128",
        tuple(
            Setting(label, {**HIDDEN, **words}, ORIGINAL, published=published)
            for label, words, published in rows
        ),
        seeds=5,
        minutes=40,
    )


def equal_work() -> Experiment:
    """Return dense bottlenecks beside every form, all in the same network, over the work."""
    return Experiment("equal-work", "MNIST, 784-500-10", (), seeds=5, minutes=30)
