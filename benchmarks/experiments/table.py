"""The experiments by name; none is built before it is asked for."""

from __future__ import annotations

from collections.abc import Callable

from . import mnist
from .experiment import Experiment

EXPERIMENTS: dict[str, Callable[[], Experiment]] = {
    "mnist-forms": mnist.forms,
    "equal-work": mnist.equal_work,
}
