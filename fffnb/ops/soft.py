"""Soft training of the tree: every sample visits all nodes, each to the extent that it leads there.

Source: the soft paths, the hardening loss and the region leak of Belcak and Wattenhofer, "Fast
Feedforward Networks" (arXiv:2308.14711), for the tree whose nodes have output vectors; the smooth
step of Hazimeh et al., "The Tree Ensemble Layer" (ICML 2020).
"""

from __future__ import annotations

import math
from typing import Literal, overload

import numpy as np

from .. import buffers, cpu
from ..activations import ACTIVATIONS
from ..nodes import refuse_beyond_memory
from . import soft_cuda
from .arrays import (
    Array,
    as_batch,
    check_native,
    check_node_bias,
    check_nodes,
    check_rows,
    check_shape,
    output_width,
    unlocked,
)
from .device import kind_of
from .paths import check_leak, check_temperature, draw_leaks, gate_code
from .soft_trace import SoftTrace, check_states
from .trace import Gradients, activation_code, check_origin


@overload
def fff_forward_soft(
    x: Array,
    nodes: Array,
    *,
    temperature: float = ...,
    gate: str = ...,
    leak: float = ...,
    rng: int | np.random.Generator | None = ...,
    bias: Array | None = ...,
    activation: str = ...,
    n_out: int | None = ...,
    return_trace: Literal[False] = ...,
) -> Array: ...


@overload
def fff_forward_soft(
    x: Array,
    nodes: Array,
    *,
    temperature: float = ...,
    gate: str = ...,
    leak: float = ...,
    rng: int | np.random.Generator | None = ...,
    bias: Array | None = ...,
    activation: str = ...,
    n_out: int | None = ...,
    return_trace: Literal[True],
) -> tuple[Array, SoftTrace]: ...


def fff_forward_soft(
    x: Array,
    nodes: Array,
    *,
    temperature: float = 1.0,
    gate: str = "sigmoid",
    leak: float = 0.0,
    rng: int | np.random.Generator | None = None,
    bias: Array | None = None,
    activation: str = "identity",
    n_out: int | None = None,
    return_trace: bool = False,
) -> Array | tuple[Array, SoftTrace]:
    """Send samples down all paths at once and sum what all nodes say, each by its weight.

    At a node the score is λ = dot(x, node.x) + bias, and the share c of what arrives there goes
    right, 1 - c left. The weight of a node is the product of the shares on the path to it, so that
    those of a level sum to one. The output is the sum of weight · act(λ) · node.y over all nodes
    and trees. At a low temperature it is that of `fff_forward`, which takes one path.

    Parameters
    ----------
    x : ndarray, float32 or float64, shape (..., n_in)
        Samples, as those of `fff_forward`.
    nodes : ndarray, dtype of x, shape (n_trees, 2**depth - 1, n_in + n_out)
        The forest, as that of `fff_forward`.
    temperature : float, default 1
        The scale of λ on which decisions are soft, above 0.
    gate : {"sigmoid", "smooth_step"}
        c as a function of z = λ / temperature: 1 / (1 + exp(-z)), or 1/2 + 3/2 z - 2 z³, which is
        exactly 0 below z = -1/2 and 1 above z = 1/2.
    leak : float, default 0
        Probability, 0 to 0.5, with which a node swaps its children for a sample: some of every
        region's samples then train its neighbours.
    rng : int, numpy.random.Generator or None, default None
        Seed or generator of the leaks; None draws fresh entropy.
    bias : ndarray, dtype of x, shape (n_trees, 2**depth - 1), optional
        Added to the scores.
    activation : {"identity", "relu", "gelu", "relu2", "silu", "tanh"}
        act, as that of `fff_forward`.
    n_out : int, optional
        Width of the output, checked against the nodes.
    return_trace : bool, default False
        Return also what `fff_backward_soft` and `hardening_loss` need.

    Returns
    -------
    y : ndarray, dtype of x, shape (..., n_out)
        The output.
    trace : SoftTrace
        Only with ``return_trace=True``.

    Raises
    ------
    TypeError, ValueError
        If an argument is of a wrong kind, dtype, shape or layout; nothing has been computed then.
    MemoryError
        If scores and weights of all nodes would not fit in the memory of this machine, or of the
        GPU; says how many bytes they take.

    Notes
    -----
    Every node is evaluated: the time grows with 2**depth, as that of a dense layer of as many
    neurons. So does the memory: the trace holds two arrays (batch, n_trees, n_nodes), the scores
    and the weights, and one of bool with a leak; the forward pass needs one more such array, the
    backward pass three.

    The dense products are those of NumPy, whose library decides on their last bits; all else is the
    same bits on any number of threads. A score that is NaN makes the output of its sample NaN, and
    of no other.

    If `nodes` is an array on a GPU, float32 or float64, so must the others be, as for
    `fff_forward`; the leaks of a seed are others there.

    Examples
    --------
    >>> import numpy as np
    >>> import fffnb
    >>> x, nodes = np.ones((5, 3), np.float32), fffnb.init_nodes(3, 2, depth=4)
    >>> y, trace = fffnb.fff_forward_soft(x, nodes, temperature=0.5, return_trace=True)
    >>> y.shape, trace.weights.shape
    ((5, 2), (5, 1, 15))
    >>> bool(np.allclose(fffnb.fff_forward_soft(x, nodes, temperature=1e-6),
    ...                  fffnb.fff_forward(x, nodes)))
    True
    """
    kind = kind_of(nodes)
    if kind is not None:
        options = temperature, gate, leak, rng, bias, activation, n_out, return_trace
        return soft_cuda.forward(kind, x, nodes, *options)  # type: ignore[no-any-return]
    nodes, _ = check_nodes(nodes)
    x = check_rows("x", x, nodes.dtype)
    lead, n_in = x.shape[:-1], x.shape[-1]
    width = output_width(n_in, nodes.shape, n_out)
    temperature, leak = check_temperature(temperature), check_leak(leak)
    codes = activation_code(activation), gate_code(gate)
    if bias is not None:
        bias = check_node_bias(bias, nodes)
    shape = (math.prod(lead), *nodes.shape[:2])
    refuse_beyond_memory("scores and weights", (2, *shape), nodes.dtype)
    leaks = draw_leaks(leak, rng, shape)
    y = buffers.empty((shape[0], width), nodes.dtype)
    scores, weights = (buffers.empty(shape, nodes.dtype) for _ in range(2))
    gating = _leaks(leaks), codes[1], temperature
    cpu.soft.forward(as_batch(x), unlocked(nodes), bias, codes[0], gating, scores, weights, y)
    y = y.reshape(*lead, width)
    if not return_trace:
        return y
    whole = (*lead, *shape[1:])
    scores, weights = scores.reshape(whole), weights.reshape(whole)
    leaks = leaks if leaks is None else leaks.reshape(whole)
    made_by = activation, gate, temperature, bias is not None
    return y, SoftTrace(scores, weights, leaks, *made_by, nodes.shape, n_in)


def fff_backward_soft(
    grad_y: Array,
    x: Array,
    nodes: Array,
    trace: SoftTrace,
    *,
    grad_scores: Array | None = None,
) -> Gradients:
    """Return the gradients of `fff_forward_soft`, those of the decisions included.

    Parameters
    ----------
    grad_y : ndarray, dtype of x, shape (..., n_out)
        Gradient of the loss with respect to the output.
    x, nodes : ndarray
        The arguments of the forward pass.
    trace : SoftTrace
        What the forward pass returned; it knows gate, temperature, leaks, activation and whether
        there was a bias.
    grad_scores : ndarray, dtype of x, shape (..., n_trees, n_nodes), optional
        Gradient with respect to the scores of what else there is in the loss, such as that of
        `hardening_loss` times its weight.

    Returns
    -------
    Gradients
        The named tuple (x, nodes, bias); all dense, as all nodes were visited.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit the forward pass; nothing has been computed then.

    Examples
    --------
    >>> import numpy as np
    >>> import fffnb
    >>> x, nodes = np.ones((5, 3), np.float32), fffnb.init_nodes(3, 2, depth=4)
    >>> y, trace = fffnb.fff_forward_soft(x, nodes, return_trace=True)
    >>> loss, grad_scores = fffnb.hardening_loss(trace)
    >>> grads = fffnb.fff_backward_soft(y, x, nodes, trace, grad_scores=0.1 * grad_scores)
    >>> grads.x.shape, grads.nodes.shape, grads.bias
    ((5, 3), (1, 15, 5), None)
    """
    kind = kind_of(nodes)
    if kind is not None:
        return soft_cuda.backward(kind, grad_y, x, nodes, trace, grad_scores)
    nodes, _ = check_nodes(nodes)
    x = check_rows("x", x, nodes.dtype)
    lead, n_in = x.shape[:-1], x.shape[-1]
    width = output_width(n_in, nodes.shape, None)
    grad_y = check_rows("grad_y", grad_y, nodes.dtype)
    check_shape("grad_y", grad_y, (*lead, width), "that of the output of x and nodes")
    check_origin(trace, nodes.shape, n_in, SoftTrace, "fff_forward_soft")
    check_states(trace, lead, nodes.dtype)
    whole, shape = (*lead, *nodes.shape[:2]), (math.prod(lead), *nodes.shape[:2])
    if grad_scores is not None:
        grad_scores = check_native("grad_scores", grad_scores, nodes.dtype)
        grad_scores = check_shape("grad_scores", grad_scores, whole, "that of trace.scores")
        grad_scores = grad_scores.reshape(shape)
    leaks = trace.leaks if trace.leaks is None else unlocked(trace.leaks).reshape(shape)
    grad_x, grad_nodes = (buffers.empty(each.shape, nodes.dtype) for each in (x, nodes))
    slopes = cpu.soft.backward(
        as_batch(grad_y),
        as_batch(x),
        unlocked(nodes),
        ACTIVATIONS.index(trace.activation),
        (_leaks(leaks), gate_code(trace.gate), trace.temperature),
        unlocked(trace.scores).reshape(shape),
        unlocked(trace.weights).reshape(shape),
        grad_scores,
        grad_x.reshape(shape[0], n_in),
        grad_nodes,
    )
    return Gradients(grad_x, grad_nodes, slopes.sum(axis=0) if trace.has_bias else None)


def _leaks(leaks: Array | None) -> Array:
    """Return leaks as kernels take them: empty if there are none."""
    return np.empty((0, 0, 0), np.bool_) if leaks is None else leaks
