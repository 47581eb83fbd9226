"""What is kept of a run: the machine, the versions, and a file that is whole or not there."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from pathlib import Path
from typing import Any

import numba
from llvmlite import binding

import fffnb
from fffnb.cpu import jit
from fffnb.files import replacing

LIBRARIES = (
    *("numpy", "scipy", "numba", "llvmlite", "torch", "triton", "jax"),
    *("numba-cuda", "cupy-cuda12x", "cupy-cuda13x"),
)


def machine(name: str) -> dict[str, Any]:
    """Return what a machine of this name runs: processor, threads, versions."""
    return {
        "name": name,
        "llvm_cpu": binding.get_host_cpu_name(),
        "threads": numba.get_num_threads(),
        "threading_layer": jit.threading_layer(),
        "versions": {"python": platform.python_version(), "fffnb": fffnb.__version__, **versions()},
    }


def versions() -> dict[str, str]:
    """Return the versions of the libraries that are installed."""
    found = {}
    for library in LIBRARIES:
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def write(path: Path, figures: dict[str, Any]) -> None:
    """Write figures as JSON in one go: a reader sees the old file or the new one."""
    text = json.dumps(figures, indent=2, ensure_ascii=False) + "\n"
    with replacing(path) as temporary:
        Path(temporary).write_text(text, encoding="utf-8")
