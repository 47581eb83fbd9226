"""Which layers are measured, and how their times make series."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from ..compare.cases import Case

BATCHES = (1, 4, 16, 64, 256, 1024, 4096, 16384)
DEPTHS = (8, 10, 12, 14, 16, 18, 20)
FIELDS = ("n_in", "n_out", "depth", "batch")

#: The fields of what is measured of a case: "forward" and "step" are seconds by name, "roof" is the
#: fraction of the roof that the forward pass of fffnb reaches.
Result = dict[str, Any]


class Line(NamedTuple):
    """Cases that differ in one field, their axis."""

    axis: str
    cases: tuple[Case, ...]


LINES = (
    Line("batch", tuple(Case(768, 768, 8, batch) for batch in BATCHES)),
    Line("batch", tuple(Case(768, 768, 12, batch) for batch in BATCHES)),
    Line("depth", tuple(Case(256, 256, depth, 64) for depth in DEPTHS)),
)

CASES = tuple(case for line in LINES for case in line.cases)


def series(results: dict[Case, Result], lines: Iterable[Line] = LINES) -> list[dict[str, Any]]:
    """Return the series of forward passes and of steps of each line, as far as it was measured."""
    found = []
    for axis, line in lines:
        cases = [case for case in line if case in results]
        for what in ("forward", "step") if cases else ():
            first = cases[0]
            fixed = {name: getattr(first, name) for name in FIELDS if name != axis}
            points = [_point(case, axis, what, results[case]) for case in cases]
            found.append({"what": what, "axis": axis, **fixed, "points": points})
    return found


def _point(case: Case, axis: str, what: str, result: Result) -> dict[str, Any]:
    point = {axis: getattr(case, axis), "seconds": result[what]}
    return point | {"roof": result["roof"]} if what == "forward" else point
