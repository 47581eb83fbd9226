"""The picture of an experiment."""

from __future__ import annotations

import io
from itertools import cycle
from typing import Any

from ..plot import FORMATS, STYLE, wrapped
from .report import Row

OURS, PUBLISHED = "#0072b2", "#d55e00"

#: Colours of families of rows, by the first word of their labels.
FAMILIES = (
    *("#d55e00", "#0072b2", "#007a5a", "#b0508c", "#a67c00"),
    *("0.35", "#56b4e9", "#000000", "#cc79a7", "#7f3b08"),
)


def png(kind: str, title: str, rows: list[Row], caption: str) -> bytes:
    """Return the picture of some rows as a PNG file."""
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "a picture needs matplotlib: python -m pip install 'fffnb[train]'"
        ) from error
    with rc_context(STYLE):
        height = 1.6 + 0.32 * len(rows) if kind == "accuracies" else 5
        figure = Figure(figsize=(8, height), layout="constrained")
        DRAW[kind](figure, rows)
        figure.suptitle(title, fontsize=11)
        figure.supxlabel(wrapped(caption, 110), fontsize=8, color="0.35")
        file = io.BytesIO()
        figure.savefig(file, format="png", **FORMATS["png"])
    return file.getvalue()


def accuracies(figure: Any, rows: list[Row]) -> None:
    """Draw the accuracy of each row, mean and standard deviation, and what was published."""
    axes = figure.subplots()
    for place, row in enumerate(rows):
        point(axes, row["test"], place, OURS)
        if row["published"] is not None:
            axes.plot(row["published"], place, "D", color=PUBLISHED, markersize=5, mfc="none")
    axes.set_yticks(range(len(rows)), [row["label"] for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("test accuracy, %: ours with one standard deviation; diamonds: published")
    axes.grid(alpha=0.25)


def point(axes: Any, spread: dict[str, Any], place: float, color: str) -> None:
    """Draw a mean with its standard deviation at a height."""
    if spread["mean"] is not None:
        error = {"xerr": spread["sd"]} if spread["sd"] is not None else {}
        axes.errorbar(spread["mean"], place, fmt="o", color=color, capsize=3, **error)


def equal_work(figure: Any, rows: list[Row]) -> None:
    """Draw errors against multiply-adds, a curve for each family of rows."""
    axes = figure.subplots()
    families: dict[str, list[Row]] = {}
    for row in rows:
        families.setdefault(row["label"].split(",")[0], []).append(row)
    for (name, members), color in zip(families.items(), cycle(FAMILIES), strict=False):
        whole = [row for row in members if row["test"]["mean"] is not None]
        whole.sort(key=lambda row: row["multiply_adds"])
        work = [row["multiply_adds"] for row in whole]
        wrong = [100 - row["test"]["mean"] for row in whole]
        errors = [row["test"]["sd"] or 0 for row in whole]
        axes.errorbar(work, wrong, errors, fmt="o-", color=color, capsize=3, label=name)
    axes.set(xscale="log", xlabel="multiply-adds of a sample")
    axes.set(yscale="log", ylabel="test samples classified wrongly, %")
    for setter in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        setter("{x:g}")
    axes.legend(frameon=False, fontsize=9)
    axes.grid(alpha=0.25)


def flips(figure: Any, rows: list[Row]) -> None:
    """Draw the share of samples that turned the other way, by epoch, a curve for each level."""
    panels = figure.subplots(1, len(rows), sharey=True, squeeze=False)[0]
    for axes, row in zip(panels, rows, strict=True):
        flipped = row["watched"][0]["0"]["flipped"] if row["watched"] else []
        for level, shares in enumerate(zip(*flipped[1:], strict=True)):
            color = (0.9 - 0.9 * level / len(flipped[0]), 0.35, 0.9 * level / len(flipped[0]))
            axes.plot(range(1, len(flipped)), shares, "o-", color=color, label=f"level {level}")
        axes.set_title(row["label"], fontsize=10)
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.25)
    panels[0].set_ylabel("share of samples that turned the other way")
    panels[-1].legend(frameon=False, fontsize=8)


DRAW = {"accuracies": accuracies, "equal-work": equal_work, "flips": flips}
