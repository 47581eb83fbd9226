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
        if not any(isinstance(layer, nn.TreeLayer) for layer in layers_of(model)):
            raise ValueError(f"--data needs a model with FFF layers, {options.model} has none")
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


def layers_of(model: nn.Layer) -> tuple[nn.Layer, ...]:
    """Return the layers of a model that may be a single one."""
    return model.layers if isinstance(model, nn.Sequential) else (model,)


def structure(model: nn.Layer) -> list[tuple[str, ...]]:
    """Return a row for each layer."""
    rows: list[tuple[str, ...]] = []
    for i, layer in enumerate(layers_of(model)):
        row = [str(i), type(layer).__name__]
        if isinstance(layer, (nn.TreeLayer, nn.Linear)):
            trees = (layer.depth, layer.n_trees) if isinstance(layer, nn.TreeLayer) else ("", "")
            parameters = sum(array.size for array in layer.parameters.values())
            row += [f"{layer.n_in} → {layer.n_out}", *map(str, trees)]
            row += [f"{n:,}" for n in (layer.neurons_read, layer.neurons, parameters)]
        rows.append((*row, *[""] * (len(STRUCTURE) - len(row))))
    return rows


USE = ("layer", "tree", "leaves used", "leaves", "busiest leaf", "evenness")


def use(model: nn.Layer, x: np.ndarray) -> list[tuple[str, ...]]:
    """Return a row for each tree: how the samples spread over its leaves.

    Evenness is the entropy of the shares of the leaves over that of equal shares: 1 where all
    leaves have as many samples, 0 where one leaf has them all.
    """
    rows: list[tuple[str, ...]] = []
    for i, layer in enumerate(layers_of(model)):
        if isinstance(layer, nn.TreeLayer):
            for tree, leaves in enumerate(layer.leaves(x).T):
                shares = np.bincount(leaves, minlength=2**layer.depth) / len(leaves)
                seen = shares[shares > 0]
                evenness = float(-np.sum(seen * np.log2(seen))) / layer.depth
                rows.append(
                    (
                        str(i),
                        str(tree),
                        f"{len(seen):,}",
                        f"{2**layer.depth:,}",
                        f"{100 * seen.max():.1f} %",
                        f"{evenness:.2f}",
                    )
                )
        x = layer(x)
    return rows
