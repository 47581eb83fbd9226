"""The experiments by name; none is built before it is asked for."""

from __future__ import annotations

from collections.abc import Callable

from . import cifar, mnist
from .experiment import Experiment

EXPERIMENTS: dict[str, Callable[[], Experiment]] = {
    "mnist-forms": mnist.forms,
    "equal-work": mnist.equal_work,
    "paper1-mnist": mnist.leaf_grid,
    "full-tree": mnist.full_tree,
    "balance": mnist.balance,
    "lambdas": mnist.levels,
    "depth-sweep": mnist.depths,
    "recursive": mnist.recursive,
    "cifar-lenet": cifar.lenet,
    "vit-cifar": cifar.vit,
}
