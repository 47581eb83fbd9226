"""Training: batches, validation, history, and runs that can be stopped and continued."""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .checkpoint import load_checkpoint, save_checkpoint
from .layers import Layer
from .losses import Loss, check_labels, softmax_cross_entropy
from .optim import AdamW, Optimizer
from .schedules import Schedule, constant

Array = NDArray[Any]

#: Samples in a batch of an evaluation.
EVALUATION_BATCH = 1024


@dataclass
class History:
    """What a run of `fit` saw after each epoch.

    Attributes
    ----------
    loss : list of float
        Mean training loss over the epoch's batches.
    val_loss : list of float
        Loss on the validation samples; empty without validation.
    accuracy : list of float
        Share of validation samples classified rightly, 0 to 1; empty without labels.
    lr : list of float
        Learning rate of the epoch's last step.
    seconds : list of float
        Wall time of the epoch, validation included.
    interrupted : bool
        Whether Ctrl-C ended the run before its last epoch.
    """

    loss: list[float] = field(default_factory=list)
    val_loss: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    lr: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    interrupted: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return the history as a JSON object."""
        return asdict(self)


def predict(model: Layer, x: Array) -> Array:
    """Return the output of a model for many samples, batch by batch.

    Parameters
    ----------
    model : Layer
        The model.
    x : ndarray, shape (n, n_in)
        Samples.

    Returns
    -------
    ndarray, shape (n, n_out)
        The outputs.

    Examples
    --------
    >>> import numpy as np
    >>> from fffnb import nn
    >>> nn.predict(nn.Linear(3, 2), np.ones((5, 3), np.float32)).shape
    (5, 2)
    """
    starts = range(0, max(1, len(x)), EVALUATION_BATCH)
    return np.concatenate([model(x[start : start + EVALUATION_BATCH]) for start in starts])


def accuracy(model: Layer, x: Array, labels: Array) -> float:
    """Return the share of samples whose largest output is that of their label.

    Parameters
    ----------
    model : Layer
        The model.
    x : ndarray, shape (n, n_in)
        Samples, at least one.
    labels : ndarray of integers, shape (n,)
        Their classes.

    Returns
    -------
    float
        0 to 1.

    Examples
    --------
    >>> import numpy as np
    >>> from fffnb import nn
    >>> nn.accuracy(nn.ReLU(), np.eye(2), np.array([0, 1]))
    1.0
    """
    return float(np.mean(predict(model, x).argmax(axis=1) == labels))


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
        File to which the state of the run is written after each epoch and on Ctrl-C.
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
    _check_numbers(epochs, batch_size, seed)
    if resume and checkpoint is None:
        raise ValueError("checkpoint must name the file to resume from, got None")
    x, y, held = _split(x, y, validation, seed)
    run = Run(
        model=model,
        x=x,
        y=y,
        loss=loss,
        optimizer=AdamW(model.parameters) if optimizer is None else optimizer,
        batch_size=batch_size,
        schedule=constant() if schedule is None else schedule,
        held=held,
        seed=seed,
    )
    run.check_fits()
    if resume and checkpoint is not None:
        load_checkpoint(checkpoint, run, epochs)
    with _bar(progress, epochs * run.n_batches, run.done) as bar, _stop_on_interrupt() as stopped:
        run.train(epochs, bar, stopped, callback, checkpoint)
    return run.history


@dataclass
class Run:
    """A run of `fit`: what it works on, and how far it is."""

    model: Layer
    x: Array
    y: Array
    loss: Loss
    optimizer: Optimizer
    batch_size: int
    schedule: Schedule
    held: tuple[Array, Array] | None
    seed: int
    epoch: int = 0  # finished epochs
    batch: int = 0  # finished batches of the next one
    loss_sum: float = 0.0  # over the samples of those batches
    history: History = field(default_factory=History)

    @property
    def n_batches(self) -> int:
        """Return the number of batches in an epoch."""
        return math.ceil(len(self.x) / self.batch_size)

    @property
    def done(self) -> int:
        """Return the number of finished steps."""
        return self.epoch * self.n_batches + self.batch

    def check_fits(self) -> None:
        """Refuse samples and targets that the model and the loss cannot take."""
        output = self.model(self.x[:1])
        pairs = [("y", self.x, self.y)]
        if self.held is not None:
            pairs.append(("the y of validation", *self.held))
        for name, x, y in pairs:
            if len(x) != len(y):
                raise ValueError(f"{name} must have {len(x)} entries like its x, got {len(y)}")
            if self.loss is softmax_cross_entropy:
                check_labels(name, y, (len(x), *output.shape[1:]))

    def train(
        self,
        epochs: int,
        bar: Any,
        stopped: Callable[[], bool],
        callback: Callable[[int, History], bool | None] | None,
        checkpoint: str | os.PathLike[str] | None,
    ) -> None:
        """Go on to the last epoch, or until the run is stopped."""
        self.history.interrupted = False
        base = self.optimizer.lr
        try:
            while self.epoch < epochs:
                begin = time.perf_counter()
                if not self.train_epoch(base, bar, stopped):
                    self.history.interrupted = True
                    break
                self.end_epoch(begin)
                if checkpoint is not None:
                    save_checkpoint(checkpoint, self)
                if callback is not None and callback(self.epoch, self.history):
                    return
        finally:
            self.optimizer.lr = base
        if self.history.interrupted and checkpoint is not None:
            save_checkpoint(checkpoint, self)

    def train_epoch(self, base: float, bar: Any, stopped: Callable[[], bool]) -> bool:
        """Take the steps that are left of this epoch; return False if stopped between two."""
        order = np.random.default_rng((self.seed, self.epoch)).permutation(len(self.x))
        while self.batch < self.n_batches:
            if stopped():
                return False
            picked = order[self.batch * self.batch_size : (self.batch + 1) * self.batch_size]
            output, trace = self.model.forward(self.x[picked])
            value, gradient = self.loss(output, self.y[picked])
            if not math.isfinite(value):
                raise ValueError(
                    f"the loss must stay finite, got {value} in epoch {self.epoch + 1}, step "
                    f"{self.batch + 1}; a smaller learning rate may help"
                )
            self.optimizer.lr = base * self.schedule(self.done)
            self.model.backward_update(gradient, trace, self.optimizer)
            self.loss_sum += value * len(picked)
            self.batch += 1
            bar.update()
            if self.batch % 16 == 0:
                bar.set_postfix(epoch=self.epoch + 1, loss=f"{value:.3g}", refresh=False)
        return True

    def end_epoch(self, begin: float) -> None:
        """Evaluate and note what the epoch gave."""
        history = self.history
        history.loss.append(self.loss_sum / len(self.x))
        history.lr.append(self.optimizer.lr)
        if self.held is not None:
            x, y = self.held
            output = predict(self.model, x)
            history.val_loss.append(self.loss(output, y)[0])
            if y.dtype.kind in "iu":
                history.accuracy.append(float(np.mean(output.argmax(axis=1) == y)))
        history.seconds.append(time.perf_counter() - begin)
        self.epoch, self.batch, self.loss_sum = self.epoch + 1, 0, 0.0


def _check_numbers(epochs: int, batch_size: int, seed: int) -> None:
    """Refuse counts that are none."""
    for name, value, least in (
        ("epochs", epochs, 1),
        ("batch_size", batch_size, 1),
        ("seed", seed, 0),
    ):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
            raise TypeError(f"{name} must be an int, got {type(value).__name__}")
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")


def _split(
    x: Array, y: Array, validation: tuple[Array, Array] | float | None, seed: int
) -> tuple[Array, Array, tuple[Array, Array] | None]:
    """Return training samples and the samples held out from them, or given, for validation."""
    for name, array in (("x", x), ("y", y)):
        if not isinstance(array, np.ndarray) or array.ndim < 1 or len(array) == 0:
            came = array.shape if isinstance(array, np.ndarray) else type(array).__name__
            raise ValueError(f"{name} must be an array of at least one sample, got {came}")
    if len(x) != len(y):
        raise ValueError(f"y must have {len(x)} entries like x, got {len(y)}")
    if validation is None or isinstance(validation, tuple):
        return x, y, validation
    n_held = round(len(x) * validation) if 0 < validation < 1 else 0
    if not 0 < n_held < len(x):
        raise ValueError(
            f"validation must set aside some of {len(x)} samples and leave some, got {validation}"
        )
    order = np.random.default_rng((seed, 0, 0)).permutation(len(x))
    held, kept = np.sort(order[:n_held]), np.sort(order[n_held:])
    return x[kept], y[kept], (x[held], y[held])


class _NoBar:
    """A bar that shows nothing."""

    def update(self) -> None:
        """Count a step."""

    def set_postfix(self, **words: Any) -> None:
        """Show words."""


@contextmanager
def _bar(progress: bool | None, total: int, done: int) -> Iterator[Any]:
    """Show a tqdm bar, if one is wanted."""
    if not (sys.stderr.isatty() if progress is None else progress):
        yield _NoBar()
        return
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise ImportError(
            "the progress bar needs tqdm: python -m pip install 'fffnb[train]'"
        ) from error
    with tqdm(total=total, initial=done, unit="step") as bar:
        yield bar


@contextmanager
def _stop_on_interrupt() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C into a flag, so that no step is cut in half."""
    seen = False

    def note(number: int, frame: Any) -> None:
        nonlocal seen
        if seen:
            raise KeyboardInterrupt
        seen = True

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: seen
    finally:
        signal.signal(signal.SIGINT, before)
