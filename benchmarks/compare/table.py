"""The table that both devices print."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from .cases import Case

#: The fields of a case, "weights": warm or cold, "seconds": times by column, None where there is
#: none, "remarks": why there is none, and what else a column needs.
Result = dict[str, Any]


class Table(NamedTuple):
    """Times of fffnb and of its peers, a row for each case.

    Attributes
    ----------
    columns : tuple of str
        Whose times are shown, in milliseconds.
    ours : str
        The column that the peers are measured by.
    peers : tuple of str
        The columns that are shown as multiples of `ours`.
    notes : dict of str to function
        Other columns, figures that follow from a result.
    """

    columns: tuple[str, ...]
    ours: str
    peers: tuple[str, ...]
    notes: dict[str, Callable[[Result], float | None]]

    def show(self, results: Iterable[Result]) -> list[Result]:
        """Print the times as they come, then the multiples and remarks; return the results."""
        titles = (*self.columns, *self.notes)
        print(_line("n_in→n_out, depth, batch", "label", "weights", titles, titles))
        kept = []
        for result in results:
            print(_row(result, titles, self._times(result)), flush=True)
            kept.append(result)
        titles = tuple(f"× {peer}" for peer in self.peers)
        print("\n" + _line(f"how many times {self.ours}", "", "", titles, titles))
        for result in kept:
            print(_row(result, titles, self._multiples(result)))
            for remark in result.get("remarks", ()):
                print(f"  {remark}")
        print()
        return kept

    def _times(self, result: Result) -> Iterator[float | None]:
        for column in self.columns:
            seconds = result["seconds"].get(column)
            yield None if seconds is None else 1e3 * seconds
        for note in self.notes.values():
            yield note(result)

    def _multiples(self, result: Result) -> Iterator[float | None]:
        for peer in self.peers:
            yield ratio(result, peer, self.ours)


def ratio(result: Result, one: str, other: str) -> float | None:
    """Return how many times as long as the other one time is, None without either."""
    seconds, unit = result["seconds"].get(one), result["seconds"].get(other)
    return None if seconds is None or unit is None else seconds / unit


def _row(result: Result, titles: Sequence[str], figures: Iterable[float | None]) -> str:
    """Return the line of a result under these titles."""
    case = Case.of(result)
    shown = ["–" if figure is None else f"{figure:.4g}" for figure in figures]
    return _line(case.name, case.label, result["weights"], titles, shown)


def _line(
    name: str, label: str, weights: str, titles: Sequence[str], entries: Sequence[str]
) -> str:
    """Return entries in columns as wide as their titles need."""
    cells = (
        f"{entry:>{max(9, len(title)) + 2}}" for title, entry in zip(titles, entries, strict=True)
    )
    return f"{name:24} {label:15} {weights:7}" + "".join(cells)
