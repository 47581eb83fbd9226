"""Forward pass of one layer."""

from __future__ import annotations

import functools
from collections.abc import Callable

import fffnb

from .problems import CASES, Array, Sizes, Timed, assert_close, problem
from .truth import Truth


@functools.cache
def forward(sizes: Sizes) -> Callable[[], Array]:
    """Return the call, checked."""
    x, nodes, _, trace = problem(sizes)

    def call() -> Array:
        return fffnb.fff_forward(x, nodes)

    truth = Truth(x, nodes, trace.leaves)
    assert_close(call(), truth.y, truth.bound)
    return call


class Forward(Timed):
    """`fff_forward`, whose history goes back to the first commit with kernels.

    Names, cases and versions must stay: asv finds its old results by them.
    """

    def time_forward(self, case: str) -> None:
        """Time the whole call, checks and allocation included."""
        forward(CASES[case])()

    time_forward.version = "1"  # type: ignore[attr-defined]
