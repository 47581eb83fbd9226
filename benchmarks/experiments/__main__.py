"""``python -m benchmarks.experiments NAME``: published experiments again, with error bars.

Every run is a network trained from one seed. Some training samples are held out for validation; the
epoch that does best on them is tested, once. A run is a file as soon as it is finished, so that the
same command goes on where it was stopped. At the end there are a table, a JSON file of all results
and a picture.
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path
from typing import Any

from fffnb.files import replacing

from ..compare import record
from ..compare.cpu import generic_name
from ..figures import describe
from . import pictures, report
from .experiment import Experiment, run
from .table import EXPERIMENTS

#: An experiment without training, which is that of a bridge: times of a block, checked.
BERT = "bert-block"


def main() -> None:
    """Run an experiment, or what is left of it, and show its results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.experiments", description=__doc__)
    names = (*EXPERIMENTS, BERT)
    parser.add_argument("name", choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--data-dir", metavar="FOLDER", help="where the files of the data set are")
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="settings whose label holds TEXT"
    )
    parser.add_argument("--seeds", type=int, metavar="N", help="runs of each setting")
    parser.add_argument("--quick", action="store_true", help="see in seconds that all of it runs")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--out", type=Path, default=Path("experiments"), metavar="FOLDER", help="for all results"
    )
    options = parser.parse_args()
    if options.name == BERT:
        importlib.import_module("benchmarks.bridges.bert").main()
        return
    experiment = EXPERIMENTS[options.name]()
    experiment = experiment.quick() if options.quick else experiment
    experiment = experiment.only(options.only)
    if not experiment.settings:
        parser.error(f"--only must be part of a label of {experiment.name}, got {options.only!r}")
    seeds = experiment.seeds if options.seeds is None else options.seeds
    if seeds < 1:
        parser.error(f"--seeds must be at least 1, got {seeds}")
    try:
        results = run(experiment, seeds, options.out, options.data_dir, options.device)
        show(experiment, results, options.out)
    except (ImportError, ValueError) as error:
        parser.exit(2, f"{error}\n")
    except KeyboardInterrupt:
        parser.exit(130, "stopped: the same command goes on with the runs that are missing\n")


def show(experiment: Experiment, results: list[list[dict[str, Any]]], folder: Path) -> None:
    """Print the table and write the files."""
    rows = [report.row(*each) for each in zip(experiment.settings, results, strict=True)]
    print(f"\n{experiment.title}\n\n{report.table(rows)}\n")
    machine = record.machine(generic_name())
    figures = {"experiment": experiment.name, "title": experiment.title, "machine": machine}
    record.write(folder / f"{experiment.name}.json", {**figures, "rows": rows})
    picture = pictures.png(experiment.picture, experiment.title, rows, describe(machine))
    path = folder / f"{experiment.name}.png"
    with replacing(path) as temporary:
        Path(temporary).write_bytes(picture)
    print(path)


if __name__ == "__main__":
    main()
