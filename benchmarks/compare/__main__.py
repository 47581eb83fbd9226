"""``python -m benchmarks.compare cpu`` or ``gpu``: fffnb beside plain trees and dense layers.

Each layer is checked, then timed beside its peers: tables of times and of how many times as long
the peers take. ``forms`` puts the other forms beside plain ones, on the CPU. The modules of these
names in `benchmarks.compare` say what is measured.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..peers import installed
from . import cpu, forms, record
from .cases import add_only, picked


def main() -> None:
    """Print the tables, and write JSON where asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    parser.add_argument("what", choices=("cpu", "gpu", "forms"))
    add_only(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    parser.add_argument(
        "--machine", metavar="NAME", help="its name in FILE (default: cpu-2core, h100 and the like)"
    )
    parser.add_argument("--compile", action="store_true", help="time torch.compile too, minutes")
    options = parser.parse_args()
    file = options.json
    if file and (file.is_dir() or not file.parent.is_dir()):
        parser.error(f"--json must name a file in a folder that exists, got {file}")
    if options.what == "cpu":
        if options.compile and not installed("torch"):
            parser.error("--compile needs PyTorch: python -m pip install '.[peers]'")
        cases = picked(parser, options.only, cpu.CASES)
        name = options.machine or cpu.generic_name()
        figures = cpu.compare(cases, name, compiled=options.compile)
    elif options.what == "forms":
        names = [name for name in forms.CASES if options.only in name]
        if not names:
            parser.error(f"--only must match one of {'; '.join(forms.CASES)}; got {options.only!r}")
        figures = forms.compare(names, options.machine or cpu.generic_name())
    else:
        if not gpu_found():
            parser.exit(2, "compare gpu needs PyTorch and a CUDA device that it can use.\n")
        from . import gpu

        cases = picked(parser, options.only, gpu.CASES)
        name = options.machine or gpu.generic_name()
        figures = gpu.compare(cases, name, compiled=options.compile)
    if file:
        record.write(file, figures)


def gpu_found() -> bool:
    """Return whether PyTorch finds a GPU."""
    if not installed("torch"):
        return False
    import torch

    return bool(torch.cuda.is_available())


if __name__ == "__main__":
    main()
