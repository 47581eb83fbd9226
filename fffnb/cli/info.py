"""``fffnb info``: what this machine runs, or what a model is and how evenly its trees are used."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.util
import platform
from pathlib import Path
from typing import Any

import numba
import numpy as np
from llvmlite import binding

from .. import __version__, cpu, data, nn
from ..nn.form_layer import FormLayer
from ..nn.layer import Several
from . import report
from .options import add_data


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add the command to a parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "info",
        help="versions and machine, or the structure of a model",
        description="Print versions, CPU, threads and GPU; or, with a model, its structure and, "
        "with data, how evenly its trees are used.",
    )
    parser.add_argument("model", type=Path, nargs="?", metavar="MODEL")
    add_data(parser, None, "none")
    return parser


def run(options: argparse.Namespace) -> int:
    """Print the machine or the model."""
    if options.model is None:
        if options.data:
            raise ValueError("--data needs a MODEL whose use of the data it shows")
        print(report.table([("what", "value"), *machine()]))
        return 0
    model = nn.load_model(options.model)
    print(report.table([STRUCTURE, *structure(model)]))
    if options.data:
        dataset = data.load(options.data, options.data_dir)
        print(f"\nuse of the trees by {len(dataset.x_test):,} test samples of {dataset.name}")
        print(report.table([USE, *use(model, dataset.x_test)]))
    return 0


def machine() -> list[tuple[str, str]]:
    """Return versions, CPU, threads and GPU."""
    layer = cpu.jit.threading_layer()
    names = ("numba", "numpy", "scipy")
    return [
        ("fffnb", __version__),
        ("Python", platform.python_version()),
        *((name, importlib.metadata.version(name)) for name in names),
        ("system", f"{platform.system()} {platform.machine()}"),
        ("CPU (LLVM name)", binding.get_host_cpu_name()),
        ("threads", str(numba.get_num_threads() if layer else 1)),
        ("threading layer", layer or "none"),
        ("GPU", gpu()),
    ]


def gpu() -> str:
    """Say whether a CUDA device could be used."""
    if importlib.util.find_spec("numba_cuda") is None:
        return "not looked for: numba-cuda is not installed"
    cuda: Any = importlib.import_module("numba.cuda")

    if not cuda.is_available():
        return "none: CUDA finds no driver or no device"
    return str(cuda.get_current_device().name)


STRUCTURE = (
    "layer",
    "kind",
    "sizes",
    "depth",
    "trees",
    "neurons read",
    "neurons",
    "parameters",
)


def structure(model: nn.Layer, name: str = "") -> list[tuple[str, ...]]:
    """Return a row for a model and for each layer inside."""
    row = [name, type(model).__name__]
    if isinstance(model, (FormLayer, nn.Linear)):
        trees = (str(getattr(model, word, "")) for word in ("depth", "n_trees"))
        parameters = sum(array.size for array in model.parameters.values())
        row += [f"{model.n_in} → {model.n_out}", *trees]
        row += [f"{n:,}" for n in (model.neurons_read, model.neurons, parameters)]
    rows: list[tuple[str, ...]] = [(*row, *[""] * (len(STRUCTURE) - len(row)))]
    if isinstance(model, Several):
        for inner, layer in model.named(name):
            rows += structure(layer, inner)
    return rows


USE = ("layer", "tree", "dead nodes", "leaves used", "leaves", "busiest leaf", "evenness")


def use(model: nn.Layer, x: np.ndarray) -> list[tuple[str, ...]]:
    """Return a row for each tree: how the samples spread over its nodes and leaves."""
    rows: list[tuple[str, ...]] = []
    for name, usage in nn.usage(model, x).items():
        for tree, (nodes, leaves) in enumerate(zip(*usage, strict=True)):
            counts = [np.count_nonzero(nodes == 0), np.count_nonzero(leaves), len(leaves)]
            busiest = f"{100 * leaves.max() / usage.batch:.1f} %"
            evenness = f"{usage.evenness[tree]:.2f}"
            rows.append((name, str(tree), *(f"{n:,}" for n in counts), busiest, evenness))
    return rows
