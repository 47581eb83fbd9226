"""What the commands show: tables, learning curves, measured times."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .. import files, nn

#: Shortest time for which a call is measured, in seconds.
MEASURE_SECONDS = 0.2


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of words as aligned columns; the first row is the heading."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        first, *rest = (
            word.ljust(width) if not i else word.rjust(width)
            for i, (word, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join([first, *rest]).rstrip())
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def seconds_per_sample(model: nn.Layer, x: np.ndarray, batch: int) -> float:
    """Return the median time of a forward pass divided by its batch, over different batches."""
    x = np.resize(x, (max(batch, len(x)), x.shape[1]))
    starts = range(0, len(x) - batch + 1, batch)
    model(x[:batch])
    times: list[float] = []
    end = time.perf_counter() + MEASURE_SECONDS
    while time.perf_counter() < end or len(times) < 5:
        start = starts[len(times) % len(starts)]
        begin = time.perf_counter()
        model(x[start : start + batch])
        times.append(time.perf_counter() - begin)
    return statistics.median(times) / batch


def duration(seconds: float) -> str:
    """Return a time in words, with a unit that suits it."""
    for unit, scale in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if seconds * scale >= 1 or unit == "µs":
            break
    return f"{seconds * scale:.3g} {unit}"


def learning_curve(path: Path, title: str, histories: dict[str, nn.History]) -> None:
    """Draw loss and validation accuracy of each network against the epoch, as a PNG."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "learning curves need matplotlib: python -m pip install 'fffnb[train]'"
        ) from error
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    for name, history in histories.items():
        epochs = np.arange(1, len(history.loss) + 1)
        (line,) = loss.plot(epochs, history.loss, label=name)
        accuracy.plot(
            epochs,
            np.multiply(history.accuracy, 100),
            color=line.get_color(),
            label=name,
        )
    loss.set(xlabel="epoch", ylabel="training loss", yscale="log")
    accuracy.set(xlabel="epoch", ylabel="test accuracy, %")
    for axes in (loss, accuracy):
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
        axes.xaxis.get_major_locator().set_params(integer=True)
    figure.suptitle(title)
    with files.replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
