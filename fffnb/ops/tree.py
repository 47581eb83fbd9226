"""The FFF layer: every sample visits one root-to-leaf path of each tree of a forest.

Source: Belcak and Wattenhofer, "Exponentially Faster Language Modelling" (arXiv:2311.10770), and
the node-only form of the original FFF project.
"""

from __future__ import annotations

import math
from typing import Literal, overload

import numpy as np

from .. import buffers, cpu
from ..activations import ACTIVATIONS
from . import tree_cuda
from .arrays import (
    Array,
    as_batch,
    check_node_bias,
    check_nodes,
    check_out,
    check_rows,
    check_shape,
    check_writeable,
    hand_over,
    output_for,
    output_width,
    unlocked,
)
from .device import kind_of
from .rules import RowGradient, UpdateRule
from .trace import (
    Gradients,
    Trace,
    activation_code,
    added_scores,
    as_paths,
    check_trace,
    new_paths,
    with_lead,
)
from .update import check_bias_rule, kernel_rule


@overload
def fff_forward(
    x: Array,
    nodes: Array,
    *,
    bias: Array | None = ...,
    activation: str = ...,
    n_out: int | None = ...,
    out: Array | None = ...,
    return_trace: Literal[False] = ...,
) -> Array: ...


@overload
def fff_forward(
    x: Array,
    nodes: Array,
    *,
    bias: Array | None = ...,
    activation: str = ...,
    n_out: int | None = ...,
    out: Array | None = ...,
    return_trace: Literal[True],
) -> tuple[Array, Trace]: ...


def fff_forward(
    x: Array,
    nodes: Array,
    *,
    bias: Array | None = None,
    activation: str = "identity",
    n_out: int | None = None,
    out: Array | None = None,
    return_trace: bool = False,
) -> Array | tuple[Array, Trace]:
    """Send samples down the trees and sum what the nodes on their paths say.

    At a node the score is λ = dot(x, node.x) + bias; the sample goes right when λ > 0, else left.
    The output is the sum of act(λ) · node.y over the path and over the trees.

    Parameters
    ----------
    x : ndarray, float32 or float64, shape (..., n_in)
        Samples, any number of leading axes, also none; strided, read-only and byte-swapped arrays
        are copied when they must be.
    nodes : ndarray, dtype of x, shape (n_trees, 2**depth - 1, n_in + n_out)
        The forest, C-contiguous: see `init_nodes` and `pack_nodes`.
    bias : ndarray, dtype of x, shape (n_trees, 2**depth - 1), optional
        Added to the scores.
    activation : {"identity", "relu", "gelu", "relu2", "silu", "tanh"}
        act; gelu is the exact one, with erf; relu2 is the square of relu.
    n_out : int, optional
        Width of the output, checked against the nodes: otherwise a wrong width of x would only
        change the width of the output.
    out : ndarray, shape (..., n_out), optional
        Where to write the result; it must not overlap the other arrays.
    return_trace : bool, default False
        Return also what `fff_backward` needs.

    Returns
    -------
    y : ndarray, dtype of x, shape (..., n_out)
        The output, `out` if it was given.
    trace : Trace
        Only with ``return_trace=True``.

    Raises
    ------
    TypeError, ValueError
        If an argument is of a wrong kind, dtype, shape or layout; no kernel has run then.

    Notes
    -----
    A score that is NaN goes left. NaN and infinity in a sample reach the output of that sample by
    the usual rules of arithmetic, and of no other sample.

    The result is the same bits on any number of threads.

    If `nodes` is a CuPy array, a CUDA tensor of PyTorch or a Numba device array, all arrays must be
    of that kind, on one device and C-contiguous. The call runs on the current stream and returns
    the same kind; also float16 and bfloat16 are taken there, with scores and a bias of float32.

    Examples
    --------
    >>> import numpy as np
    >>> import fffnb
    >>> x, nodes = np.ones((5, 3), np.float32), fffnb.init_nodes(3, 2, depth=4)
    >>> fffnb.fff_forward(x, nodes).shape
    (5, 2)
    """
    kind = kind_of(nodes)
    if kind is not None:
        return tree_cuda.forward(  # type: ignore[no-any-return]
            kind, x, nodes, bias, activation, n_out, out, return_trace
        )
    nodes, depth = check_nodes(nodes)
    x = check_rows("x", x, nodes.dtype)
    lead, n_in = x.shape[:-1], x.shape[-1]
    width = output_width(n_in, nodes.shape, n_out)
    code = activation_code(activation)
    if bias is not None:
        bias = unlocked(check_node_bias(bias, nodes))
    batch = math.prod(lead)
    if out is not None:
        check_out(out, (*lead, width), "nodes", nodes, {"x": x, "bias": bias})
    y = output_for(out, batch, width, nodes.dtype)
    scores, leaves = new_paths(batch, len(nodes), depth, nodes.dtype)
    cpu.tree.forward(as_batch(x), unlocked(nodes), bias, code, scores, leaves, y)
    result = hand_over(y, out, lead)
    if not return_trace:
        return result
    paths = with_lead(scores, leaves, lead)
    return result, Trace(*paths, activation, bias is not None, nodes.shape, n_in)


def fff_backward(
    grad_y: Array,
    x: Array,
    nodes: Array,
    trace: Trace,
    *,
    grad_scores: Array | None = None,
    sparse: bool = False,
) -> Gradients:
    """Return the gradients of `fff_forward`; the choice of the path has none.

    Parameters
    ----------
    grad_y : ndarray, dtype of x, shape (..., n_out)
        Gradient of the loss with respect to the output.
    x, nodes : ndarray
        The arguments of the forward pass.
    trace : Trace
        What the forward pass returned; it knows the activation and whether there was a bias.
    grad_scores : ndarray, dtype of x, shape of trace.scores, optional
        Gradient of what the loss holds of the scores themselves, as `balance_loss` gives it; added
        to that through the output.
    sparse : bool, default False
        Return the gradients of nodes and bias as `RowGradient`, which holds the visited rows
        alone: at most batch · depth · n_trees, however many nodes there are.

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

    Device arrays are taken as by `fff_forward`. The leaves of a trace are not checked there, which
    would wait for the device; what is no leaf is taken for one.

    Examples
    --------
    >>> import numpy as np
    >>> import fffnb
    >>> x, nodes = np.ones((5, 3), np.float32), fffnb.init_nodes(3, 2, depth=4)
    >>> y, trace = fffnb.fff_forward(x, nodes, return_trace=True)
    >>> grads = fffnb.fff_backward(np.ones_like(y), x, nodes, trace)
    >>> grads.x.shape, grads.nodes.shape, grads.bias
    ((5, 3), (1, 15, 5), None)
    >>> grads = fffnb.fff_backward(np.ones_like(y), x, nodes, trace, sparse=True)
    >>> grads.nodes.rows, grads.nodes.values.shape
    (array([0, 1, 3, 8]), (4, 5))
    """
    kind = kind_of(nodes)
    if kind is not None:
        return tree_cuda.backward(kind, grad_y, x, nodes, trace, grad_scores, sparse)
    grad_x, samples, grad_samples, visits = _backward(grad_y, x, nodes, trace, grad_scores)
    rows, grad_bias = visits.rows, visits.bias_gradient if trace.has_bias else None
    values = cpu.tree.gather(samples, grad_samples, visits, nodes.shape, sparse=sparse)
    if sparse:
        row_bias = None if grad_bias is None else RowGradient(rows, grad_bias, None, len(rows))
        return Gradients(grad_x, RowGradient(rows, values, grad_bias, len(rows)), row_bias)
    if grad_bias is not None:
        whole = np.zeros(nodes.shape[:2], nodes.dtype)
        whole.reshape(-1)[rows] = grad_bias
        grad_bias = whole
    return Gradients(grad_x, values, grad_bias)


def fff_backward_update(
    grad_y: Array,
    x: Array,
    nodes: Array,
    trace: Trace,
    rule: UpdateRule,
    *,
    bias: Array | None = None,
    bias_rule: UpdateRule | None = None,
    grad_scores: Array | None = None,
) -> Array:
    """Take an optimiser step on the visited nodes, in place, and return the gradient of x.

    The same as `fff_backward` with ``sparse=True`` followed by `update_rows`, without storing the
    gradient of the nodes.

    Parameters
    ----------
    grad_y : ndarray, dtype of x, shape (..., n_out)
        Gradient of the loss with respect to the output.
    x, nodes : ndarray
        The arguments of the forward pass; `nodes` is updated in place.
    trace : Trace
        What the forward pass returned.
    rule : UpdateRule
        The step for the nodes, as ``optimizer.rule(name)`` gives it; its state is updated in place.
    bias : ndarray, shape (n_trees, 2**depth - 1), optional
        The bias of the forward pass, updated in place by `bias_rule`; without it the bias stays.
    bias_rule : UpdateRule, optional
        The step for the bias; given with `bias` or not at all.
    grad_scores : ndarray, dtype of x, shape of trace.scores, optional
        As that of `fff_backward`.

    Returns
    -------
    ndarray, dtype of x, shape (..., n_in)
        Gradient with respect to x, from the nodes as they were.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit the forward pass; nothing has been updated then.

    Examples
    --------
    >>> import numpy as np
    >>> import fffnb
    >>> x, nodes = np.ones((5, 3), np.float32), fffnb.init_nodes(3, 2, depth=4)
    >>> y, trace = fffnb.fff_forward(x, nodes, return_trace=True)
    >>> numbers = {"lr": 0.1, "momentum": 0.0, "weight_decay": 0.0, "nesterov": 0.0}
    >>> rule = fffnb.UpdateRule("sgd", numbers, {})
    >>> fffnb.fff_backward_update(y, x, nodes, trace, rule).shape
    (5, 3)
    """
    check_bias_rule(bias, bias_rule)
    kind = kind_of(nodes)
    if kind is not None:
        return tree_cuda.backward_update(  # type: ignore[no-any-return]
            kind, grad_y, x, nodes, trace, rule, bias, bias_rule, grad_scores
        )
    nodes, _ = check_nodes(nodes)
    check_writeable("nodes", nodes)
    nodes_rule = kernel_rule(rule, nodes, nodes.shape[2], "rule")
    if bias is not None and bias_rule is not None:
        if not isinstance(trace, Trace) or not trace.has_bias:
            raise ValueError("bias must be None, as the forward pass of this trace had no bias")
        check_writeable("bias", check_node_bias(bias, nodes))
        step = kernel_rule(bias_rule, bias, 1, "bias_rule")
    grad_x, samples, grad_samples, visits = _backward(grad_y, x, nodes, trace, grad_scores)
    cpu.tree.update(samples, grad_samples, visits, nodes, nodes_rule)
    if bias is not None and len(visits.rows) > 0:
        row_bias = visits.bias_gradient[:, None]
        cpu.tree.update_rows(bias.reshape(-1, 1), visits.rows, row_bias, step)
    return grad_x


def _backward(
    grad_y: Array, x: Array, nodes: Array, trace: Trace, grad_scores: Array | None
) -> tuple[Array, Array, Array, cpu.tree.Visits]:
    """Check the arguments of a backward pass; return grad_x, x and grad_y as batches, visits."""
    nodes, depth = check_nodes(nodes)
    x = check_rows("x", x, nodes.dtype)
    lead, n_in = x.shape[:-1], x.shape[-1]
    width = output_width(n_in, nodes.shape, None)
    grad_y = check_rows("grad_y", grad_y, nodes.dtype)
    check_shape("grad_y", grad_y, (*lead, width), "that of the output of x and nodes")
    check_trace(trace, lead, n_in, nodes, depth)
    samples, grad_samples = as_batch(x), as_batch(grad_y)
    grad_x = buffers.empty((len(samples), n_in), nodes.dtype)
    visits = cpu.tree.backward(
        grad_samples,
        unlocked(nodes),
        ACTIVATIONS.index(trace.activation),
        *as_paths(trace.scores, trace.leaves, len(samples)),
        grad_x,
        grad_scores=added_scores(grad_scores, trace.scores, len(samples), "nodes"),
    )
    return grad_x.reshape(x.shape), samples, grad_samples, visits
