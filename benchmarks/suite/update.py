"""Optimiser steps on the rows that a batch has visited."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

import fffnb

from .problems import CASES, LR, Array, Sizes, Timed, assert_close, problem


@functools.cache
def update(optimizer: str, sizes: Sizes) -> Callable[[], None]:
    """Return the step of an optimiser on the row gradient of a batch, checked."""
    from fffnb import nn

    x, nodes, grad_y, trace = problem(sizes)
    gradient = fffnb.fff_backward(grad_y, x, nodes, trace, sparse=True).nodes
    assert isinstance(gradient, fffnb.RowGradient)
    parameters = {"nodes": nodes}
    optimizers: dict[str, nn.Optimizer] = {
        "sgd": nn.SGD(parameters, lr=1.0),
        "momentum": nn.SGD(parameters, lr=1.0, momentum=0.9),
        "adamw": nn.AdamW(parameters, lr=1.0),
    }
    chosen = optimizers[optimizer]
    check(chosen.rule("nodes"), nodes, gradient)
    chosen.lr = LR
    rule = chosen.rule("nodes")
    return lambda: fffnb.update_rows(nodes, gradient, rule)


def check(rule: fffnb.UpdateRule, nodes: Array, gradient: fffnb.RowGradient) -> None:
    """Raise AssertionError where two steps from a fresh state go wrong; put the nodes back."""
    table = nodes.reshape(-1, nodes.shape[2])
    before = table[gradient.rows]
    for _ in range(2):
        fffnb.update_rows(nodes, gradient, rule)
    after = table[gradient.rows]
    table[gradient.rows] = before
    right = replay(rule, before.astype(np.float64), gradient.values.astype(np.float64))
    assert_close(after, right, 100 * float(np.finfo(nodes.dtype).eps))


def replay(rule: fffnb.UpdateRule, weights: Array, gradient: Array) -> Array:
    """Return weights after two steps with one gradient, as torch's optimisers take them."""
    n = rule.numbers
    mean, square = np.zeros((2, *weights.shape))
    for t in (1, 2):
        if rule.kind == "sgd":
            mean = n["momentum"] * mean + gradient + n["weight_decay"] * weights
            weights = weights - n["lr"] * mean
        else:
            mean = n["beta1"] * mean + (1 - n["beta1"]) * gradient
            square = n["beta2"] * square + (1 - n["beta2"]) * gradient**2
            root = np.sqrt(square / (1 - n["beta2"] ** t))
            weights = weights * (1 - n["lr"] * n["weight_decay"])
            weights = weights - n["lr"] * mean / (1 - n["beta1"] ** t) / (root + n["eps"])
    return weights


class Update(Timed):
    """`update_rows` on the rows of a batch."""

    params = (("base", "batch=1", "batch=1024", "dtype=float64"),)

    def time_sgd(self, case: str) -> None:
        """Time a step of SGD."""
        update("sgd", CASES[case])()


class Moments(Timed):
    """`update_rows` by rules that keep a state for every row."""

    params = (("base", "batch=1024"),)

    def time_momentum(self, case: str) -> None:
        """Time a step of SGD with momentum."""
        update("momentum", CASES[case])()

    def time_adamw(self, case: str) -> None:
        """Time a step of AdamW."""
        update("adamw", CASES[case])()


class Deep(Timed):
    """`update_rows` on a gigabyte of nodes, whose rows lie far apart."""

    params = (("width=128, depth=20",),)

    def time_sgd(self, case: str) -> None:
        """Time a step of SGD."""
        update("sgd", CASES[case])()
