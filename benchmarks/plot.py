"""``python -m benchmarks.plot FILE [FILE ...]``: pictures of files of `benchmarks.crossover`.

For each file, named by its device: crossover-DEVICE-forward and crossover-DEVICE-step, time against
batch size; depth-DEVICE, time against depth; roof-DEVICE, the fraction of the roof against batch
size. Each as PNG and SVG; the same file gives the same bytes with the same matplotlib.
"""

from __future__ import annotations

import argparse
import io
import math
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from fffnb.files import replacing

from . import figures

COLORS = {"fffnb": "#0072b2", "dense": "#d55e00", "Linear": "#007a5a"}
ROOF_COLORS = ("#0072b2", "#b0508c", "#d55e00")

#: Salt and dates would make two pictures of one file differ.
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "fffnb",
    "font.size": 10,
    "xtick.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
FORMATS: dict[str, dict[str, Any]] = {
    "png": {"dpi": 150, "metadata": {"Software": None}},
    "svg": {"metadata": {"Date": None}},
}

Series = dict[str, Any]


class Label(NamedTuple):
    """The name of a curve, its colour and its points."""

    name: str
    color: str
    x: list[int]
    y: list[float]


def main() -> None:
    """Draw all pictures, then write them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plot", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="such as docs")
    options = parser.parse_args()
    if not options.out.is_dir():
        parser.error(f"--out must name a folder that exists, got {options.out}")
    made: dict[str, bytes] = {}
    try:
        for path in options.files:
            new = pictures(path)
            if not made.keys().isdisjoint(new):
                raise ValueError(f"{path} is of the same device as a file before it")
            made |= new
        for name, content in made.items():
            with replacing(options.out / name) as temporary:
                Path(temporary).write_bytes(content)
            print(options.out / name)
    except (ImportError, ValueError) as error:
        parser.exit(2, f"{error}\n")


def pictures(path: Path) -> dict[str, bytes]:
    """Return the pictures of a file, by their names."""
    try:
        from matplotlib import rc_context
    except ImportError as error:
        raise ImportError(
            "pictures need matplotlib: python -m pip install 'fffnb[train]'"
        ) from error
    crossover = figures.read(path)
    made = {}
    with figures.written_by("benchmarks.crossover", path), rc_context(STYLE):
        for name, figure in draw(crossover["machine"], crossover["series"]):
            for suffix, options in FORMATS.items():
                file = io.BytesIO()
                figure.savefig(file, format=suffix, **options)
                made[f"{name}.{suffix}"] = file.getvalue()
    if not made:
        raise ValueError(f"{path} must hold a series, got none")
    return made


def draw(machine: dict[str, Any], series: list[Series]) -> Iterator[tuple[str, Any]]:
    """Yield the pictures of a machine's series, and their names."""
    device = "gpu" if "gpu" in machine else "cpu"
    caption = figures.describe(machine)
    forward, step = (
        [each for each in series if each["axis"] == "batch" and each["what"] == what]
        for what in ("forward", "step")
    )
    depth = [each for each in series if each["axis"] == "depth"]
    if forward:
        yield f"crossover-{device}-forward", time_picture(forward, caption)
        yield f"roof-{device}", roof_picture(forward, caption)
    if step:
        yield f"crossover-{device}-step", time_picture(step, caption)
    if depth:
        yield f"depth-{device}", time_picture(depth, caption)


def time_picture(series: list[Series], caption: str) -> Any:
    """Return a picture of times, a panel for each series."""
    figure, panels = new_figure(len(series), caption)
    panels[0].set(yscale="log", ylabel="time of a call, ms")
    ends = []
    for axes, each in zip(panels, series, strict=True):
        set_axes(axes, each)
        curves = {name: curve(each, name) for name in COLORS}
        ends.append([draw_curve(axes, name, *curves[name], COLORS[name]) for name in COLORS])
        what = {"forward": "forward pass", "step": "training step"}[each["what"]]
        axes.set_title(f"{what}, {shape(each)}", loc="left", fontsize=11, pad=38)
        mark_crossings(axes, each, curves)
    for axes, labels in zip(panels, ends, strict=True):  # when the limits of y are known
        finish_axes(axes, labels)
    return figure


def roof_picture(series: list[Series], caption: str) -> Any:
    """Return a picture of the fractions of the roof."""
    figure, (axes,) = new_figure(1, caption)
    axes.set(yscale="log", ylabel="fraction of the roof that fffnb reaches")
    labels = []
    for each, color in zip(series, ROOF_COLORS, strict=False):
        set_axes(axes, each)
        batches = [point["batch"] for point in each["points"]]
        roofs = [point["roof"] for point in each["points"]]
        labels.append(draw_curve(axes, f"depth {each['depth']}", batches, roofs, color))
    axes.axhline(1, color="0.5", linewidth=1)
    title = f"forward pass, {series[0]['n_in']} → {series[0]['n_out']}"
    axes.set_title(title, loc="left", fontsize=11)
    finish_axes(axes, labels)
    return figure


def new_figure(n_panels: int, caption: str) -> tuple[Any, Any]:
    """Return a figure, its panels with one axis of y, and the caption below."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.4 + 4.8 * n_panels, 4.6), layout="constrained")
    panels = figure.subplots(1, n_panels, sharey=True, squeeze=False)[0]
    figure.supxlabel(wrapped(caption, 80 * n_panels), fontsize=8, color="0.35")
    return figure, panels


def wrapped(caption: str, width: int) -> str:
    """Return a caption in lines of this width that end with commas: names stay beside versions."""
    glue = "\N{NO-BREAK SPACE}"
    glued = caption.replace(" ", glue).replace(f",{glue}", ", ")
    lines = textwrap.wrap(glued, width, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines).replace(glue, " ")


def set_axes(axes: Any, series: Series) -> None:
    """Put a tick at each point of a series, and plain numbers at both axes."""
    points = [point[series["axis"]] for point in series["points"]]
    if series["axis"] == "batch":
        axes.set_xscale("log", base=2)
        axes.set_xticks(points, [f"{point:,}" for point in points])
        axes.set_xlabel("batch size")
    else:
        axes.set_xticks(points, [f"{point}\n{short(2**point - 1)}" for point in points])
        axes.set_xlabel("depth, and number of nodes")
    axes.yaxis.set_major_formatter("{x:,g}")
    axes.minorticks_off()
    axes.grid(alpha=0.25)


def short(n: int) -> str:
    """Return a number of nodes in at most four letters."""
    return f"{n}" if n < 1e4 else f"{n / 1e3:.0f}k" if n < 1e6 else f"{n / 1e6:.0f}M"


def shape(series: Series) -> str:
    """Return what the points of a series have in common, in words."""
    sizes = f"{series['n_in']} → {series['n_out']}"
    if series["axis"] == "depth":
        return f"{sizes}, batch {series['batch']}"
    return f"{sizes}, depth {series['depth']} ({2 ** series['depth'] - 1:,} nodes)"


def curve(series: Series, name: str) -> tuple[list[int], list[float]]:
    """Return the points of a series at which a name was measured, and its milliseconds there."""
    points = [point for point in series["points"] if point["seconds"].get(name) is not None]
    milliseconds = [1e3 * point["seconds"][name] for point in points]
    return [point[series["axis"]] for point in points], milliseconds


def draw_curve(axes: Any, name: str, x: list[int], y: list[float], color: str) -> Label:
    """Draw a curve; return its label, whose place is the curve's end."""
    axes.plot(x, y, "o-", color=color, markersize=4)
    return Label(name, color, x, y)


def finish_axes(axes: Any, labels: list[Label]) -> None:
    """Choose the ticks of y and write the name of each curve at its end, beside no other."""
    low, high = (math.log(limit) for limit in axes.get_ylim())
    if high - low < math.log(1000):  # powers of ten would be too few ticks
        axes.yaxis.get_major_locator().set_params(subs=(1, 2, 5))
    place = -math.inf
    for name, color, x, y in sorted(labels, key=lambda label: label.y[-1:]):
        if x:
            place = max(math.log(y[-1]), place + 0.06 * (high - low))
            where = {"xytext": (8, 0), "textcoords": "offset points", "va": "center"}
            axes.annotate(name, (x[-1], math.exp(place)), color=color, **where)


def mark_crossings(axes: Any, series: Series, curves: dict[str, Any]) -> None:
    """Mark where fffnb overtakes another layer or falls behind it, and say so below the title."""
    layers = {"dense": "the dense layer", "Linear": "the linear layer"}
    ours = dict(zip(*curves["fffnb"], strict=True))
    for i, (name, words) in enumerate(layers.items()):
        ratios = [(x, ours[x] / y) for x, y in zip(*curves[name], strict=True) if x in ours]
        if ratios:
            turns = list(crossings(ratios, series["axis"]))
            for x, _ in turns:
                axes.axvline(x, color=COLORS[name], linestyle=":", linewidth=1.2)
            text = verdict(words, ratios[0][1] < 1, turns, series["axis"])
            style = {"color": COLORS[name], "fontsize": 8.5, "transform": axes.transAxes}
            axes.text(0, 1.08 - 0.06 * i, text, in_layout=False, **style)


def crossings(ratios: list[tuple[float, float]], axis: str) -> Iterator[tuple[float, bool]]:
    """Yield where a curve of ratios passes 1, and whether it is below from there on."""
    for (x, ratio), (next_x, next_ratio) in pairwise(ratios):
        if (ratio < 1) != (next_ratio < 1):
            share = math.log(ratio) / math.log(ratio / next_ratio)
            logarithmic = axis == "batch"  # as that axis is drawn
            place = x * (next_x / x) ** share if logarithmic else x + share * (next_x - x)
            yield place, next_ratio < 1


def verdict(layer: str, ahead: bool, turns: list[tuple[float, bool]], axis: str) -> str:
    """Return in words where fffnb is faster than another layer."""
    pace = {True: "faster", False: "slower"}
    words = f"fffnb {pace[ahead]} than {layer}"
    if not turns:
        return f"{words} at every {axis}"
    unit = f"{axis} "
    for place, below in turns:
        n = math.ceil(place)
        words += f", {pace[below]} from {unit}{round(n, 2 - len(str(n))):,}"
        unit = ""
    return words


if __name__ == "__main__":
    main()
