"""The flat form: one hyperplane for each level of a tree chooses the path of every sample.

Source: the form FFF_v2 of the original FFF project.
"""

from __future__ import annotations

import math
from typing import Literal, overload

from .. import buffers, cpu
from ..activations import ACTIVATIONS
from . import flat_cuda
from .arrays import (
    Array,
    as_batch,
    check_array,
    check_bias,
    check_native,
    check_out,
    check_rows,
    check_shape,
    check_writeable,
    hand_over,
    output_for,
    unlocked,
)
from .device import kind_of
from .flat_trace import (
    FlatGradients,
    FlatTrace,
    check_flat_origin,
    check_flat_shapes,
    check_flat_trace,
    check_flat_width,
)
from .rules import RowGradient, UpdateRule
from .trace import activation_code, added_scores, as_paths, check_paths, new_paths, with_lead
from .update import check_bias_rule, kernel_rule


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
    right when λ > 0, else left. The output is the sum of act(λ) · y over the levels and the trees,
    where y is the y vector of the node on the path, or that of the level for the leaf reached: the
    shape of `y_vectors` tells which.

    Parameters
    ----------
    x : ndarray, float32 or float64, shape (..., n_in)
        Samples, any number of leading axes, also none; strided, read-only and byte-swapped arrays
        are copied when they must be.
    planes : ndarray, dtype of x, shape (n_trees, depth, n_in)
        One vector for each level of each tree, C-contiguous.
    y_vectors : ndarray, dtype of x, shape (n_trees, n_rows, n_out)
        The output vectors, C-contiguous: ``2**depth - 1`` of nodes, or ``2**depth * depth`` of all
        patterns of signs, row ``leaf * depth + level``: see `init_flat`.
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
    A score that is NaN goes left. The result is the same bits on any number of threads; with y
    vectors of nodes they are those of `fff_forward` with nodes whose x vectors are the planes of
    their levels.

    If `planes` is an array on a GPU, so must the others be, as for `fff_forward`; there the bits
    are not those of `fff_forward`.

    Examples
    --------
    >>> import numpy as np
    >>> import fffnb
    >>> planes, y_vectors = fffnb.init_flat(3, 2, depth=4)
    >>> fffnb.flat_forward(np.ones((5, 3), np.float32), planes, y_vectors).shape
    (5, 2)
    """
    kind = kind_of(planes)
    if kind is not None:
        return flat_cuda.forward(  # type: ignore[no-any-return]
            kind, x, planes, y_vectors, bias, activation, out, return_trace
        )
    planes, y_vectors = _check_parameters(planes, y_vectors)
    x = _check_samples(x, planes)
    code = activation_code(activation)
    (n_trees, depth, _), width, lead = planes.shape, y_vectors.shape[2], x.shape[:-1]
    if bias is not None:
        bias = unlocked(_check_bias(bias, planes))
    if out is not None:
        inputs = {"x": x, "y_vectors": y_vectors, "bias": bias}
        check_out(out, (*lead, width), "planes", planes, inputs)
    batch = math.prod(lead)
    y = output_for(out, batch, width, planes.dtype)
    scores, leaves = new_paths(batch, n_trees, depth, planes.dtype)
    tables = unlocked(planes), unlocked(y_vectors)
    cpu.flat.forward(as_batch(x), *tables, bias, code, scores, leaves, y)
    result = hand_over(y, out, lead)
    if not return_trace:
        return result
    paths, shapes = with_lead(scores, leaves, lead), (planes.shape, y_vectors.shape)
    return result, FlatTrace(*paths, activation, bias is not None, *shapes)


def flat_backward(
    grad_y: Array,
    x: Array,
    planes: Array,
    y_vectors: Array,
    trace: FlatTrace,
    *,
    grad_scores: Array | None = None,
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
    grad_scores : ndarray, dtype of x, shape of trace.scores, optional
        As that of `fff_backward`.
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

    Arrays on a GPU are taken as by `flat_forward`, leaves of a trace as by `fff_backward`.

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
    kind = kind_of(planes)
    if kind is not None:
        return flat_cuda.backward(kind, grad_y, x, planes, y_vectors, trace, grad_scores, sparse)
    given = grad_y, x, planes, y_vectors, trace, grad_scores
    grad_x, samples, grad_samples, visits = _backward(*given)
    grad_planes, grad_bias = cpu.flat.gather_planes(
        samples, visits, planes.shape, has_bias=trace.has_bias
    )
    values = cpu.flat.gather_y_vectors(grad_samples, visits, y_vectors.shape, sparse=sparse)
    grad_vectors = RowGradient(visits.rows, values, None, len(values)) if sparse else values
    return FlatGradients(grad_x, grad_planes, grad_vectors, grad_bias)


def flat_backward_update(
    grad_y: Array,
    x: Array,
    planes: Array,
    y_vectors: Array,
    trace: FlatTrace,
    planes_rule: UpdateRule,
    y_vectors_rule: UpdateRule,
    *,
    bias: Array | None = None,
    bias_rule: UpdateRule | None = None,
    grad_scores: Array | None = None,
) -> Array:
    """Take an optimiser step on planes and visited y vectors, in place; return the gradient of x.

    The same as `flat_backward` with ``sparse=True`` followed by the steps, without storing the
    gradient of the y vectors. All planes and biases are stepped, as all samples meet them; an empty
    batch meets none.

    Parameters
    ----------
    grad_y : ndarray, dtype of x, shape (..., n_out)
        Gradient of the loss with respect to the output.
    x, planes, y_vectors : ndarray
        The arguments of the forward pass; `planes` and `y_vectors` are updated in place.
    trace : FlatTrace
        What the forward pass returned.
    planes_rule, y_vectors_rule : UpdateRule
        The steps, as ``optimizer.rule(name)`` gives them; their states are updated in place.
    bias : ndarray, shape (n_trees, depth), optional
        The bias of the forward pass, updated in place by `bias_rule`; without it the bias stays.
    bias_rule : UpdateRule, optional
        The step for the bias; given with `bias` or not at all.
    grad_scores : ndarray, dtype of x, shape of trace.scores, optional
        As that of `fff_backward`.

    Returns
    -------
    ndarray, dtype of x, shape (..., n_in)
        Gradient with respect to x, from the parameters as they were.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit the forward pass; nothing has been updated then.

    Examples
    --------
    >>> import numpy as np
    >>> import fffnb
    >>> x, (planes, y_vectors) = np.ones((5, 3), np.float32), fffnb.init_flat(3, 2, depth=4)
    >>> y, trace = fffnb.flat_forward(x, planes, y_vectors, return_trace=True)
    >>> numbers = {"lr": 0.1, "momentum": 0.0, "weight_decay": 0.0, "nesterov": 0.0}
    >>> rule = fffnb.UpdateRule("sgd", numbers, {})
    >>> fffnb.flat_backward_update(y, x, planes, y_vectors, trace, rule, rule).shape
    (5, 3)
    """
    check_bias_rule(bias, bias_rule)
    kind = kind_of(planes)
    if kind is not None:
        rules = planes_rule, y_vectors_rule, bias, bias_rule
        return flat_cuda.backward_update(  # type: ignore[no-any-return]
            kind, grad_y, x, planes, y_vectors, trace, *rules, grad_scores
        )
    planes, y_vectors = _check_parameters(planes, y_vectors)
    check_writeable("planes", planes)
    check_writeable("y_vectors", y_vectors)
    planes_step = kernel_rule(planes_rule, planes, planes.shape[2], "planes_rule")
    y_vectors_step = kernel_rule(y_vectors_rule, y_vectors, y_vectors.shape[2], "y_vectors_rule")
    if bias is not None and bias_rule is not None:
        if not isinstance(trace, FlatTrace) or not trace.has_bias:
            raise ValueError("bias must be None, as the forward pass of this trace had no bias")
        check_writeable("bias", _check_bias(bias, planes))
        bias_step = kernel_rule(bias_rule, bias, 1, "bias_rule")
    given = grad_y, x, planes, y_vectors, trace, grad_scores
    grad_x, samples, grad_samples, visits = _backward(*given)
    if len(samples) == 0:
        return grad_x
    grad_planes, grad_bias = cpu.flat.gather_planes(
        samples, visits, planes.shape, has_bias=bias is not None
    )
    cpu.flat.update(grad_samples, visits, y_vectors, y_vectors_step)
    cpu.flat.update_shared(planes, grad_planes, planes_step)
    if bias is not None and grad_bias is not None:
        cpu.flat.update_shared(bias, grad_bias, bias_step)
    return grad_x


def _backward(
    grad_y: Array,
    x: Array,
    planes: Array,
    y_vectors: Array,
    trace: FlatTrace,
    grad_scores: Array | None,
) -> tuple[Array, Array, Array, cpu.tree.Visits]:
    """Check the arguments of a backward pass; return grad_x, x and grad_y as batches, visits."""
    planes, y_vectors = _check_parameters(planes, y_vectors)
    x = _check_samples(x, planes)
    lead, width = x.shape[:-1], y_vectors.shape[2]
    grad_y = check_rows("grad_y", grad_y, planes.dtype, "planes")
    check_shape("grad_y", grad_y, (*lead, width), "that of the output of x and y_vectors")
    check_flat_trace(trace)
    check_flat_origin(trace, planes.shape, y_vectors.shape)
    check_paths(trace.scores, trace.leaves, (*lead, len(planes)), planes.shape[1], planes.dtype)
    samples, grad_samples = as_batch(x), as_batch(grad_y)
    grad_x = buffers.empty(samples.shape, planes.dtype)
    visits = cpu.flat.backward(
        grad_samples,
        unlocked(planes),
        unlocked(y_vectors),
        ACTIVATIONS.index(trace.activation),
        *as_paths(trace.scores, trace.leaves, len(samples)),
        grad_x,
        grad_scores=added_scores(grad_scores, trace.scores, len(samples), "planes"),
    )
    return grad_x.reshape(x.shape), samples, grad_samples, visits


def _check_bias(bias: Array, planes: Array) -> Array:
    """Return a bias that fits planes."""
    return check_bias(bias, planes.shape[:2], planes, "n_trees and depth of planes")


def _check_parameters(planes: object, y_vectors: object) -> tuple[Array, Array]:
    """Return planes and y vectors that make a forest."""
    planes, y_vectors = check_array("planes", planes), check_array("y_vectors", y_vectors)
    check_flat_shapes(planes.shape, y_vectors.shape)
    planes = check_native("planes", planes)
    return planes, check_native("y_vectors", y_vectors, planes.dtype)


def _check_samples(x: object, planes: Array) -> Array:
    """Return samples that fit planes."""
    x = check_rows("x", x, planes.dtype, "planes")
    check_flat_width(x.shape, planes.shape[2])
    return x
