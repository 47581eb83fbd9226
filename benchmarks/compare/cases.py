"""Which layers are compared."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Case(NamedTuple):
    """One layer and batch."""

    n_in: int
    n_out: int
    depth: int
    batch: int

    @property
    def name(self) -> str:
        """Return the case in words."""
        return f"{self.n_in}→{self.n_out}, {self.depth}, {self.batch}"

    @property
    def widths(self) -> tuple[int, int]:
        """Return the widths of a dense layer in the tree's place, plain and aligned."""
        return 2**self.depth - 1, 2**self.depth

    def row_bytes(self, leaves: NDArray[Any]) -> int:
        """Return the float32 bytes of the rows on the paths to these leaves."""
        n_rows = sum(len(np.unique(leaves >> (self.depth - level))) for level in range(self.depth))
        return 4 * (self.n_in + self.n_out) * n_rows


def add_only(parser: argparse.ArgumentParser) -> None:
    """Let the user pick cases."""
    parser.add_argument("--only", default="", metavar="TEXT", help="cases whose name holds TEXT")


def picked(parser: argparse.ArgumentParser, text: str, cases: Iterable[Case]) -> list[Case]:
    """Return the cases whose name holds `text`, or end with a message where there is none."""
    chosen = [case for case in cases if text in case.name]
    if not chosen:
        parser.error(f"--only must match one of {', '.join(case.name for case in cases)}")
    return chosen
