"""``python -m benchmarks.compare cpu`` or ``gpu``: fffnb beside plain trees and dense layers.

Each layer is checked, then timed beside its peers: tables of times and of how many times as long
the peers take. `benchmarks.compare.cpu` and `benchmarks.compare.gpu` say what is measured.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from pathlib import Path

from . import cpu
from .cases import add_only, picked


def main() -> None:
    """Print the tables, and write JSON where asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    parser.add_argument("device", choices=("cpu", "gpu"))
    add_only(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    parser.add_argument("--compile", action="store_true", help="gpu: time torch.compile, minutes")
    options = parser.parse_args()
    if options.json and not options.json.parent.is_dir():
        parser.error(f"--json must name a file in a folder that exists, got {options.json}")
    if options.device == "cpu":
        if options.compile:
            parser.error("--compile is for gpu only")
        figures = cpu.compare(picked(parser, options.only, cpu.CASES))
    else:
        if not gpu_found():
            parser.exit(2, "compare gpu needs PyTorch and a CUDA device that it can use.\n")
        from . import gpu

        cases = picked(parser, options.only, gpu.CASES)
        figures = gpu.compare(cases, compiled=options.compile)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2))


def gpu_found() -> bool:
    """Return whether PyTorch finds a GPU."""
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return bool(torch.cuda.is_available())


if __name__ == "__main__":
    main()
