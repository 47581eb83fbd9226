"""Values of options, and the options that several commands share."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable


def number(
    kind: Callable[[str], float], least: float, words: str, *, above: bool = False
) -> Callable[[str], float]:
    """Return an argparse type: a finite number from `least`, or above it, said in `words`."""

    def read(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not (value > least if above else value >= least) or math.isinf(value):
            raise argparse.ArgumentTypeError(f"expected {words}, got {text!r}")
        return value

    return read


at_least_1 = number(int, 1, "an integer of at least 1")
at_least_0 = number(int, 0, "an integer of at least 0")
positive = number(float, 0, "a positive number", above=True)
not_negative = number(float, 0, "a number of at least 0")


def chosen(text: str) -> float | None:
    """Read how many nodes a sample chooses; None is all of positive score."""
    return None if text == "positive" else at_least_1(text)


def add_data(parser: argparse.ArgumentParser, default: str | None, help_default: str) -> None:
    """Add the options that name a data set."""
    parser.add_argument(
        "--data",
        default=default,
        metavar="NAME",
        help="digits, mnist, cifar10, or a .npz file with x and y (and x_test, y_test); "
        f"default: {help_default}",
    )
    parser.add_argument("--data-dir", metavar="DIR", help="the folder that holds mnist or cifar10")
