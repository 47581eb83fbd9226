"""Product keys: two small sets of keys address many nodes, and every sample chooses the best.

Source: Lample et al., "Large Memory Layers with Product Keys" (arXiv:1907.05242), section 3, and
with an activation He, "Mixture of A Million Experts" (arXiv:2407.04153).
"""

from __future__ import annotations

import math
from typing import Literal, overload

import numpy as np

from .. import buffers, cpu
from ..activations import ACTIVATIONS
from . import keys_cuda
from .arrays import (
    Array,
    as_batch,
    check_array,
    check_native,
    check_out,
    check_rows,
    check_shape,
    hand_over,
    output_for,
    unlocked,
)
from .bag_trace import check_choice, check_chosen, last_axis
from .device import kind_of
from .keys_trace import (
    KeysGradients,
    KeysTrace,
    check_keys_origin,
    check_keys_shapes,
    check_keys_width,
)
from .rules import RowGradient
from .trace import activation_code


@overload
def keys_forward(
    x: Array,
    keys: Array,
    y_vectors: Array,
    *,
    k: int,
    activation: str = ...,
    out: Array | None = ...,
    return_trace: Literal[False] = ...,
) -> Array: ...


@overload
def keys_forward(
    x: Array,
    keys: Array,
    y_vectors: Array,
    *,
    k: int,
    activation: str = ...,
    out: Array | None = ...,
    return_trace: Literal[True],
) -> tuple[Array, KeysTrace]: ...


def keys_forward(
    x: Array,
    keys: Array,
    y_vectors: Array,
    *,
    k: int,
    activation: str = "identity",
    out: Array | None = None,
    return_trace: bool = False,
) -> Array | tuple[Array, KeysTrace]:
    """Score pairs of keys and sum what the nodes of the best pairs say.

    Node i · n_keys + j has the score λ = dot(x[:half], keys[0, i]) + dot(x[half:], keys[1, j]),
    where half = n_in / 2: n_keys² nodes are scored by 2 · n_keys products. The output is the sum of
    act(λ) · y over the k nodes of the highest scores and over the trees, each of which has keys of
    its own; all share the y vectors.

    Parameters
    ----------
    x : ndarray, float32 or float64, shape (..., n_in)
        Samples, n_in even, any number of leading axes, also none; strided, read-only and
        byte-swapped arrays are copied when they must be. A query network, where one is wanted, is a
        layer before.
    keys : ndarray, dtype of x, shape (n_trees, 2, n_keys, n_in / 2)
        The keys of the two halves of x, C-contiguous: see `init_keys`. The source says head for a
        tree.
    y_vectors : ndarray, dtype of x, shape (n_keys**2, n_out)
        The output vectors of the nodes, C-contiguous.
    k : int
        How many nodes each tree chooses.
    activation : {"identity", "relu", "gelu", "relu2", "silu", "tanh"}
        act, as that of `fff_forward`.
    out : ndarray, shape (..., n_out), optional
        Where to write the result; it must not overlap the other arrays.
    return_trace : bool, default False
        Return also what `keys_backward` needs.

    Returns
    -------
    y : ndarray, dtype of x, shape (..., n_out)
        The output, `out` if it was given.
    trace : KeysTrace
        Only with ``return_trace=True``.

    Raises
    ------
    TypeError, ValueError
        If an argument is of a wrong kind, dtype, shape or layout, or there are fewer than k nodes;
        no kernel has run then.

    Notes
    -----
    The choice is exact for finite scores. Of equal scores the one with the better first key is the
    higher, then the one with the better second key, where the lower of two equal keys is the
    better; a NaN score is the lowest.

    The result is the same bits on any number of threads.

    If `keys` is an array on a GPU, so must the others be, as for `fff_forward`. There k must be at
    most 1024.

    Examples
    --------
    >>> import numpy as np
    >>> import fffnb
    >>> keys, y_vectors = fffnb.init_keys(4, 2, n_keys=32)
    >>> y_vectors.shape
    (1024, 2)
    >>> fffnb.keys_forward(np.ones((5, 4), np.float32), keys, y_vectors, k=8).shape
    (5, 2)
    """
    kind = kind_of(keys)
    if kind is not None:
        return keys_cuda.forward(  # type: ignore[no-any-return]
            kind, x, keys, y_vectors, k, activation, out, return_trace
        )
    keys, y_vectors = _check_parameters(keys, y_vectors)
    x = _check_samples(x, keys)
    k = check_choice(k, len(y_vectors), "y vectors")
    code, width, lead = activation_code(activation), y_vectors.shape[1], x.shape[:-1]
    if out is not None:
        check_out(out, (*lead, width), "keys", keys, {"x": x, "y_vectors": y_vectors})
    y = output_for(out, math.prod(lead), width, keys.dtype)
    choice = cpu.keys.forward(as_batch(x), unlocked(keys), unlocked(y_vectors), k, code, y)
    result = hand_over(y, out, lead)
    if not return_trace:
        return result
    shape = (*lead, len(keys), k)
    scores, rows = choice.scores.reshape(shape), choice.rows.reshape(shape)
    return result, KeysTrace(scores, rows, activation, keys.shape, y_vectors.shape)


def keys_backward(
    grad_y: Array,
    x: Array,
    keys: Array,
    y_vectors: Array,
    trace: KeysTrace,
    *,
    sparse: bool = False,
) -> KeysGradients:
    """Return the gradients of `keys_forward`; the choice of the nodes has none.

    Parameters
    ----------
    grad_y : ndarray, dtype of x, shape (..., n_out)
        Gradient of the loss with respect to the output.
    x, keys, y_vectors : ndarray
        The arguments of the forward pass.
    trace : KeysTrace
        What the forward pass returned; it knows the choice and the activation.
    sparse : bool, default False
        Return the gradient of the y vectors as `RowGradient`, which holds the chosen ones alone: at
        most batch · k · n_trees, however many there are. The keys are few.

    Returns
    -------
    KeysGradients
        The named tuple (x, keys, y_vectors).

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit the forward pass; no kernel has run then.

    Notes
    -----
    The result is the same bits on any number of threads.

    Arrays on a GPU are taken as by `keys_forward`, rows of a trace as by `bag_backward`.

    Examples
    --------
    >>> import numpy as np
    >>> import fffnb
    >>> x, (keys, y_vectors) = np.ones((5, 4), np.float32), fffnb.init_keys(4, 2, n_keys=32)
    >>> y, trace = fffnb.keys_forward(x, keys, y_vectors, k=8, return_trace=True)
    >>> grads = fffnb.keys_backward(np.ones_like(y), x, keys, y_vectors, trace, sparse=True)
    >>> grads.x.shape, grads.keys.shape, grads.y_vectors.values.shape
    ((5, 4), (1, 2, 32, 2), (8, 2))
    """
    kind = kind_of(keys)
    if kind is not None:
        return keys_cuda.backward(kind, grad_y, x, keys, y_vectors, trace, sparse)
    keys, y_vectors = _check_parameters(keys, y_vectors)
    x = _check_samples(x, keys)
    lead, width = x.shape[:-1], y_vectors.shape[1]
    grad_y = check_rows("grad_y", grad_y, keys.dtype, "keys")
    check_shape("grad_y", grad_y, (*lead, width), "that of the output of x and y_vectors")
    _check_trace(trace, lead, keys, y_vectors)
    samples, grad_samples = as_batch(x), as_batch(grad_y)
    batch, (n_trees, k) = len(samples), trace.rows.shape[-2:]
    rows, scores = unlocked(trace.rows), unlocked(trace.scores)
    choice = cpu.bag.Choice(
        np.arange(batch + 1) * (n_trees * k), rows.reshape(-1), scores.reshape(-1)
    )
    code = ACTIVATIONS.index(trace.activation)
    slopes, coefs = cpu.bag.weigh(grad_samples, unlocked(y_vectors), code, choice)
    grad_x = buffers.empty(samples.shape, keys.dtype)
    pairs = rows.reshape(batch, n_trees, k)
    grad_keys = cpu.keys.backward(samples, unlocked(keys), slopes, pairs, grad_x)
    visits = cpu.bag.visit(choice, len(y_vectors))
    parts = grad_samples[:, :0], grad_samples, visits, slopes, coefs
    grad_vectors: Array | RowGradient
    if sparse:
        values = buffers.empty((len(visits.rows), width), keys.dtype)
        cpu.bag.gather(*parts, values, sparse=True)
        grad_vectors = RowGradient(visits.rows, values, None, len(values))
    else:
        grad_vectors = np.zeros(y_vectors.shape, keys.dtype)
        cpu.bag.gather(*parts, grad_vectors, sparse=False)
    return KeysGradients(grad_x.reshape(x.shape), grad_keys, grad_vectors)


def _check_parameters(keys: object, y_vectors: object) -> tuple[Array, Array]:
    """Return keys and y vectors that fit together."""
    vectors, array = check_array("y_vectors", y_vectors), check_array("keys", keys)
    check_keys_shapes(array.shape, vectors.shape)
    vectors = check_native("y_vectors", vectors)
    return check_native("keys", array, vectors.dtype), vectors


def _check_samples(x: object, keys: Array) -> Array:
    """Return samples that fit keys."""
    x = check_rows("x", x, keys.dtype, "keys")
    check_keys_width(x.shape, keys.shape)
    return x


def _check_trace(trace: KeysTrace, lead: tuple[int, ...], keys: Array, y_vectors: Array) -> None:
    """Refuse a trace that another forward pass made."""
    check_keys_origin(trace, keys.shape, y_vectors.shape)
    rows = check_array("trace.rows", trace.rows)
    k = check_choice(last_axis(rows.shape), len(y_vectors), "y vectors")
    check_chosen(trace.scores, rows, (*lead, len(keys), k), len(y_vectors), keys.dtype)
