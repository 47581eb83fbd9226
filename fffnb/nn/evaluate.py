"""The output and the accuracy of a model on many samples."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .layers import Layer

Array = NDArray[Any]

#: Samples in a batch of an evaluation.
EVALUATION_BATCH = 1024


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
