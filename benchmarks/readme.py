"""``python -m benchmarks.readme``: write the table of speed in the README from measured files.

The files are those that `benchmarks.compare cpu --json` and `gpu --json` wrote. Each cell gives the
times of fffnb and of the layer it is put beside, and how many times as long that takes.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple

from fffnb.files import replacing

from . import figures

README = Path(__file__).parents[1] / "README.md"
CPU, GPU = figures.FOLDER / "cpu-2core.json", figures.FOLDER / "h100.json"

START, END = "<!-- speed: written by python -m benchmarks.readme -->\n", "<!-- end of speed -->\n"

#: The columns of a dense layer: the fastest one counts. On the GPU it may compute in TF32.
DENSE = ("ff", "torch_ff", "ff_compiled"), ("FF TF32",)
DENSE_STEP = ("ff_step", "torch_ff_step"), ("FF TF32",)
LINEAR = ("linear", "nn.Linear", "linear_compiled"), ("Linear TF32",)


class Row(NamedTuple):
    """A row of the table.

    Attributes
    ----------
    what : str
        "forward" or "step".
    shape : tuple of int
        n_in, n_out, depth, batch.
    against : str
        The other layer, in words.
    columns : tuple of tuple of str
        Its columns in a file of the CPU and in one of the GPU.
    published : str
        The published speed-up.
    """

    what: str
    shape: tuple[int, int, int, int]
    against: str
    columns: tuple[tuple[str, ...], tuple[str, ...]]
    published: str = "–"

    @property
    def words(self) -> str:
        """Return the row's first two cells."""
        n_in, n_out, depth, batch = self.shape
        what = {"forward": "forward", "step": "training step"}[self.what]
        return f"{what}, {n_in} → {n_out}, depth {depth}, batch {batch} | {self.against}"


NEURONS = "4,095 neurons"
ROWS = (
    Row("forward", (768, 768, 12, 1), NEURONS, DENSE),
    Row("forward", (768, 768, 12, 128), NEURONS, DENSE),
    Row("forward", (768, 768, 12, 16384), NEURONS, DENSE, "78× (CPU), 4.1× (GPU)"),
    Row("step", (768, 768, 12, 128), NEURONS, DENSE_STEP),
    Row("step", (768, 768, 12, 16384), NEURONS, DENSE_STEP),
    Row("forward", (768, 768, 12, 16384), "linear, 768 → 768", LINEAR),
    Row("forward", (16384, 16384, 14, 1), "linear, 16384 → 16384", LINEAR, "20× (CPU)"),
    Row("forward", (128, 64, 7, 1), "linear, 128 → 64", LINEAR),
)


def main() -> None:
    """Write the table into the README."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.readme", description=__doc__)
    parser.add_argument("--cpu", type=Path, default=CPU, metavar="FILE")
    parser.add_argument("--gpu", type=Path, default=GPU, metavar="FILE")
    options = parser.parse_args()
    try:
        text = renewed(README.read_text(encoding="utf-8"), table(options.cpu, options.gpu))
        with replacing(README) as temporary:
            Path(temporary).write_text(text, encoding="utf-8")
    except ValueError as error:
        parser.exit(2, f"{error}\n")


def renewed(text: str, table: str) -> str:
    """Return the text of the README with another table."""
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise ValueError(f"README.md must hold the lines {START.strip()} and {END.strip()}")
    return f"{before}{START}\n{table}\n{END}{after}"


def table(cpu: Path, gpu: Path) -> str:
    """Return the table of two files, and what their machines are."""
    columns = [column(cpu, 0), column(gpu, 1)]
    lines = [
        "| layer | beside | published | CPU, fffnb : other | GPU, fffnb : other |",
        "| --- | --- | --- | --- | --- |",
        *(
            f"| {row.words} | {row.published} | {on_cpu} | {on_gpu} |"
            for row, on_cpu, on_gpu in zip(ROWS, *columns, strict=True)
        ),
        "",
        f"CPU: {machine(cpu)}. GPU: {machine(gpu)}.",
    ]
    return "\n".join(lines) + "\n"


def machine(path: Path) -> str:
    """Return what a file says of its machine."""
    with figures.written_by("benchmarks.compare", path):
        return figures.describe(figures.read(path)["machine"])


def column(path: Path, device: int) -> list[str]:
    """Return the cells of a file of the CPU (device 0) or of the GPU (1)."""
    measured = figures.read(path)
    with figures.written_by("benchmarks.compare", path):
        return [cell(row, measured, device) for row in ROWS]


def cell(row: Row, measured: dict[str, Any], device: int) -> str:
    """Return both times of a row and their ratio, or a dash where it was not measured."""
    ours = (row.what, "fffnb")[device]
    for result in measured[("cases", row.what)[device]]:
        shape = tuple(result[name] for name in ("n_in", "n_out", "depth", "batch"))
        seconds = result["seconds"]
        others = [seconds[name] for name in row.columns[device] if seconds.get(name) is not None]
        if shape == row.shape and others:
            time, other = 1e3 * seconds[ours], 1e3 * min(others)
            return f"{short(time)} : {short(other)} ms, **{short(other / time)}×**"
    return "–"


def short(number: float) -> str:
    """Return a positive number with two digits, or with all before its point."""
    return f"{number:.2g}" if number < 9.95 else f"{number:,.0f}"


if __name__ == "__main__":
    main()
