"""What the scores of each level do while a model learns."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .form_layer import TreeLayer
from .layer import Array, Layer
from .run import History


class LevelScores(NamedTuple):
    """What the scores of a layer are like; all of shape (n_trees, depth), float64.

    Attributes
    ----------
    right : ndarray
        Share of the samples that turn right on each level, 0 to 1.
    size : ndarray
        Mean of |λ| over the samples.
    flipped : ndarray
        Share of the samples that turned the other way the last time, at whatever node they met on
        that level then.
    """

    right: Array
    size: Array
    flipped: Array


class LevelRecord:
    """A callback of `fit` that looks at the scores of some samples after each epoch.

    Parameters
    ----------
    model : Layer
        The model that is trained, with at least one `FFF` or `FlatFFF` layer.
    x : ndarray, shape (n, n_in)
        The samples, at least one; the same each time, all of them in one batch.

    Attributes
    ----------
    layers : dict of str to list of LevelScores
        What was seen of each layer, by its name, such as "0" or "2.1", or "" if the model is the
        layer: first when the record was made, then after each epoch.

    Raises
    ------
    TypeError, ValueError
        If the model has no such layer, or `x` does not fit or is empty.

    Examples
    --------
    >>> import numpy as np
    >>> from fffnb import nn
    >>> x = np.random.default_rng(0).standard_normal((256, 2)).astype(np.float32)
    >>> model = nn.FFF(2, 2, depth=3)
    >>> record = nn.LevelRecord(model, x[:100])
    >>> history = nn.fit(model, x, (x[:, 0] > 0).astype(int), epochs=2, callback=record)
    >>> len(record.layers[""]), record.layers[""][2].flipped.shape
    (3, (1, 3))
    """

    def __init__(self, model: Layer, x: Array) -> None:
        if len(x) == 0:
            raise ValueError("x must hold at least one sample to record its scores, got none")
        self.model, self.x = model, x
        self.layers: dict[str, list[LevelScores]] = {}
        self._turns: dict[str, Array] = {}
        self._look()

    def __call__(self, epoch: int, history: History) -> None:
        """Note the state after an epoch."""
        self._look()

    def _look(self) -> None:
        """Note the state."""
        self.model.observe(self.x, self._see)
        if not self.layers:
            kind = type(self.model).__name__
            raise ValueError(f"model must hold an FFF or FlatFFF layer, got a {kind}")

    def _see(self, name: str, layer: Layer, trace: Any) -> None:
        """Note the scores of a layer."""
        if not isinstance(layer, TreeLayer):
            return
        turns = trace.leaves[..., None] >> np.arange(layer.depth)[::-1] & 1
        flipped = turns != self._turns.get(name, turns)
        size = np.abs(trace.scores).mean(axis=0, dtype=np.float64)
        levels = LevelScores(turns.mean(axis=0), size, flipped.mean(axis=0))
        self.layers.setdefault(name, []).append(levels)
        self._turns[name] = turns
