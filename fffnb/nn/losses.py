"""Losses: each returns the mean over the batch and its gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
    picked = np.arange(len(labels)), labels
    shifted = logits - logits.max(axis=1, keepdims=True)
    exponentials = np.exp(shifted)
    sums = exponentials.sum(axis=1, keepdims=True)
    loss = float(np.mean(np.log(sums[:, 0]) - shifted[picked], dtype=np.float64))
    gradient = exponentials / sums
    gradient[picked] -= 1
    gradient /= len(labels)
    return loss, gradient


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
    if not isinstance(target, np.ndarray):
        raise TypeError(f"target must be a numpy.ndarray, got {type(target).__name__}")
    if target.shape != prediction.shape:
        raise ValueError(f"target must have shape {prediction.shape}, got {target.shape}")
    if target.dtype != prediction.dtype:
        raise TypeError(f"target must have dtype {prediction.dtype}, got {target.dtype}")
    difference = prediction - target
    loss = float(np.mean(np.square(difference), dtype=np.float64))
    return loss, difference * prediction.dtype.type(2 / difference.size)


def check_labels(name: str, labels: Array, shape: tuple[int, ...]) -> None:
    """Refuse labels that are not one class per row of logits of a shape."""
    if not isinstance(labels, np.ndarray) or labels.dtype.kind not in "iu":
        came = labels.dtype if isinstance(labels, np.ndarray) else type(labels).__name__
        raise TypeError(f"{name} must be an array of integers, got {came}")
    if len(shape) != 2 or labels.shape != shape[:1]:
        raise ValueError(
            f"{name} must be one label per row of logits of shape {shape}, got {labels.shape}"
        )
    if labels.size and not 0 <= labels.min() <= labels.max() < shape[1]:
        raise ValueError(
            f"{name} must lie from 0 to {shape[1] - 1}, got {labels.min()} to {labels.max()}"
        )


def _check_floats(name: str, array: Array) -> None:
    """Refuse what is no array of floats with a mean."""
    if not isinstance(array, np.ndarray) or array.dtype not in (np.float32, np.float64):
        came = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        raise TypeError(f"{name} must be a float32 or float64 array, got {came}")
    if array.size == 0:
        raise ValueError(f"{name} must hold at least one sample, got shape {array.shape}")
