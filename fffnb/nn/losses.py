"""Losses: each returns the mean over the batch and its gradient.

From arrays of another library than NumPy the mean is an array of it without axes: reading a number
waits for the GPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .namespace import cast, holds_floats, holds_integers, namespace_of, scalar

Array = NDArray[Any]
Loss = Callable[[Array, Array], tuple[float, Array]]


def softmax_cross_entropy(logits: Array, labels: Array) -> tuple[float, Array]:
    """Return the mean cross-entropy of softmax(logits) and its gradient.

    Parameters
    ----------
    logits : ndarray, float32 or float64, shape (batch, n_classes)
        Scores of the classes.
    labels : ndarray of integers, shape (batch,)
        Class of each sample, 0 to n_classes - 1.

    Returns
    -------
    loss : float
        Mean over the batch, in nats.
    grad_logits : ndarray, shape and dtype of logits
        Gradient of `loss`.

    Raises
    ------
    TypeError, ValueError
        If the labels are no integers, out of range, or not one per sample, or the batch is empty:
        it has no mean.

    Notes
    -----
    The range of labels is looked at in NumPy arrays alone: looking would wait for a GPU.

    Examples
    --------
    >>> import numpy as np
    >>> from fffnb.nn import softmax_cross_entropy
    >>> loss, gradient = softmax_cross_entropy(np.zeros((1, 2)), np.array([0]))
    >>> round(loss, 4), gradient
    (0.6931, array([[-0.5,  0.5]]))
    """
    _check_floats("logits", logits)
    check_labels("labels", labels, logits.shape)
    xp, (batch, n_classes) = namespace_of(logits), logits.shape
    picked = xp.arange(batch), labels
    shifted = logits - xp.max(logits, axis=1, keepdims=True)
    exponentials = xp.exp(shifted)
    sums = xp.sum(exponentials, axis=1, keepdims=True)
    loss = xp.sum(xp.log(sums[:, 0]) - shifted[picked], dtype=xp.float64) / batch
    gradient = exponentials / sums
    if xp is np:
        gradient[picked] -= 1
    else:  # the standard has no assignment to single places
        gradient -= cast(labels[:, None] == xp.arange(n_classes), gradient.dtype)
    gradient /= batch
    return scalar(loss), gradient


def mean_squared_error(prediction: Array, target: Array) -> tuple[float, Array]:
    """Return the mean of the squared differences and its gradient.

    Parameters
    ----------
    prediction : ndarray, float32 or float64, any shape
        What the model said.
    target : ndarray, same shape and dtype
        What it should have said.

    Returns
    -------
    loss : float
        Mean over all elements.
    grad_prediction : ndarray, shape and dtype of prediction
        Gradient of `loss`.

    Raises
    ------
    TypeError, ValueError
        If `target` does not have the shape and dtype of `prediction`, or they are empty.

    Examples
    --------
    >>> import numpy as np
    >>> from fffnb.nn import mean_squared_error
    >>> mean_squared_error(np.array([3.0]), np.array([1.0]))
    (4.0, array([4.]))
    """
    _check_floats("prediction", prediction)
    xp = namespace_of(prediction)
    if not hasattr(target, "dtype") or namespace_of(target) is not xp:
        kind, came = type(prediction), type(target).__name__
        raise TypeError(f"target must be a {kind.__module__}.{kind.__qualname__}, got {came}")
    if target.shape != prediction.shape:
        raise ValueError(f"target must have shape {prediction.shape}, got {target.shape}")
    if target.dtype != prediction.dtype:
        raise TypeError(f"target must have dtype {prediction.dtype}, got {target.dtype}")
    difference = prediction - target
    size = math.prod(difference.shape)
    loss = xp.sum(xp.square(difference), dtype=xp.float64) / size
    return scalar(loss), difference * (2 / size)


def check_labels(name: str, labels: Array, shape: tuple[int, ...]) -> None:
    """Refuse labels that are not one class per row of logits of a shape."""
    if not holds_integers(labels):
        came = getattr(labels, "dtype", type(labels).__name__)
        raise TypeError(f"{name} must be an array of integers, got {came}")
    if len(shape) != 2 or labels.shape != shape[:1]:
        raise ValueError(
            f"{name} must be one label per row of logits of shape {shape}, got {labels.shape}"
        )
    known = isinstance(labels, np.ndarray) and labels.size > 0
    if known and not 0 <= labels.min() <= labels.max() < shape[1]:
        raise ValueError(
            f"{name} must lie from 0 to {shape[1] - 1}, got {labels.min()} to {labels.max()}"
        )


def _check_floats(name: str, array: Array) -> None:
    """Refuse what is no array of floats with a mean."""
    if not holds_floats(array):
        came = getattr(array, "dtype", type(array).__name__)
        raise TypeError(f"{name} must be a float32 or float64 array, got {came}")
    if 0 in array.shape:
        raise ValueError(f"{name} must hold at least one sample, got shape {array.shape}")
