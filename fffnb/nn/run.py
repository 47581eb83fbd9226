"""A run of `fit`: its steps and epochs, its history, its progress bar, and how Ctrl-C ends it."""

from __future__ import annotations

import importlib.util
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from .evaluate import predict, share_right
from .layer import Array, Layer
from .losses import Loss, check_labels, mean_squared_error, softmax_cross_entropy
from .optimizer import Optimizer
from .place import Place
from .schedules import Schedule


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


@dataclass
class Run:
    """A run of `fit`: what it works on, where, and how far it is."""

    place: Place
    model: Layer
    x: Array
    y: Array
    loss: Loss
    optimizer: Optimizer
    batch_size: int
    schedule: Schedule
    held: tuple[Array, Array] | None
    seed: int
    lr: float  # of the optimiser, before the schedule
    epoch: int = 0  # finished epochs
    batch: int = 0  # finished batches of the next one
    loss_sum: float = 0.0  # over the samples of those batches
    unseen: list[tuple[int, int, Any]] = field(default_factory=list)  # batch, samples, loss
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
        here = self.place
        pairs = [("y", self.y, here.x, here.y)]
        if self.held is not None:
            pairs.append(("the y of validation", self.held[1], *here.held))
        for name, targets, x, y in pairs:
            output = here.model(x[:1])
            if self.loss is softmax_cross_entropy:
                check_labels(name, targets, (len(targets), *output.shape[1:]))
            elif self.loss is mean_squared_error:
                mean_squared_error(output, y[:1])

    def train(
        self,
        epochs: int,
        bar: Any,
        stopped: Callable[[], bool],
        callback: Callable[[int, History], bool | None] | None,
        save: Callable[[], None],
    ) -> None:
        """Go on to the last epoch, or until the run is stopped; save it at each end."""
        self.history.interrupted = False
        save()  # a file that cannot be written is found before the first epoch
        try:
            while self.epoch < epochs:
                begin = time.perf_counter()
                if not self.train_epoch(bar, stopped):
                    self.history.interrupted = True
                    break
                self.end_epoch(begin)
                if self.show(callback, save):
                    return
        finally:
            self.place.optimizer.lr = self.lr
        if self.history.interrupted:
            save()

    def show(
        self, callback: Callable[[int, History], bool | None] | None, save: Callable[[], None]
    ) -> bool | None:
        """Show an epoch to the callback, which may change what is saved then; return its answer."""
        try:
            if callback is None:
                return None
            self.place.bring_back()
            return callback(self.epoch, self.history)
        finally:
            save()

    def train_epoch(self, bar: Any, stopped: Callable[[], bool]) -> bool:
        """Take the steps that are left of this epoch; return False if stopped between two."""
        order = np.random.default_rng((self.seed, self.epoch)).permutation(len(self.x))
        here = self.place
        while self.batch < self.n_batches:
            if stopped():
                self.see_losses()
                return False
            picked = order[self.batch * self.batch_size : (self.batch + 1) * self.batch_size]
            output, trace = here.model.forward(here.x[picked])
            value, gradient = self.loss(output, here.y[picked])
            self.batch += 1
            self.unseen.append((self.batch, len(picked), value))
            if self.batch % here.together == 0 or self.batch == self.n_batches:
                latest = self.see_losses()
            here.optimizer.lr = float(self.lr * self.schedule(self.done - 1))
            here.model.backward_update(gradient, trace, here.optimizer)
            bar.update()
            if self.batch % 16 == 0 or self.batch == self.n_batches:
                words = {"epoch": self.epoch + 1, "loss": f"{latest:.3g}"}
                if self.history.accuracy:
                    words["accuracy"] = f"{self.history.accuracy[-1]:.3f}"
                bar.set_postfix(**words, refresh=False)
        return True

    def see_losses(self) -> float:
        """Add up the losses not seen yet, or refuse one that is not finite; return the last."""
        value = math.nan
        for batch, n_samples, unseen in self.unseen:
            value = float(unseen)
            if not math.isfinite(value):
                raise ValueError(
                    f"the loss must stay finite, got {value} in epoch {self.epoch + 1}, step "
                    f"{batch}; a smaller learning rate may help"
                )
            self.loss_sum += value * n_samples
        self.unseen.clear()
        return value

    def end_epoch(self, begin: float) -> None:
        """Evaluate and note what the epoch gave."""
        history = self.history
        history.loss.append(self.loss_sum / len(self.x))
        history.lr.append(self.place.optimizer.lr)
        if self.held is not None:
            x, y = self.place.held
            output = predict(self.place.model, x)
            history.val_loss.append(float(self.loss(output, y)[0]))
            if y.dtype.kind in "iu":
                history.accuracy.append(share_right(output, y))
        history.seconds.append(time.perf_counter() - begin)
        self.epoch, self.batch, self.loss_sum = self.epoch + 1, 0, 0.0


class _NoBar:
    """A bar that shows nothing."""

    def update(self) -> None:
        """Count a step."""

    def set_postfix(self, **words: Any) -> None:
        """Show words."""


@contextmanager
def progress_bar(progress: bool | None, total: int, done: int) -> Iterator[Any]:
    """Show a tqdm bar, if one is wanted."""
    if progress is None:
        progress = sys.stderr.isatty() and importlib.util.find_spec("tqdm") is not None
    if not progress:
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
def stop_on_interrupt() -> Iterator[Callable[[], bool]]:
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
