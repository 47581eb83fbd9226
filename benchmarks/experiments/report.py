"""The results of an experiment as rows, and as a table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from .settings import Setting
from .work import Work

Row = dict[str, Any]

TITLES = (
    *("", "multiply-adds", "x read", "y read", "runs", "test %", "validation %", "published %"),
    *("s an epoch", "also seen"),
)


def row(setting: Setting, records: Sequence[dict[str, Any]]) -> Row:
    """Return the results of a setting; the mean is that of the runs that did not diverge."""
    whole = [record for record in records if record["diverged"] is None]
    return {
        "label": setting.label,
        "settings": setting.to_json(),
        "published": setting.published,
        **{field: records[0][field] for field in Work._fields},
        "test": spread(record["test"] for record in whole),
        "validation": spread(record["validation"] for record in whole),
        "epochs": [record["epoch"] for record in whole],
        "seconds": spread((record["seconds"] for record in records), scale=1),
        "diverged": [record["diverged"] for record in records if record["diverged"] is not None],
        "watched": [record["watched"] for record in whole if record["watched"]],
    }


def spread(values: Iterable[float], scale: float = 100) -> dict[str, Any]:
    """Return values, by default shares as per cent, with their mean and standard deviation."""
    scaled = [scale * value for value in values]
    mean = float(np.mean(scaled)) if scaled else None
    deviation = float(np.std(scaled, ddof=1)) if len(scaled) > 1 else None
    return {"mean": mean, "sd": deviation, "each": [round(value, 4) for value in scaled]}


def table(rows: Iterable[Row]) -> str:
    """Return the rows as a table in Markdown."""
    lines = [TITLES, ("---",) + ("---:",) * (len(TITLES) - 1), *map(cells, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cells(row: Row) -> tuple[str, ...]:
    """Return the cells of a row."""
    diverged = len(row["diverged"])
    n_runs = len(row["test"]["each"])
    return (
        row["label"],
        f"{row['multiply_adds']:,}",
        f"{row['x_read']:,} of {row['x_kept']:,}",
        f"{row['y_read']:,} of {row['y_kept']:,}",
        f"{n_runs}, {diverged} diverged" if diverged else f"{n_runs}",
        in_words(row["test"]),
        in_words(row["validation"]),
        "" if row["published"] is None else f"{row['published']:.2f}",
        f"{row['seconds']['mean'] / row['settings']['recipe']['epochs']:.1f}",
        also_seen(row["watched"]),
    )


def also_seen(watched: Sequence[dict[str, Any]]) -> str:
    """Return in words what the watches of the runs of a row saw, the mean over runs and layers."""
    if not watched:
        return ""
    if "soft" in watched[0]:
        soft, entropy = (np.mean([each[key] for each in watched]) for key in ("soft", "entropy"))
        return f"soft paths {100 * soft:.2f} %, entropy {entropy:.2f}"
    layers = [layer for each in watched for layer in each.values()]
    if "used" not in layers[0]:
        return "see the picture"
    used, busiest = (np.mean([layer[key] for layer in layers]) for key in ("used", "busiest"))
    least = min(layer["used"] for layer in layers)
    shares = (f"{100 * share:.0f} %" for share in (used, least, busiest))
    return "leaves used {}, at least {}, busiest {}".format(*shares)


def in_words(spread: dict[str, Any]) -> str:
    """Return a mean, with a standard deviation where there is one."""
    if spread["mean"] is None:
        return "–"
    deviation = "" if spread["sd"] is None else f" ± {spread['sd']:.2f}"
    return f"{spread['mean']:.2f}{deviation}"
