"""Training: `fit` checks its arguments, then works through a `Run`."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np

from .checkpoint import load_checkpoint, save_checkpoint
from .layer import Array, Layer
from .losses import Loss, softmax_cross_entropy
from .optim import AdamW
from .optimizer import Optimizer
from .place import Gpu, Place, check_device
from .run import History, Run, progress_bar, stop_on_interrupt
from .schedules import Schedule, constant


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
    device: str | None = None,
) -> History:
    """Train a model in place, on the CPU or on a GPU.

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
        File to which the state of the run is written at the start, after each epoch and its
        callback, and on Ctrl-C; of soft layers also temperature and leaks.
    resume : bool, default False
        Go on from `checkpoint`. A run that was stopped anywhere and resumed on the same device
        ends with the same bits as one that was not stopped.
    device : {"cpu", "cuda"}, optional
        Where to take the steps, by default on the CPU. All arguments are NumPy arrays either way:
        see the notes.

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
    RuntimeError
        If `device` is "cuda" and this machine has no usable GPU; says what is missing.
    ImportError
        If a bar, a checkpoint or a GPU is asked for and tqdm, safetensors, CuPy or
        array-api-compat is not installed.

    Notes
    -----
    With ``device="cuda"`` the parameters and the state of the optimiser are copied to the current
    GPU, and back into the arrays of `model` before each callback and checkpoint, and at the end,
    however the run ends: between these moments `model` is as it was. The samples stay on the host,
    which gathers each batch in pinned memory and sends it while the GPU works on the one before.

    Layers, `loss` and the optimiser are given CuPy arrays there. A loss should return its mean as
    an array without axes: the losses are looked at every 16 steps, as that waits for the GPU. One
    that stops being finite is found then, and named, but the steps after it were taken.

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
    check_device(device)
    if resume and checkpoint is None:
        raise ValueError("checkpoint must name the file to resume from, got None")
    x, y, held = _split(x, y, validation, seed)
    optimizer = AdamW(model.parameters) if optimizer is None else optimizer
    _check_parameters(model, optimizer)
    run = Run(
        place=(
            Gpu(model, optimizer, x, y, held, batch_size)
            if device == "cuda"
            else Place(model, optimizer, x, y, held)
        ),
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
        run.place.send()

    def save() -> None:
        if checkpoint is not None:
            run.place.bring_back()
            save_checkpoint(checkpoint, run)

    with (
        progress_bar(progress, epochs * run.n_batches, run.done) as bar,
        stop_on_interrupt() as stopped,
    ):
        try:
            run.train(epochs, bar, stopped, callback, save)
        finally:
            run.place.bring_back()
    return run.history


def _whole(name: str, value: int, least: int) -> int:
    """Return a whole number as a plain int, which JSON can hold, or say what is wrong with it."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return int(value)


def _check_parameters(model: Layer, optimizer: Optimizer) -> None:
    """Refuse an optimiser of another model."""
    for name, parameter in model.parameters.items():
        if optimizer.parameters.get(name) is not parameter:
            raise ValueError(
                f"optimizer must hold the parameters of model, got another array for {name!r}"
            )


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
