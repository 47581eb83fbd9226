"""What a short training run comes to; the same bits on any number of threads."""

from __future__ import annotations

import functools
import importlib.util
from typing import TYPE_CHECKING

from .problems import skipped

if TYPE_CHECKING:
    from fffnb.nn import History


@functools.cache
def train() -> History:
    """Train a small network on the digits of scikit-learn for five epochs."""
    if importlib.util.find_spec("sklearn") is None:
        raise skipped("scikit-learn is not installed")
    from fffnb import data, nn

    digits = data.load("digits")
    model = nn.Sequential(
        nn.FFF(64, 64, depth=5, n_trees=4, activation="gelu"), nn.ReLU(), nn.FFF(64, 10, depth=5)
    )
    return nn.fit(
        model,
        digits.x_train,
        digits.y_train,
        optimizer=nn.AdamW(model.parameters, lr=4e-3),
        validation=(digits.x_test, digits.y_test),
        batch_size=32,
        epochs=5,
        progress=False,
    )


def track_loss() -> float:
    """Return the loss on the test samples."""
    return train().val_loss[-1]


def track_accuracy() -> float:
    """Return the accuracy on the test samples."""
    return train().accuracy[-1]


track_accuracy.unit = "of the samples"  # type: ignore[attr-defined]
