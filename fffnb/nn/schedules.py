"""Learning-rate schedules: functions from the step to a factor on the base learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable

Schedule = Callable[[int], float]


def constant(*, warm_up: int = 0) -> Schedule:
    """Return a schedule that stays at 1.

    Parameters
    ----------
    warm_up : int, default 0
        Steps in which the factor first rises in a line from ``1 / warm_up`` to 1.

    Returns
    -------
    callable
        ``schedule(step)`` for step 0, 1, ...

    Examples
    --------
    >>> from fffnb.nn import constant
    >>> [constant(warm_up=2)(step) for step in range(3)]
    [0.5, 1.0, 1.0]
    """
    return _warmed(lambda step: 1.0, warm_up)


def cosine(total_steps: int, final: float = 0.0, *, warm_up: int = 0) -> Schedule:
    """Return a schedule that falls from 1 to `final` along half a cosine.

    Parameters
    ----------
    total_steps : int
        Steps of the whole run, warm-up included; later steps stay at `final`.
    final : float, default 0
        Factor at the end.
    warm_up : int, default 0
        Steps of the linear rise before the fall.

    Returns
    -------
    callable
        ``schedule(step)`` for step 0, 1, ...

    Raises
    ------
    ValueError
        If `total_steps` does not exceed `warm_up`.

    Examples
    --------
    >>> from fffnb.nn import cosine
    >>> [round(cosine(4)(step), 3) for step in range(5)]
    [1.0, 0.854, 0.5, 0.146, 0.0]
    """
    if total_steps <= warm_up:
        raise ValueError(f"total_steps must exceed warm_up = {warm_up}, got {total_steps}")

    def fall(step: int) -> float:
        done = min(1.0, (step - warm_up) / (total_steps - warm_up))
        return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * done))

    return _warmed(fall, warm_up)


def step(every: int, factor: float = 0.1, *, warm_up: int = 0) -> Schedule:
    """Return a schedule that is multiplied by `factor` after every `every` steps.

    Parameters
    ----------
    every : int
        Steps between two falls.
    factor : float, default 0.1
        What each fall multiplies by.
    warm_up : int, default 0
        Steps of the linear rise before the first step is counted.

    Returns
    -------
    callable
        ``schedule(step)`` for step 0, 1, ...

    Raises
    ------
    ValueError
        If `every` is below 1.

    Examples
    --------
    >>> from fffnb.nn import step
    >>> [step(2, 0.5)(k) for k in range(5)]
    [1.0, 1.0, 0.5, 0.5, 0.25]
    """
    if every < 1:
        raise ValueError(f"every must be at least 1, got {every}")
    return _warmed(lambda k: float(factor ** ((k - warm_up) // every)), warm_up)


def _warmed(schedule: Schedule, warm_up: int) -> Schedule:
    """Return a schedule that rises in a line for `warm_up` steps first."""
    if warm_up < 0:
        raise ValueError(f"warm_up must be at least 0, got {warm_up}")
    return lambda step: (step + 1) / warm_up if step < warm_up else schedule(step)
