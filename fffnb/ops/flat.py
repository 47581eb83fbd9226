"""The flat form: one hyperplane for each level of a tree chooses the path of every sample.

Source: the form FFF_v2 of the original FFF project.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, overload

import numpy as np

from .. import buffers, cpu
from ..activations import ACTIVATIONS
from ..nodes import MAX_DEPTH
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
from .device import kind_of
from .rules import RowGradient
from .trace import activation_code, check_paths


class FlatTrace(NamedTuple):
    """What a forward pass saw, from which the backward pass follows.

    Attributes
    ----------
    scores : ndarray, shape (..., n_trees, depth)
        The score λ of every plane, before the activation.
    leaves : ndarray of int32, shape (..., n_trees)
        The signs of the scores as a number, that of the first level the highest bit: the leaf that
        the path of each tree ends in.
    activation : str
        Name of the activation.
    has_bias : bool
        Whether the scores hold a bias.
    planes_shape, y_vectors_shape : tuple of int
        Shapes of the parameters.
    """

    scores: Array
    leaves: Array
    activation: str
    has_bias: bool
    planes_shape: tuple[int, ...]
    y_vectors_shape: tuple[int, ...]


class FlatGradients(NamedTuple):
    """Gradients of a loss with respect to the arguments of `flat_forward`.

    Attributes
    ----------
    x : ndarray, shape (..., n_in)
        Of the input.
    planes : ndarray, shape (n_trees, depth, n_in)
        Of the planes.
    y_vectors : ndarray, shape (n_trees, n_nodes, n_out), or RowGradient
        Of the output vectors.
    bias : ndarray, shape (n_trees, depth), or None
        Of the biases; None without bias.
    """

    x: Array
    planes: Array
    y_vectors: Array | RowGradient
    bias: Array | None


@overload
def flat_forward(
    x: Array,
    planes: Array,
    y_vectors: Array,
    *,
    bias: Array | None = ...,
    activation: str = ...,
    out: Array | None = ...,
    return_trace: Literal[False] = ...,
) -> Array: ...


@overload
def flat_forward(
    x: Array,
    planes: Array,
    y_vectors: Array,
    *,
    bias: Array | None = ...,
    activation: str = ...,
    out: Array | None = ...,
    return_trace: Literal[True],
) -> tuple[Array, FlatTrace]: ...


def flat_forward(
    x: Array,
    planes: Array,
    y_vectors: Array,
    *,
    bias: Array | None = None,
    activation: str = "identity",
    out: Array | None = None,
    return_trace: bool = False,
) -> Array | tuple[Array, FlatTrace]:
    """Send samples down trees whose nodes on a level share one plane; sum what the nodes say.

    The score of a sample on level l is λ = dot(x, planes[l]) + bias[l], whatever its path; it goes
    right when λ > 0, else left. The output is the sum of act(λ) · y over the nodes on the path and
    over the trees.

    Parameters
    ----------
    x : ndarray, float32 or float64, shape (..., n_in)
        Samples, any number of leading axes, also none; strided, read-only and byte-swapped arrays
        are copied when they must be.
    planes : ndarray, dtype of x, shape (n_trees, depth, n_in)
        One vector for each level of each tree, C-contiguous.
    y_vectors : ndarray, dtype of x, shape (n_trees, 2**depth - 1, n_out)
        The output vectors of the nodes, C-contiguous: see `init_flat`.
    bias : ndarray, dtype of x, shape (n_trees, depth), optional
        Added to the scores.
    activation : {"identity", "relu", "gelu", "relu2", "silu", "tanh"}
        act, as that of `fff_forward`.
    out : ndarray, shape (..., n_out), optional
        Where to write the result; it must not overlap the other arrays.
    return_trace : bool, default False
        Return also what `flat_backward` needs.

    Returns
    -------
    y : ndarray, dtype of x, shape (..., n_out)
        The output, `out` if it was given.
    trace : FlatTrace
        Only with ``return_trace=True``.

    Raises
    ------
    TypeError, ValueError
        If an argument is of a wrong kind, dtype, shape or layout; no kernel has run then.

    Notes
    -----
    A score that is NaN goes left. The result is the same bits on any number of threads, and those
    of `fff_forward` with nodes whose x vectors are the planes of their levels.

    Examples
    --------
    >>> import numpy as np
    >>> import fffnb
    >>> planes, y_vectors = fffnb.init_flat(3, 2, depth=4)
    >>> fffnb.flat_forward(np.ones((5, 3), np.float32), planes, y_vectors).shape
    (5, 2)
    """
    planes, y_vectors = _check_parameters(planes, y_vectors)
    x = _check_samples(x, planes)
    code = activation_code(activation)
    (n_trees, depth, _), width, lead = planes.shape, y_vectors.shape[2], x.shape[:-1]
    if bias is not None:
        bias = check_native("bias", bias, planes.dtype)
        bias = unlocked(check_shape("bias", bias, (n_trees, depth), "n_trees and depth of planes"))
    if out is not None:
        inputs = {"x": x, "y_vectors": y_vectors, "bias": bias}
        check_out(out, (*lead, width), "planes", planes, inputs)
    batch = math.prod(lead)
    y = output_for(out, batch, width, planes.dtype)
    scores = buffers.empty((batch, n_trees, depth), planes.dtype)
    leaves = buffers.empty((batch, n_trees), np.int32)
    tables = unlocked(planes), unlocked(y_vectors)
    cpu.flat.forward(as_batch(x), *tables, bias, code, scores, leaves, y)
    result = hand_over(y, out, lead)
    if not return_trace:
        return result
    scores, leaves = scores.reshape(*lead, n_trees, depth), leaves.reshape(*lead, n_trees)
    shapes = planes.shape, y_vectors.shape
    return result, FlatTrace(scores, leaves, activation, bias is not None, *shapes)


def flat_backward(
    grad_y: Array,
    x: Array,
    planes: Array,
    y_vectors: Array,
    trace: FlatTrace,
    *,
    sparse: bool = False,
) -> FlatGradients:
    """Return the gradients of `flat_forward`; the choice of the path has none.

    Parameters
    ----------
    grad_y : ndarray, dtype of x, shape (..., n_out)
        Gradient of the loss with respect to the output.
    x, planes, y_vectors : ndarray
        The arguments of the forward pass.
    trace : FlatTrace
        What the forward pass returned; it knows the activation and whether there was a bias.
    sparse : bool, default False
        Return the gradient of the y vectors as `RowGradient`, which holds the visited ones alone:
        at most batch · depth · n_trees, however many there are. Planes and biases are few, and
        every sample meets all of them.

    Returns
    -------
    FlatGradients
        The named tuple (x, planes, y_vectors, bias).

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit the forward pass; no kernel has run then.

    Notes
    -----
    The result is the same bits on any number of threads.

    Examples
    --------
    >>> import numpy as np
    >>> import fffnb
    >>> x, (planes, y_vectors) = np.ones((5, 3), np.float32), fffnb.init_flat(3, 2, depth=4)
    >>> y, trace = fffnb.flat_forward(x, planes, y_vectors, return_trace=True)
    >>> grads = fffnb.flat_backward(np.ones_like(y), x, planes, y_vectors, trace)
    >>> grads.x.shape, grads.planes.shape, grads.y_vectors.shape, grads.bias
    ((5, 3), (1, 4, 3), (1, 15, 2), None)
    >>> grads = fffnb.flat_backward(np.ones_like(y), x, planes, y_vectors, trace, sparse=True)
    >>> grads.y_vectors.values.shape
    (4, 2)
    """
    planes, y_vectors = _check_parameters(planes, y_vectors)
    x = _check_samples(x, planes)
    (n_trees, depth, n_in), width, lead = planes.shape, y_vectors.shape[2], x.shape[:-1]
    grad_y = check_rows("grad_y", grad_y, planes.dtype, "planes")
    check_shape("grad_y", grad_y, (*lead, width), "that of the output of x and y_vectors")
    _check_trace(trace, lead, planes, y_vectors)
    samples, grad_samples = as_batch(x), as_batch(grad_y)
    batch = len(samples)
    grad_x = buffers.empty((batch, n_in), planes.dtype)
    visits = cpu.flat.backward(
        grad_samples,
        unlocked(planes),
        unlocked(y_vectors),
        ACTIVATIONS.index(trace.activation),
        unlocked(trace.scores).reshape(batch, n_trees, depth),
        unlocked(trace.leaves).reshape(batch, n_trees),
        grad_x,
    )
    grad_planes = np.zeros(planes.shape, planes.dtype)
    grad_bias = np.zeros((n_trees, depth), planes.dtype) if trace.has_bias else None
    cpu.flat.gather_planes(samples, visits, grad_planes, grad_bias)
    grad_vectors: Array | RowGradient
    if sparse:
        values = buffers.empty((len(visits.rows), width), planes.dtype)
        cpu.flat.gather_y_vectors(grad_samples, visits, values, sparse=True)
        grad_vectors = RowGradient(visits.rows, values, None, len(values))
    else:
        grad_vectors = np.zeros(y_vectors.shape, planes.dtype)
        table = grad_vectors.reshape(-1, width)
        cpu.flat.gather_y_vectors(grad_samples, visits, table, sparse=False)
    return FlatGradients(grad_x.reshape(x.shape), grad_planes, grad_vectors, grad_bias)


def _check_parameters(planes: object, y_vectors: object) -> tuple[Array, Array]:
    """Return planes and y vectors that make a forest."""
    for name, array in (("planes", planes), ("y_vectors", y_vectors)):
        kind = kind_of(array)
        if kind is not None:
            raise TypeError(
                f"{name} must be a numpy.ndarray, as the flat form runs on the CPU alone, "
                f"got a {kind.name}"
            )
    shape = check_array("planes", planes).shape
    if len(shape) != 3 or 0 in shape or shape[1] > MAX_DEPTH:
        raise ValueError(
            f"planes must be 3-D (n_trees, depth, n_in), not empty, of at most {MAX_DEPTH} levels, "
            f"got {shape}"
        )
    planes = check_native("planes", planes)
    n_trees, n_nodes = shape[0], 2 ** shape[1] - 1
    shape = check_array("y_vectors", y_vectors).shape
    if len(shape) != 3 or shape[:2] != (n_trees, n_nodes) or shape[2] == 0:
        raise ValueError(
            f"y_vectors must have shape ({n_trees}, {n_nodes}, n_out) with n_out >= 1 "
            f"for planes of shape {planes.shape}, got {shape}"
        )
    return planes, check_native("y_vectors", y_vectors, planes.dtype)


def _check_samples(x: object, planes: Array) -> Array:
    """Return samples that fit planes."""
    x = check_rows("x", x, planes.dtype, "planes")
    if x.shape[-1] != planes.shape[2]:
        raise ValueError(f"x must have {planes.shape[2]} columns like planes, got {x.shape[-1]}")
    return x


def _check_trace(trace: FlatTrace, lead: tuple[int, ...], planes: Array, y_vectors: Array) -> None:
    """Refuse a trace that another forward pass made."""
    if not isinstance(trace, FlatTrace):
        raise TypeError(f"trace must be the FlatTrace of flat_forward, got {type(trace).__name__}")
    came, wanted = trace[4:], (planes.shape, y_vectors.shape)
    if came != wanted:
        raise ValueError(
            f"trace must come from planes and y_vectors of shapes {wanted[0]} and {wanted[1]}, "
            f"got one of {came[0]} and {came[1]}"
        )
    activation_code(trace.activation)
    n_trees, depth, _ = planes.shape
    check_paths(trace.scores, trace.leaves, (*lead, n_trees), depth, planes.dtype)
