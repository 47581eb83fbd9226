"""The output and the accuracy of a model on many samples."""

from __future__ import annotations

import math
from collections.abc import Iterator

from .layer import Array, Layer
from .namespace import concatenate, namespace_of

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
        The outputs, of the kind of `x`.

    Examples
    --------
    >>> import numpy as np
    >>> from fffnb import nn
    >>> nn.predict(nn.Linear(3, 2), np.ones((5, 3), np.float32)).shape
    (5, 2)
    """
    outputs: Array = concatenate([model(batch) for batch in batches(x)])
    return outputs


def batches(x: Array) -> Iterator[Array]:
    """Yield samples in batches of an evaluation; no samples are one empty batch."""
    starts = range(0, max(1, x.shape[0]), EVALUATION_BATCH)
    stops = [*starts[1:], x.shape[0]]
    for start, stop in zip(starts, stops, strict=True):
        yield x[start:stop, ...]


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
    return share_right(predict(model, x), labels)


def share_right(output: Array, labels: Array) -> float:
    """Return the share of outputs whose largest column is that of their label."""
    xp = namespace_of(output)
    right = xp.argmax(output, axis=1) == labels
    size: int = math.prod(right.shape)
    return int(xp.count_nonzero(right)) / size
