"""Arrays of Dask: the layer and the predictions of models, lazy and chunk by chunk.

A chunk is computed when Dask asks for it, in any of its schedulers; one chunk and its result must
fit in memory, the array need not. `sum_gradients` is what data-parallel training needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import nn
from ..ops import tree
from ..ops.rules import RowGradient
from . import missing

try:
    import dask.array
except ModuleNotFoundError as error:
    raise missing("dask", "dask") from error

Array = NDArray[Any]
Gradient = Array | RowGradient


def fff_forward(
    x: Any,
    nodes: Array,
    *,
    bias: Array | None = None,
    activation: str = "identity",
    n_out: int | None = None,
) -> Any:
    """Return the output of the layer for a dask array, to be computed chunk by chunk.

    Parameters
    ----------
    x : dask.array.Array, float32 or float64, shape (..., n_in)
        Samples. Chunks along the last axis are joined; those along the others stay.
    nodes, bias, activation, n_out
        See `fffnb.fff_forward`; `nodes` and `bias` are NumPy arrays.

    Returns
    -------
    dask.array.Array, dtype of x, shape (..., n_out)
        The output, not computed.

    Raises
    ------
    TypeError, ValueError
        If `x` is no dask array, or as `fffnb.fff_forward`; at once, not when it is computed.

    Examples
    --------
    >>> import dask.array as da
    >>> import fffnb
    >>> from fffnb.bridges import dask
    >>> x = da.ones((10, 3), chunks=(4, 2), dtype="float32")
    >>> y = dask.fff_forward(x, fffnb.init_nodes(3, 2, depth=4))
    >>> y.shape, y.chunks
    ((10, 2), ((4, 4, 2), (2,)))
    """
    options = {"activation": activation, "n_out": n_out}
    return _over_chunks(_forward, x, nodes, bias, **options)


def predict(model: Any, x: Any) -> Any:
    """Return the output of a model for a dask array of samples, to be computed chunk by chunk.

    Parameters
    ----------
    model : fffnb.nn.Layer or estimator
        A layer, whose output is returned, or any fitted estimator with a method ``predict``, such
        as `fffnb.bridges.sklearn.FFFClassifier`.
    x : dask.array.Array, shape (n, n_in)
        Samples. Chunks along the last axis are joined.

    Returns
    -------
    dask.array.Array, shape (n, n_out) or (n,)
        The predictions, not computed.

    Raises
    ------
    TypeError, ValueError
        If `x` is no dask array, or what the model raises for such samples; at once.

    Notes
    -----
    The model is tried on one sample of zeros, to learn dtype and shape.

    Examples
    --------
    >>> import dask.array as da
    >>> from fffnb import nn
    >>> from fffnb.bridges import dask
    >>> x = da.ones((10, 3), chunks=4, dtype="float32")
    >>> dask.predict(nn.FFF(3, 2, depth=4), x).compute().shape
    (10, 2)
    """
    return _over_chunks(_predict, x, model)


def sum_gradients(parts: Iterable[Mapping[str, Gradient]]) -> dict[str, Gradient]:
    """Return the sum of the gradients that several workers computed from their samples.

    Parameters
    ----------
    parts : iterable of mapping of str to ndarray or RowGradient
        What `fffnb.nn.Layer.backward` returned for each, all with ``sparse=True`` or all without.

    Returns
    -------
    dict of str to ndarray or RowGradient
        The sums by name; those of row gradients hold the rows that any worker visited.

    Raises
    ------
    ValueError
        If there are no parts, or they do not hold the same gradients.

    Examples
    --------
    >>> import numpy as np
    >>> from fffnb import RowGradient
    >>> from fffnb.bridges.dask import sum_gradients
    >>> one = {"nodes": RowGradient(np.array([0, 1]), np.ones((2, 3)), None, 2)}
    >>> two = {"nodes": RowGradient(np.array([0, 2]), np.ones((2, 3)), None, 2)}
    >>> total = sum_gradients([one, two])["nodes"]
    >>> total.rows, total.values[:, 0]
    (array([0, 1, 2]), array([2., 1., 1.]))
    """
    parts = list(parts)
    kinds = [{name: type(gradient) for name, gradient in part.items()} for part in parts]
    if not parts or any(kind != kinds[0] for kind in kinds):
        raise ValueError(
            "parts must be gradients of the same names, all sparse or all dense, "
            f"got {[list(part) for part in parts]}"
        )
    return {name: _sum([part[name] for part in parts]) for name in parts[0]}


def _over_chunks(function: Callable[..., Array], x: Any, *arrays: Any, **options: Any) -> Any:
    """Return ``function(chunk, *arrays, **options)`` over all chunks of samples, not computed."""
    if not isinstance(x, dask.array.Array):
        raise TypeError(f"x must be a dask.array.Array, got {type(x).__name__}")
    if x.ndim < 2:
        raise ValueError(f"x must be (..., n_in) with leading axes, got shape {x.shape}")
    one = function(np.zeros((1,) * (x.ndim - 1) + x.shape[-1:], x.dtype), *arrays, **options)
    # Each array is one task of the graph, and goes to a worker once.
    tasks = [dask.delayed(array, pure=True, traverse=False) for array in arrays]
    last = x.ndim - 1
    return x.rechunk({last: -1}).map_blocks(
        function,
        *tasks,
        **options,
        chunks=(*x.chunks[:-1], *((width,) for width in one.shape[last:])),
        drop_axis=[] if one.ndim == x.ndim else [last],
        meta=one[(slice(0),) * one.ndim],
    )


def _forward(x: Array, nodes: Array, bias: Array | None, **options: Any) -> Array:
    """Return the output of the layer for a chunk."""
    y: Array = tree.fff_forward(x, nodes, bias=bias, **options)
    return y


def _predict(x: Array, model: Any) -> Array:
    """Return the predictions of a model for a chunk."""
    if isinstance(model, nn.Layer):
        return nn.predict(model, x)
    predictions: Array = model.predict(x)
    return predictions


def _sum(gradients: list[Any]) -> Gradient:
    """Return the sum of the gradients of one parameter."""
    if not isinstance(gradients[0], RowGradient):
        dense: Array = np.sum(gradients, axis=0)
        return dense
    visited = np.concatenate([each.rows for each in gradients])
    rows, places = np.unique(visited, return_inverse=True)
    values = np.zeros((len(rows), *gradients[0].values.shape[1:]), gradients[0].values.dtype)
    np.add.at(values, places, np.concatenate([each.values for each in gradients]))
    return RowGradient(rows, values, None, len(rows))
