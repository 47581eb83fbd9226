"""Files of figures: what the commands measured, as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

#: Where measured files are kept; not in `results`, where asv looks for its own.
FOLDER = Path(__file__).parent / "measured"

#: The packages whose versions stand beside figures.
PACKAGES = ("fffnb", "numba", "numba-cuda", "numpy", "torch")


def read(path: Path) -> dict[str, Any]:
    """Return the figures of a file; where it holds none, raise ValueError saying why."""
    try:
        figures = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"{path} must be a whole JSON file: {error}") from error
    if not isinstance(figures, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(figures).__name__}")
    return figures


@contextmanager
def written_by(command: str, path: Path) -> Iterator[None]:
    """Turn errors of a block that uses figures into one that says what wrote such a file."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{path} must be a file of {command}, got another ({reason})") from error


def describe(machine: dict[str, Any]) -> str:
    """Return a machine's name, its facts and versions as far as they are known, in one line."""
    facts = [machine[key] for key in ("gpu", "llvm_cpu") if key in machine]
    facts += [f"{machine['threads']} threads"] if "threads" in machine else []
    versions = machine.get("versions", {})
    facts += [f"{name} {versions[name]}" for name in PACKAGES if name in versions]
    return f"{machine['name']} ({', '.join(facts)})" if facts else f"{machine['name']}"
