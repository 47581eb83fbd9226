"""Training: `fit` checks its arguments, then works through a `Run`."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .checkpoint import load_checkpoint, save_checkpoint
from .layers import Layer
from .losses import Loss, softmax_cross_entropy
from .optim import AdamW, Optimizer
from .run import History, Run, progress_bar, stop_on_interrupt
from .schedules import Schedule, constant

Array = NDArray[Any]


def fit(
    model: Layer,
    x: Array,
    y: Array,
    *,
    loss: Loss = softmax_cross_entropy,
    optimizer: Optimizer | None = None,
    epochs: int = 10,
    batch_size: int = 128,
    schedule: Schedule | None = None,
    validation: tuple[Array, Array] | float | None = None,
    seed: int = 0,
    progress: bool | None = None,
    callback: Callable[[int, History], bool | None] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
) -> History:
    """Train a model in place.

    Parameters
    ----------
    model : Layer
        The model; its parameters are updated in place.
    x : ndarray, float32 or float64, shape (n, n_in)
        Samples.
    y : ndarray, shape (n,) or (n, n_out)
        Integer labels, or targets of the model's dtype.
    loss : callable, default softmax_cross_entropy
        ``loss(output, targets)`` returns the mean loss and the gradient of the output.
    optimizer : Optimizer, optional
        By default AdamW with a learning rate of 1e-3.
    epochs : int, default 10
        Passes over the samples.
    batch_size : int, default 128
        Samples in a step; the last batch of an epoch may be smaller.
    schedule : callable, optional
        From the number of the step, 0, 1, ..., to a factor on the learning rate.
    validation : (x, y) or float, optional
        Samples to evaluate after each epoch, or the share of `x` to set aside for that.
    seed : int, default 0
        Of the shuffling and of the split.
    progress : bool, optional
        Show a tqdm bar on standard error; by default only if that is a terminal.
    callback : callable, optional
        ``callback(epoch, history)`` after each epoch, counted from 1; True ends the run.
    checkpoint : path, optional
        File to which the state of the run is written at the start, after each epoch and on
        Ctrl-C.
    resume : bool, default False
        Go on from `checkpoint`. A run that was stopped anywhere and resumed ends with the same
        bits as one that was not stopped.

    Returns
    -------
    History
        What happened; `history.interrupted` tells whether Ctrl-C ended the run. A second Ctrl-C
        raises KeyboardInterrupt at once.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit, the loss stops being finite, or the checkpoint is of another
        run; says what differs.
    ImportError
        If a bar or a checkpoint is asked for and tqdm or safetensors is not installed.

    Examples
    --------
    >>> import numpy as np
    >>> from fffnb import nn
    >>> x = np.random.default_rng(0).standard_normal((256, 2)).astype(np.float32)
    >>> history = nn.fit(nn.FFF(2, 2, depth=3), x, (x[:, 0] > 0).astype(int), epochs=3)
    >>> len(history.loss)
    3
    """
    epochs = _whole("epochs", epochs, 1)
    batch_size, seed = _whole("batch_size", batch_size, 1), _whole("seed", seed, 0)
    if resume and checkpoint is None:
        raise ValueError("checkpoint must name the file to resume from, got None")
    x, y, held = _split(x, y, validation, seed)
    optimizer = AdamW(model.parameters) if optimizer is None else optimizer
    run = Run(
        model=model,
        x=x,
        y=y,
        loss=loss,
        optimizer=optimizer,
        batch_size=batch_size,
        schedule=constant() if schedule is None else schedule,
        held=held,
        seed=seed,
        lr=float(optimizer.lr),
    )
    run.check_fits()
    if resume and checkpoint is not None:
        load_checkpoint(checkpoint, run, epochs)

    def save() -> None:
        if checkpoint is not None:
            save_checkpoint(checkpoint, run)

    with (
        progress_bar(progress, epochs * run.n_batches, run.done) as bar,
        stop_on_interrupt() as stopped,
    ):
        run.train(epochs, bar, stopped, callback, save)
    return run.history


def _whole(name: str, value: int, least: int) -> int:
    """Return a whole number as a plain int, which JSON can hold, or say what is wrong with it."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return int(value)


def _split(
    x: Array, y: Array, validation: tuple[Array, Array] | float | None, seed: int
) -> tuple[Array, Array, tuple[Array, Array] | None]:
    """Return training samples and the samples held out from them, or given, for validation."""
    _check_pair("x", x, "y", y)
    if validation is None:
        return x, y, None
    if isinstance(validation, tuple) and len(validation) == 2:
        _check_pair("the x of validation", validation[0], "the y of validation", validation[1])
        return x, y, validation
    if not isinstance(validation, (int, float)):
        raise TypeError(
            f"validation must be a pair (x, y), a share or None, got {type(validation).__name__}"
        )
    n_held = round(len(x) * validation) if 0 < validation < 1 else 0
    if not 0 < n_held < len(x):
        raise ValueError(
            f"validation must set aside some of {len(x)} samples and leave some, got {validation}"
        )
    order = np.random.default_rng((seed, 0, 1)).permutation(len(x))
    held, kept = np.sort(order[:n_held]), np.sort(order[n_held:])
    return x[kept], y[kept], (x[held], y[held])


def _check_pair(x_name: str, x: Array, y_name: str, y: Array) -> None:
    """Refuse samples and targets that are no arrays of the same length, at least 1."""
    for name, array in ((x_name, x), (y_name, y)):
        if not isinstance(array, np.ndarray) or array.ndim < 1 or len(array) == 0:
            came = array.shape if isinstance(array, np.ndarray) else type(array).__name__
            raise ValueError(f"{name} must be an array of at least one sample, got {came}")
    if len(x) != len(y):
        raise ValueError(f"{y_name} must have {len(x)} entries like {x_name}, got {len(y)}")
