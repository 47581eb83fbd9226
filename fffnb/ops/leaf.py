"""The leaf form: routers send every sample to one leaf of a tree, a small network of its own.

Source: Belcak and Wattenhofer, "Fast Feedforward Networks" (arXiv:2308.14711): inference.
"""

from __future__ import annotations

import math
from typing import Literal, overload

import numpy as np

from .. import buffers, cpu
from ..activations import ACTIVATIONS
from ..leaves import LeafBias
from . import leaf_cuda
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
from .leaf_trace import (
    LeafGradients,
    LeafTrace,
    bias_shapes,
    check_leaf_bias,
    check_leaf_shape,
    check_leaf_trace,
    check_leaf_width,
    check_router_shape,
)
from .rules import RowGradient
from .trace import activation_code, as_paths, new_paths, with_lead


@overload
def leaf_forward(
    x: Array,
    routers: Array,
    leaves: Array,
    *,
    bias: LeafBias | None = ...,
    activation: str = ...,
    out: Array | None = ...,
    return_trace: Literal[False] = ...,
) -> Array: ...


@overload
def leaf_forward(
    x: Array,
    routers: Array,
    leaves: Array,
    *,
    bias: LeafBias | None = ...,
    activation: str = ...,
    out: Array | None = ...,
    return_trace: Literal[True],
) -> tuple[Array, LeafTrace]: ...


def leaf_forward(
    x: Array,
    routers: Array,
    leaves: Array,
    *,
    bias: LeafBias | None = None,
    activation: str = "relu",
    out: Array | None = None,
    return_trace: bool = False,
) -> Array | tuple[Array, LeafTrace]:
    """Send samples down trees of routers and sum what the networks at their leaves say.

    At a router the score is dot(x, router) + its bias; the sample goes right when it is ≥ 0, else
    left. At the leaf, a hidden neuron has the score λ = dot(x, neuron.x) + its bias, and the output
    is the sum of act(λ) · neuron.y over the neurons, and the bias of the output.

    Parameters
    ----------
    x : ndarray, float32 or float64, shape (..., n_in)
        Samples, any number of leading axes, also none; strided, read-only and byte-swapped arrays
        are copied when they must be.
    routers : ndarray, dtype of x, shape (n_trees, 2**depth - 1, n_in)
        The vectors that choose the leaf, C-contiguous: see `init_leaf`.
    leaves : ndarray, dtype of x, shape (n_trees, 2**depth, width, n_in + n_out)
        The hidden neurons of the leaves, rows ``[x | y]``, C-contiguous.
    bias : LeafBias, optional
        The biases of routers, hidden neurons and outputs, all three.
    activation : {"identity", "relu", "gelu", "relu2", "silu", "tanh"}
        act, as that of `fff_forward`.
    out : ndarray, shape (..., n_out), optional
        Where to write the result; it must not overlap the other arrays.
    return_trace : bool, default False
        Return also what `leaf_backward` needs.

    Returns
    -------
    y : ndarray, dtype of x, shape (..., n_out)
        The output, `out` if it was given.
    trace : LeafTrace
        Only with ``return_trace=True``.

    Raises
    ------
    TypeError, ValueError
        If an argument is of a wrong kind, dtype, shape or layout; no kernel has run then.

    Notes
    -----
    This is the paper's inference; `leaf_forward_soft` is its training. A score that is NaN goes
    left. The result is the same bits on any number of threads.

    If `routers` is an array on a GPU, float32 or float64, so must the others be, as for
    `fff_forward`.

    Examples
    --------
    >>> import numpy as np
    >>> import fffnb
    >>> routers, leaves, bias = fffnb.init_leaf(3, 2, depth=4, width=8)
    >>> fffnb.leaf_forward(np.ones((5, 3), np.float32), routers, leaves, bias=bias).shape
    (5, 2)
    """
    kind = kind_of(routers)
    if kind is not None:
        options = bias, activation, out, return_trace
        return leaf_cuda.forward(kind, x, routers, leaves, *options)  # type: ignore[no-any-return]
    routers, leaves = check_parameters(routers, leaves)
    x = check_samples(x, routers)
    bias = check_bias(bias, routers, leaves)
    code = activation_code(activation)
    (n_trees, _, width, _), lead = leaves.shape, x.shape[:-1]
    n_out = leaves.shape[3] - x.shape[-1]
    if out is not None:
        inputs = {"x": x, "leaves": leaves, **({} if bias is None else bias._asdict())}
        check_out(out, (*lead, n_out), "routers", routers, inputs)
    batch = math.prod(lead)
    y = output_for(out, batch, n_out, routers.dtype)
    scores, ends = new_paths(batch, n_trees, width, routers.dtype)
    tables = unlocked(routers), unlocked(leaves)
    cpu.leaf.forward(as_batch(x), *tables, bias, code, scores, ends, y)
    result = hand_over(y, out, lead)
    if not return_trace:
        return result
    paths, shapes = with_lead(scores, ends, lead), (routers.shape, leaves.shape)
    return result, LeafTrace(*paths, activation, bias is not None, *shapes)


def leaf_backward(
    grad_y: Array,
    x: Array,
    routers: Array,
    leaves: Array,
    trace: LeafTrace,
    *,
    sparse: bool = False,
) -> LeafGradients:
    """Return the gradients of `leaf_forward`; the choice of the leaf has none.

    Parameters
    ----------
    grad_y : ndarray, dtype of x, shape (..., n_out)
        Gradient of the loss with respect to the output.
    x, routers, leaves : ndarray
        The arguments of the forward pass.
    trace : LeafTrace
        What the forward pass returned; it knows the activation and whether there were biases.
    sparse : bool, default False
        Return the gradients of the leaves and of their biases as `RowGradient`, which holds the
        visited leaves alone: at most batch · n_trees, however many there are. The rows of `leaves`
        are hidden neurons, ``(tree * n_leaves + leaf) * width + neuron``, those of the biases are
        leaves, ``tree * n_leaves + leaf``. On a GPU there are as many as the batch might visit.

    Returns
    -------
    LeafGradients
        The named tuple (x, routers, leaves, bias); routers and their bias are None.

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
    >>> x, (routers, leaves, _) = np.ones((5, 3), np.float32), fffnb.init_leaf(3, 2, 4, width=8)
    >>> y, trace = fffnb.leaf_forward(x, routers, leaves, return_trace=True)
    >>> grads = fffnb.leaf_backward(np.ones_like(y), x, routers, leaves, trace)
    >>> grads.x.shape, grads.routers, grads.leaves.shape, grads.bias
    ((5, 3), None, (1, 16, 8, 5), None)
    >>> grads = fffnb.leaf_backward(np.ones_like(y), x, routers, leaves, trace, sparse=True)
    >>> grads.leaves.values.shape
    (8, 5)
    """
    kind = kind_of(routers)
    if kind is not None:
        return leaf_cuda.backward(kind, grad_y, x, routers, leaves, trace, sparse)
    routers, leaves = check_parameters(routers, leaves)
    x = check_samples(x, routers)
    (n_trees, n_leaves, width, size), lead, n_in = leaves.shape, x.shape[:-1], x.shape[-1]
    grad_y = check_rows("grad_y", grad_y, routers.dtype, "routers")
    check_shape("grad_y", grad_y, (*lead, size - n_in), "that of the output of x and leaves")
    check_leaf_trace(trace, lead, routers, leaves)
    samples, grad_samples = as_batch(x), as_batch(grad_y)
    batch = len(samples)
    grad_x = buffers.empty((batch, n_in), routers.dtype)
    groups = cpu.leaf.backward(
        grad_samples,
        unlocked(leaves),
        ACTIVATIONS.index(trace.activation),
        *as_paths(trace.scores, trace.leaves, batch),
        grad_x,
    )
    forest = (len(groups.leaves),) if sparse else (n_trees, n_leaves)
    shapes = (*forest, width, size), (*forest, width), (*forest, size - n_in)
    make = buffers.empty if sparse else np.zeros
    neurons, hidden, output = (make(shape, routers.dtype) for shape in shapes)
    places = (
        neurons.reshape(-1, width, size),
        hidden.reshape(-1, width),
        output.reshape(-1, size - n_in),
    )
    cpu.leaf.gather(samples, grad_samples, groups, places, sparse=sparse)
    grads: list[Array | RowGradient] = [neurons, hidden, output]
    if sparse:
        rows = (width * groups.leaves[:, None] + np.arange(width)).reshape(-1)
        named = (rows, neurons.reshape(-1, size)), (groups.leaves, hidden), (groups.leaves, output)
        grads = [RowGradient(at, values, None, len(at)) for at, values in named]
    bias = LeafBias(None, *grads[1:]) if trace.has_bias else None
    return LeafGradients(grad_x.reshape(x.shape), None, grads[0], bias)


def check_parameters(routers: object, leaves: object) -> tuple[Array, Array]:
    """Return routers and leaves that make a forest."""
    check_router_shape(check_array("routers", routers).shape)
    routers = check_native("routers", routers)
    check_leaf_shape(check_array("leaves", leaves).shape, routers.shape)
    return routers, check_native("leaves", leaves, routers.dtype)


def check_samples(x: object, routers: Array) -> Array:
    """Return samples that fit routers."""
    x = check_rows("x", x, routers.dtype, "routers")
    check_leaf_width(x.shape, routers.shape)
    return x


def check_bias(bias: object, routers: Array, leaves: Array) -> LeafBias | None:
    """Return biases that fit routers and leaves, as kernels take them."""
    bias = check_leaf_bias(bias)
    if bias is None:
        return None
    shapes, arrays = bias_shapes(routers.shape, leaves.shape), []
    for name, array, shape in zip(bias._fields, bias, shapes, strict=True):
        array = check_native(f"bias.{name}", array, routers.dtype)
        check_shape(f"bias.{name}", array, shape, "that of routers and leaves")
        arrays.append(unlocked(array))
    return LeafBias(*arrays)
