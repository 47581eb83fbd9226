"""The experiments on MNIST that NumPy's layers run."""

from __future__ import annotations

from dataclasses import replace

from .experiment import Experiment
from .models import Words
from .settings import Recipe, Setting

#: The network of the original project, and its recipe for MNIST.
HIDDEN = {"hidden": 500}
ORIGINAL = Recipe(epochs=5, batch_size=128, lr=1e-3)

#: The recipes of all that is not the original's.
ONE_CYCLE = Recipe(epochs=5, batch_size=128, lr=3e-3, schedule="one-cycle", centred=True)
LONGER = replace(ONE_CYCLE, epochs=10)

#: Soft training that ends on all but hard paths.
COOLING = replace(LONGER, cooling=0.05)

#: The leaf form with its loss of balance.
BALANCED = {"form": "balanced-leaf", "balance": 0.1}


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
        minutes=25,
    )


def equal_work() -> Experiment:
    """Return dense bottlenecks beside every form, all in the same network, over the work.

    Every run has the rate of 3e-3 and 6e-3 that does better on its held-out samples.
    """
    bottlenecks: list[tuple[str, Words]] = [
        (f"{name}, {width}", {"form": "bottleneck", "width": width, "relu": relu})
        for name, relu in (("ReLU bottleneck", True), ("linear bottleneck", False))
        for width in (4, 8, 15, 16, 32, 64)
    ]
    straight = {"form": "straight", "temperature": 1.0}
    forests: list[tuple[str, Words]] = [
        (
            f"{name}, {n_trees} x {depth}",
            {**words, "n_trees": n_trees, "depth": depth, "bias": True, "scheme": "uniform"},
        )
        for name, words, sizes in (
            ("tree", {"form": "tree"}, ((1, 4), (2, 4), (4, 4), (8, 2))),
            ("tree straight through", straight, ((1, 4), (2, 4), (4, 4), (8, 2))),
            ("flat by node", {"form": "flat"}, ((2, 4), (4, 4))),
            ("flat by pattern", {"form": "flat-patterns"}, ((4, 4), (8, 2))),
            (
                "shared and own patterns",
                {"form": "shared-patterns"},
                ((1, 4), (2, 4), (4, 4), (5, 3), (8, 2)),
            ),
        )
        for n_trees, depth in sizes
    ]
    others: list[tuple[str, Words]] = [
        ("bag, 8 of 16", {"form": "bag", "n_nodes": 16, "k": 8}),
        ("bag, 16 of 32", {"form": "bag", "n_nodes": 32, "k": 16}),
        ("product keys, 8 of 256", {"form": "keys", "n_keys": 16, "k": 8}),
        ("dense, 784-500-10", {"form": "dense"}),
    ]
    recipe = replace(ONE_CYCLE, lr=(3e-3, 6e-3))
    return Experiment(
        "equal-work",
        "MNIST, 784-500-10, 5 epochs, AdamW, one cycle, batch 128",
        tuple(
            Setting(label, {**HIDDEN, **words}, recipe)
            for label, words in (*bottlenecks, *forests, *others)
        ),
        seeds=5,
        minutes=40,
        picture="equal-work",
    )


def leaf_grid() -> Experiment:
    """Return the grid of the first paper, and leaves beside the dense path of arXiv:2405.16836."""
    published = {  # width of a leaf: accuracies by the depth
        8: {1: 93.1, 2: 93.9, 3: 94.2, 4: 94.9},
        4: {2: 90.8, 3: 93.1, 4: 93.3, 5: 93.6},
        2: {3: 90.3, 4: 91.4, 5: 92.1, 6: 92.4},
        1: {4: 89.9, 5: 92.0, 6: 91.4, 7: 92.0},
    }
    with_path = {(8, 1): 94.8, (4, 2): 94.7, (2, 3): 94.1, (1, 4): 93.8, (8, 4): 95.1, (1, 7): 91.6}
    rows: list[tuple[str, Words, float]] = [
        *(
            (f"leaf, width {width}, depth {depth}", {"width": width, "depth": depth}, accuracy)
            for width, row in published.items()
            for depth, accuracy in row.items()
        ),
        *(
            (
                f"leaf, width {width}, depth {depth}, dense path of 8",
                {"width": width, "depth": depth, "side": 8},
                accuracy,
            )
            for (width, depth), accuracy in with_path.items()
        ),
    ]
    recipe = replace(COOLING, lr=6e-3)
    return Experiment(
        "paper1-mnist",
        "MNIST, one layer of leaves, balance loss 0.1, cooled, 10 epochs, AdamW, one cycle to 6e-3",
        tuple(
            Setting(label, {**BALANCED, **words}, recipe, watch="usage", published=accuracy)
            for label, words, accuracy in rows
        ),
        seeds=5,
        minutes=40,
    )


def full_tree() -> Experiment:
    """Return soft training of a whole tree that ends on hard paths, beside hard paths all along."""
    tree = {**HIDDEN, "depth": 8, "bias": True, "scheme": "uniform"}
    rows: list[tuple[str, Words, Recipe, float | None]] = [
        ("soft, as it is", {"form": "soft", **tree}, LONGER, 40.90),
        ("soft, hardening", {"form": "soft", **tree, "hardening": 0.1}, LONGER, None),
        ("soft, cooling", {"form": "soft", **tree}, COOLING, None),
        ("hard", {"form": "tree", **tree}, LONGER, None),
        ("hard, straight through", {"form": "straight", **tree, "temperature": 1.0}, LONGER, None),
    ]
    return Experiment(
        "full-tree",
        "MNIST, 784-500-10, trees of depth 8, 10 epochs, AdamW, one cycle to 3e-3, batch 128",
        tuple(
            Setting(
                label,
                words,
                recipe,
                watch="gap" if words["form"] == "soft" else "usage",
                published=published,
            )
            for label, words, recipe, published in rows
        ),
        seeds=3,
        minutes=15,
    )


def balance() -> Experiment:
    """Return deep trees and leaves with and without what evens out their use."""
    tree = {"form": "tree", "depth": 8, "n_trees": 2, "activation": "gelu", "bias": True}
    leaf = {"width": 8, "depth": 4}
    cooling = replace(COOLING, epochs=5)
    rows: list[tuple[str, Words, Recipe]] = [
        ("trees", tree, ONE_CYCLE),
        ("trees, balance loss 0.1", {**tree, "balance": 0.1}, ONE_CYCLE),
        ("trees, balance loss 1", {**tree, "balance": 1.0}, ONE_CYCLE),
        ("trees, balancing bias 1e-2", {**tree, "balance_rate": 1e-2}, ONE_CYCLE),
        ("leaves", {"form": "leaf", **leaf}, cooling),
        ("leaves, balance loss 0.1", {**BALANCED, **leaf}, cooling),
        ("leaves, balance loss 1", {**BALANCED, **leaf, "balance": 1.0}, cooling),
    ]
    settings = tuple(Setting(*row, watch="usage") for row in rows)
    return Experiment(
        "balance",
        "MNIST, one layer, 5 epochs, AdamW, one cycle to 3e-3, batch 128",
        settings,
        seeds=3,
        minutes=10,
    )


def levels() -> Experiment:
    """Return what the decisions of each level do while tree and flat form learn."""
    rows: list[tuple[str, Words]] = [("tree", {"form": "tree"}), ("flat by node", {"form": "flat"})]
    settings = tuple(
        Setting(label, {**HIDDEN, **words}, replace(ORIGINAL, epochs=10), watch="levels")
        for label, words in rows
    )
    return Experiment(
        "lambdas",
        "MNIST, 784-500-10, 10 epochs, AdamW 1e-3, batch 128",
        settings,
        seeds=1,
        minutes=3,
        picture="flips",
    )


def depths() -> Experiment:
    """Return trees of growing depth in the original network."""
    return Experiment(
        "depth-sweep",
        "MNIST, 784-500-10, trees by depth, 5 epochs, AdamW 1e-3, batch 128",
        tuple(
            Setting(f"tree, depth {depth}", {**HIDDEN, "form": "tree", "depth": depth}, ORIGINAL)
            for depth in (1, 2, 4, 6, 8, 10, 12)
        ),
        seeds=3,
        minutes=10,
    )


def recursive() -> Experiment:
    """Return the tree that the original project split the batch for, and what an epoch costs.

    Its recursion is how fffnb computes any large batch; the time is that of the record.
    """
    rows: list[tuple[str, Words, int, float | None]] = [
        ("tree, batch 64", {"form": "tree"}, 64, 93.91),
        ("tree, batch 128", {"form": "tree"}, 128, 91.91),
        ("dense, batch 64", {"form": "dense"}, 64, 97.0),
    ]
    return Experiment(
        "recursive",
        "MNIST, 784-500-10, 5 epochs, AdamW 1e-3",
        tuple(
            Setting(
                label, {**HIDDEN, **words}, replace(ORIGINAL, batch_size=batch), published=published
            )
            for label, words, batch, published in rows
        ),
        seeds=3,
        minutes=5,
    )
