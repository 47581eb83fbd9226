"""The bag: no tree, every sample chooses the nodes of the highest scores.

Source: experiment pi_slice of the original FFF project; with all positive scores and the identity
it is the dense layer with ReLU.
"""

from __future__ import annotations

import math
from typing import Literal, overload

import numpy as np

from .. import buffers, cpu
from ..activations import ACTIVATIONS
from . import bag_cuda
from .arrays import (
    Array,
    as_batch,
    check_array,
    check_axes,
    check_native,
    check_node_bias,
    check_out,
    check_rows,
    check_shape,
    hand_over,
    output_for,
    output_width,
    unlocked,
)
from .bag_trace import BagTrace, check_choice, check_chosen, last_axis
from .device import kind_of
from .rules import RowGradient
from .trace import Gradients, activation_code, check_origin


@overload
def bag_forward(
    x: Array,
    nodes: Array,
    *,
    k: int | None,
    bias: Array | None = ...,
    activation: str = ...,
    n_out: int | None = ...,
    out: Array | None = ...,
    return_trace: Literal[False] = ...,
) -> Array: ...


@overload
def bag_forward(
    x: Array,
    nodes: Array,
    *,
    k: int | None,
    bias: Array | None = ...,
    activation: str = ...,
    n_out: int | None = ...,
    out: Array | None = ...,
    return_trace: Literal[True],
) -> tuple[Array, BagTrace]: ...


def bag_forward(
    x: Array,
    nodes: Array,
    *,
    k: int | None,
    bias: Array | None = None,
    activation: str = "identity",
    n_out: int | None = None,
    out: Array | None = None,
    return_trace: bool = False,
) -> Array | tuple[Array, BagTrace]:
    """Score all nodes of each bag and sum what the best of them say.

    The score of a node is λ = dot(x, node.x) + bias. The output is the sum of act(λ) · node.y over
    the chosen nodes and over the bags.

    Parameters
    ----------
    x : ndarray, float32 or float64, shape (..., n_in)
        Samples, any number of leading axes, also none; strided, read-only and byte-swapped arrays
        are copied when they must be.
    nodes : ndarray, dtype of x, shape (n_trees, n_nodes, n_in + n_out)
        The bags, any number of nodes in each, C-contiguous: see `init_bag`.
    k : int or None
        Choose in each bag the k nodes of the highest scores, or all nodes of a positive score.
    bias : ndarray, dtype of x, shape (n_trees, n_nodes), optional
        Added to the scores.
    activation : {"identity", "relu", "gelu", "relu2", "silu", "tanh"}
        act, as that of `fff_forward`.
    n_out : int, optional
        Width of the output, checked against the nodes.
    out : ndarray, shape (..., n_out), optional
        Where to write the result; it must not overlap the other arrays.
    return_trace : bool, default False
        Return also what `bag_backward` needs.

    Returns
    -------
    y : ndarray, dtype of x, shape (..., n_out)
        The output, `out` if it was given.
    trace : BagTrace
        Only with ``return_trace=True``.

    Raises
    ------
    TypeError, ValueError
        If an argument is of a wrong kind, dtype, shape or layout, or a bag has fewer than k nodes;
        no kernel has run then.
    MemoryError
        With ``k=None`` on a GPU, if two arrays of the scores of all nodes would not fit in its
        memory; says how many bytes they take.

    Notes
    -----
    Of equal scores that of the lower node is the higher, and a NaN score is the lowest. With
    ``k=None`` a NaN score counts as positive, so that it reaches the output.

    The result is the same bits on any number of threads.

    If `nodes` is an array on a GPU, so must the others be, as for `fff_forward`. There k is at most
    1024. With ``k=None`` all nodes count there, those that are not chosen by zero: vectors that are
    not finite reach samples that have not chosen their node. The trace holds the scores of all
    nodes, (..., n_trees, n_nodes); the forward pass needs as much again for it, the backward pass
    twice as much.

    Examples
    --------
    >>> import numpy as np
    >>> import fffnb
    >>> x, nodes = np.ones((5, 3), np.float32), fffnb.init_bag(3, 2, n_nodes=64)
    >>> fffnb.bag_forward(x, nodes, k=8).shape
    (5, 2)
    """
    kind = kind_of(nodes)
    if kind is not None:
        return bag_cuda.forward(  # type: ignore[no-any-return]
            kind, x, nodes, k, bias, activation, n_out, out, return_trace
        )
    nodes = _check_nodes(nodes)
    k = None if k is None else check_choice(k, nodes.shape[1], "nodes of a bag")
    x = check_rows("x", x, nodes.dtype)
    lead, n_in = x.shape[:-1], x.shape[-1]
    width = output_width(n_in, nodes.shape, n_out)
    code = activation_code(activation)
    if bias is not None:
        bias = unlocked(check_node_bias(bias, nodes))
    if out is not None:
        check_out(out, (*lead, width), "nodes", nodes, {"x": x, "bias": bias})
    y = output_for(out, math.prod(lead), width, nodes.dtype)
    choice = cpu.bag.forward(as_batch(x), unlocked(nodes), bias, k, code, y)
    result = hand_over(y, out, lead)
    if not return_trace:
        return result
    scores, rows, starts = choice.scores, choice.rows, choice.starts
    origin = activation, bias is not None, nodes.shape, n_in
    if k is None:
        return result, BagTrace(scores, rows, starts, *origin)
    shape = (*lead, len(nodes), k)
    return result, BagTrace(scores.reshape(shape), rows.reshape(shape), None, *origin)


def bag_backward(
    grad_y: Array, x: Array, nodes: Array, trace: BagTrace, *, sparse: bool = False
) -> Gradients:
    """Return the gradients of `bag_forward`; the choice of the nodes has none.

    Parameters
    ----------
    grad_y : ndarray, dtype of x, shape (..., n_out)
        Gradient of the loss with respect to the output.
    x, nodes : ndarray
        The arguments of the forward pass.
    trace : BagTrace
        What the forward pass returned; it knows the choice, the activation and whether there was a
        bias.
    sparse : bool, default False
        Return the gradients of nodes and bias as `RowGradient`, which holds the nodes that some
        sample chose, and no others.

    Returns
    -------
    Gradients
        The named tuple (x, nodes, bias).

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit the forward pass; no kernel has run then.

    Notes
    -----
    Every node's gradient is summed by one owner, in the order of the samples: the result is the
    same bits on any number of threads.

    Arrays on a GPU are taken as by `bag_forward`, with a trace that was made there. Rows of a trace
    that are none of the nodes are not looked for there: what such a trace gives means nothing.

    Examples
    --------
    >>> import numpy as np
    >>> import fffnb
    >>> x, nodes = np.ones((5, 3), np.float32), fffnb.init_bag(3, 2, n_nodes=64)
    >>> y, trace = fffnb.bag_forward(x, nodes, k=8, return_trace=True)
    >>> grads = fffnb.bag_backward(np.ones_like(y), x, nodes, trace)
    >>> grads.x.shape, grads.nodes.shape, grads.bias
    ((5, 3), (1, 64, 5), None)
    >>> grads = fffnb.bag_backward(np.ones_like(y), x, nodes, trace, sparse=True)
    >>> grads.nodes.values.shape
    (8, 5)
    """
    kind = kind_of(nodes)
    if kind is not None:
        return bag_cuda.backward(kind, grad_y, x, nodes, trace, sparse)
    nodes = _check_nodes(nodes)
    x = check_rows("x", x, nodes.dtype)
    lead, n_in = x.shape[:-1], x.shape[-1]
    width = output_width(n_in, nodes.shape, None)
    grad_y = check_rows("grad_y", grad_y, nodes.dtype)
    check_shape("grad_y", grad_y, (*lead, width), "that of the output of x and nodes")
    samples, grad_samples = as_batch(x), as_batch(grad_y)
    choice = _choice_of(trace, lead, n_in, nodes)
    code = ACTIVATIONS.index(trace.activation)
    grad_x = buffers.empty(samples.shape, nodes.dtype)
    weights = cpu.bag.backward(grad_samples, unlocked(nodes), code, choice, grad_x)
    visits = cpu.bag.visit(choice, nodes.shape[0] * nodes.shape[1])
    rows, n_rows = visits.rows, len(visits.rows)
    row_bias = cpu.bag.sum_slopes(visits, weights[0]) if trace.has_bias else None
    grad_x = grad_x.reshape(x.shape)
    if sparse:
        values = buffers.empty((n_rows, nodes.shape[2]), nodes.dtype)
        cpu.bag.gather(samples, grad_samples, visits, *weights, values, sparse=True)
        bias = None if row_bias is None else RowGradient(rows, row_bias, None, n_rows)
        return Gradients(grad_x, RowGradient(rows, values, row_bias, n_rows), bias)
    grad_nodes = np.zeros(nodes.shape, nodes.dtype)
    table = grad_nodes.reshape(-1, nodes.shape[2])
    cpu.bag.gather(samples, grad_samples, visits, *weights, table, sparse=False)
    grad_bias = None
    if row_bias is not None:
        grad_bias = np.zeros(nodes.shape[:2], nodes.dtype)
        grad_bias.reshape(-1)[rows] = row_bias
    return Gradients(grad_x, grad_nodes, grad_bias)


def _check_nodes(nodes: object) -> Array:
    """Return nodes that make bags."""
    check_axes(check_array("nodes", nodes).shape)
    return check_native("nodes", nodes)


def _choice_of(trace: BagTrace, lead: tuple[int, ...], n_in: int, nodes: Array) -> cpu.bag.Choice:
    """Return what a trace says that samples chose, unless another forward pass made it."""
    check_origin(trace, nodes.shape, n_in, BagTrace, "bag_forward")
    n_trees, n_nodes, _ = nodes.shape
    if trace.rows is None:
        raise ValueError("trace must come from arrays on the CPU, got one without rows, of a GPU")
    rows, batch = check_array("trace.rows", trace.rows), math.prod(lead)
    if trace.starts is None:
        k = check_choice(last_axis(rows.shape), n_nodes, "nodes of a bag")
        shape, starts = (*lead, n_trees, k), np.arange(batch + 1) * (n_trees * k)
    else:
        starts = check_native("trace.starts", trace.starts, np.dtype(np.int64))
        check_shape("trace.starts", starts, (batch + 1,), "one more than samples")
        shape = (int(starts[-1]),)
        if starts[0] != 0 or (np.diff(starts) < 0).any():
            raise ValueError("trace.starts must rise from 0, got other numbers")
    check_chosen(trace.scores, rows, shape, n_trees * n_nodes, nodes.dtype)
    flat = unlocked(rows).reshape(-1), unlocked(trace.scores).reshape(-1)
    return cpu.bag.Choice(unlocked(starts), *flat)
