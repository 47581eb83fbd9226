"""``python -m benchmarks.crossover``: where fffnb overtakes dense layers, and where it does not.

Times of a forward pass and of a training step against the batch size (768 → 768, depth 8 and 12)
and against the depth (256 → 256, batch 64), beside a dense feed-forward layer of the same width and
a linear layer n_in → n_out. Outputs are checked before they are timed. `benchmarks.plot` draws the
file that --json writes.
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from .. import figures
from ..compare import record
from ..compare.__main__ import gpu_found
from ..compare.cases import add_only, picked
from .lines import CASES, Result, series


def main() -> None:
    """Print the times, and write JSON where asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.crossover", description=__doc__)
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    add_only(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    options = parser.parse_args()
    file = options.json
    if file and (file.is_dir() or not file.parent.is_dir()):
        parser.error(f"--json must name a file in a folder that exists, got {file}")
    cases = picked(parser, options.only, CASES)
    if options.device == "gpu" and not gpu_found():
        parser.exit(2, "crossover --device gpu needs PyTorch and a CUDA device that it can use.\n")
    device = importlib.import_module(f".{options.device}", __package__)
    machine = device.machine()
    print(figures.describe(machine))
    print(f"{'ms: fffnb, dense, Linear':24}  {'forward':>28}  {'step':>28}  of roof")
    results = {}
    for case, result in device.measure(cases):
        print(row(case.name, result), flush=True)
        results[case] = result
    if file:
        record.write(file, {"machine": machine, "series": series(results)})


def row(name: str, result: Result) -> str:
    """Return a line of the table."""
    cells = (
        "".join(
            f"{milliseconds(result[what].get(who)):>10}" for who in ("fffnb", "dense", "Linear")
        )
        for what in ("forward", "step")
    )
    return f"{name:24}{''.join(cells)}{result['roof']:9.2f}"


def milliseconds(seconds: float | None) -> str:
    """Return a time in milliseconds, or a dash."""
    return "–" if seconds is None else f"{1e3 * seconds:.4g}"


if __name__ == "__main__":
    main()
