"""The runs of an experiment: finished ones are files, and only the others are trained."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from .. import figures
from ..compare.record import write
from .settings import Setting

Record = dict[str, Any]


def path_of(folder: Path, setting: Setting, seed: int) -> Path:
    """Return the file of a run."""
    return folder / f"{re.sub('[^a-z0-9.]+', '-', setting.label.lower()).strip('-')}-{seed}.json"


def finished(folder: Path, setting: Setting, seed: int) -> Record | None:
    """Return the record of a run, None without one; refuse one that was made by other settings."""
    path = path_of(folder, setting, seed)
    if not path.exists():
        return None
    record = figures.read(path)
    made, asked = record.get("settings"), json.loads(json.dumps(setting.to_json()))
    if made != asked:
        raise ValueError(
            f"{path} must be a run with the settings {asked}, got one with {made}; "
            "name another folder with --out or remove the file"
        )
    return record


def read(folder: Path, setting: Setting, seed: int) -> Record:
    """Return the record of a run that is finished."""
    record = finished(folder, setting, seed)
    assert record is not None
    return record


def keep(folder: Path, setting: Setting, seed: int, record: Record) -> None:
    """Write the record of a finished run."""
    folder.mkdir(parents=True, exist_ok=True)
    write(path_of(folder, setting, seed), record)
