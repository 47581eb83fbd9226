"""Which layers are compared."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Case(NamedTuple):
    """One layer and batch.

    Attributes
    ----------
    n_in, n_out, depth, batch : int
        The shape.
    label : str
        The published benchmark that has this shape.
    published_width : int or None
        The width of the dense layer which that benchmark puts beside it, where that is neither of
        `widths`.
    """

    n_in: int
    n_out: int
    depth: int
    batch: int
    label: str = ""
    published_width: int | None = None

    @classmethod
    def of(cls, result: Mapping[str, Any]) -> Case:
        """Return the case whose fields a result holds."""
        return cls(*(result[field] for field in cls._fields))

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


ULTRAFASTBERT = Case(768, 768, 12, 16384, "UltraFastBERT", 3072)
FAST_FFN = Case(768, 768, 13, 4 * 8191, "fast-ffn")

#: The shapes of published benchmarks. Depth counts nodes: where they count edges it is one more.
PUBLISHED = (
    Case(128, 64, 7, 1, "layer benchmark"),
    Case(2048, 1024, 11, 1, "layer benchmark"),
    Case(16384, 16384, 14, 1, "layer benchmark"),
    Case(8192, 8192, 13, 128, "CUDA benchmark"),
    Case(8000, 8000, 9, 1, "second paper", 4000),
    Case(8000, 8000, 9, 10, "second paper", 4000),
    Case(8000, 8000, 9, 100, "second paper", 4000),
    ULTRAFASTBERT,
    FAST_FFN,
)


def add_only(parser: argparse.ArgumentParser) -> None:
    """Let the user pick cases."""
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="cases whose name or label holds TEXT"
    )


def picked(parser: argparse.ArgumentParser, text: str, cases: Iterable[Case]) -> list[Case]:
    """Return the cases whose name or label holds `text`, or end with a message without any."""
    chosen = [case for case in cases if text in case.name or text in case.label]
    if not chosen:
        names = [" ".join(filter(None, (case.name, case.label))) for case in cases]
        parser.error(f"--only must match one of {'; '.join(names)}; got {text!r}")
    return chosen
