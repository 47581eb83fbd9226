"""``python -m benchmarks.compare cpu`` or ``gpu``: fffnb beside plain trees and dense layers.

Each layer is checked, then timed beside its peers: tables of times and of how many times as long
the peers take. ``forms`` puts the other forms beside plain ones, on the CPU, or all forms on a GPU
with ``--device gpu``. The modules of these names in `benchmarks.compare` say what is measured.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..peers import installed
from . import cpu, record
from .cases import add_only, picked
from .forms import cases as form_cases
from .forms import cpu as forms_cpu


def main() -> None:
    """Print the tables, and write JSON where asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    parser.add_argument("what", choices=("cpu", "gpu", "forms"))
    parser.add_argument("--device", choices=("cpu", "gpu"), help="where forms run (default: cpu)")
    add_only(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    parser.add_argument(
        "--machine", metavar="NAME", help="its name in FILE (default: cpu-2core, h100 and the like)"
    )
    parser.add_argument("--compile", action="store_true", help="time torch.compile too, minutes")
    options = parser.parse_args()
    if options.device and options.what != "forms":
        parser.error(f"--device is for forms, got it for {options.what}")
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
        figures = compare_forms(parser, options)
    else:
        gpu = gpu_or_exit(parser)
        cases = picked(parser, options.only, gpu.CASES)
        name = options.machine or gpu.generic_name()
        figures = gpu.compare(cases, name, compiled=options.compile)
    if file:
        record.write(file, figures)


def compare_forms(parser: argparse.ArgumentParser, options: argparse.Namespace) -> dict[str, Any]:
    """Compare the forms on the device of the options."""
    on_gpu = options.device == "gpu"
    gpu = gpu_or_exit(parser) if on_gpu else None
    cases = form_cases.GPU_CASES if on_gpu else form_cases.CASES
    names = [name for name in cases if options.only in name]
    if not names:
        parser.error(f"--only must match one of {'; '.join(cases)}; got {options.only!r}")
    if gpu is None:
        return forms_cpu.compare(names, options.machine or cpu.generic_name())
    from .forms import gpu as forms_gpu

    return forms_gpu.compare(names, options.machine or gpu.generic_name())


def gpu_or_exit(parser: argparse.ArgumentParser) -> Any:
    """Return what compares on a GPU, or end where PyTorch finds none."""
    if not gpu_found():
        parser.exit(2, "comparing on a GPU needs PyTorch and a CUDA device that it can use.\n")
    from . import gpu

    return gpu


def gpu_found() -> bool:
    """Return whether PyTorch finds a GPU."""
    if not installed("torch"):
        return False
    import torch

    return bool(torch.cuda.is_available())


if __name__ == "__main__":
    main()
