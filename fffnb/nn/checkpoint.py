"""Checkpoints: the state of a run of `fit`, from which it goes on to the same bits."""

from __future__ import annotations

import math
import os
import zlib
from typing import Any

import numpy as np

from ..files import FileError, read_arrays, write_arrays
from .run import Run
from .soft_layer import soft_layers


def save_checkpoint(path: str | os.PathLike[str], run: Run) -> None:
    """Write the state of a run to a file, or leave the old file as it was."""
    arrays = {f"parameters/{name}": array for name, array in run.model.parameters.items()}
    for name, state in run.optimizer.state_dict().items():
        arrays.update({f"state/{name}/{word}": array for word, array in state.items()})
    metadata = {
        "kind": "checkpoint",
        "run": _identity(run),
        "epoch": run.epoch,
        "batch": run.batch,
        "loss_sum": run.loss_sum,
        "history": run.history.to_dict(),
        "soft": {name: layer.training_state() for name, layer in soft_layers(run.model)},
    }
    write_arrays(path, arrays, metadata)


def load_checkpoint(path: str | os.PathLike[str], run: Run, epochs: int) -> None:
    """Bring a run to the state in a file, after checking that it is the same run."""
    arrays, metadata = read_arrays(path, kind="checkpoint")
    try:
        _check_same(_identity(run), metadata["run"])
        epoch, batch, loss_sum = (metadata[key] for key in ("epoch", "batch", "loss_sum"))
        if type(epoch) is not int or type(batch) is not int:
            raise ValueError(f"it is {epoch!r} epochs and {batch!r} batches far, expected integers")
        if type(loss_sum) is not float or not math.isfinite(loss_sum):
            raise ValueError(f"its sum of losses must be a finite number, got {loss_sum!r}")
        if not (0 <= epoch <= epochs and 0 <= batch < run.n_batches):
            raise ValueError(
                f"it is {epoch} epochs and {batch} batches far, beyond {epochs} epochs"
            )
        history = _history(metadata["history"], epoch, run)
        parameters = {name: arrays.pop(f"parameters/{name}") for name in run.model.parameters}
        for name, parameter in run.model.parameters.items():
            if (
                parameters[name].shape != parameter.shape
                or parameters[name].dtype != parameter.dtype
            ):
                raise ValueError(f"its parameter {name!r} has shape {parameters[name].shape}")
        state: dict[str, dict[str, Any]] = {}
        for key, array in arrays.items():
            prefix, name, word = key.split("/")
            if prefix != "state":
                raise ValueError(f"it holds an unknown array {key!r}")
            state.setdefault(name, {})[word] = array
        run.optimizer.load_state_dict(state)
        _load_soft(run, metadata.get("soft", {}))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FileError(f"{os.fspath(path)} is no checkpoint of this run: {error}") from error
    for name, parameter in run.model.parameters.items():
        parameter[...] = parameters[name]
    run.epoch, run.batch, run.loss_sum = epoch, batch, loss_sum
    for key, value in history.items():
        setattr(run.history, key, value)


def _load_soft(run: Run, saved: dict[str, Any]) -> None:
    """Bring the soft layers of a run to their states in a file."""
    own = dict(soft_layers(run.model))
    if set(saved) != set(own):
        raise ValueError(f"its soft layers are {sorted(saved)}, here they are {sorted(own)}")
    for name, layer in own.items():
        layer.load_training_state(saved[name])


def _history(saved: dict[str, Any], epoch: int, run: Run) -> dict[str, Any]:
    """Return the fields of a history, checked: one number per finished epoch, or none."""
    history = {key: saved[key] for key in run.history.to_dict() if key != "interrupted"}
    for key, values in history.items():
        lengths = {0, epoch} if key in ("val_loss", "accuracy") else {epoch}
        if (
            not isinstance(values, list)
            or len(values) not in lengths
            or not all(type(value) is float for value in values)
        ):
            raise ValueError(f"its history does not hold {epoch} numbers as {key}")
    return history


def _identity(run: Run) -> dict[str, Any]:
    """Return what must be equal for a run to be the same run."""
    held = run.held or ()
    return {
        "model": run.model.config(),
        "optimizer": [run.optimizer.kind, {**run.optimizer.settings(), "lr": run.lr}],
        "batch size": run.batch_size,
        "seed": run.seed,
        "data": [_fingerprint(array) for array in (run.x, run.y, *held)],
    }


def _check_same(own: dict[str, Any], saved: dict[str, Any]) -> None:
    """Refuse a checkpoint of another run, naming the first thing that differs."""
    for what, value in own.items():
        if saved[what] != value:
            shown = "" if what == "data" else f": {saved[what]} there, {value} here"
            raise ValueError(f"its {what} differs{shown}")


def _fingerprint(array: np.ndarray) -> list[Any]:
    """Return dtype, shape and checksum of an array."""
    return [array.dtype.str, list(array.shape), zlib.crc32(np.ascontiguousarray(array).data)]
