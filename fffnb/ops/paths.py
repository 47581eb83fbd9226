"""What soft paths take: gates, temperature, region leak; the checks and their errors."""

from __future__ import annotations

import math

import numpy as np

from .arrays import Array, check_number

#: Names of the gates, in the order of their codes in `cpu.soft_paths`.
GATES = ("sigmoid", "smooth_step")


def gate_code(gate: str) -> int:
    """Return the code of a gate's name."""
    if not isinstance(gate, str) or gate not in GATES:
        raise ValueError(f"gate must be one of {', '.join(GATES)}, got {gate!r}")
    return GATES.index(gate)


def check_temperature(temperature: float) -> float:
    """Return a temperature as a float, or say what is wrong with it."""
    value = check_number("temperature", temperature)
    if not 0 < value < math.inf:
        raise ValueError(f"temperature must be a finite number above 0, got {temperature}")
    return value


def check_leak(leak: float) -> float:
    """Return the probability of a leak as a float, or say what is wrong with it."""
    value = check_number("leak", leak)
    if not 0 <= value <= 0.5:
        raise ValueError(f"leak must be a probability from 0 to 0.5, got {leak}")
    return value


def draw_leaks(
    leak: float, rng: int | np.random.Generator | None, shape: tuple[int, ...]
) -> Array | None:
    """Return which nodes leak, for each sample; None if none can."""
    if leak == 0:
        return None
    drawn: Array = np.random.default_rng(rng).random(shape, np.float32)
    return drawn < leak
