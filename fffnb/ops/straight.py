"""The straight-through gradient: hard paths that learn where to go, at the cost of side paths.

Source: Bengio, Léonard and Courville, "Estimating or Propagating Gradients Through Stochastic
Neurons for Conditional Computation" (arXiv:1308.3432), for the decisions of the tree.
"""

from __future__ import annotations

import math

from .. import buffers, cpu
from ..activations import ACTIVATIONS
from . import straight_cuda
from .arrays import (
    Array,
    as_batch,
    check_node_bias,
    check_nodes,
    check_rows,
    check_shape,
    output_width,
    unlocked,
)
from .device import kind_of
from .paths import check_temperature, gate_code
from .trace import Trace, as_paths, check_had_bias, check_trace


def straight_through(
    grad_y: Array,
    x: Array,
    nodes: Array,
    trace: Trace,
    *,
    temperature: float = 1.0,
    gate: str = "sigmoid",
    bias: Array | None = None,
) -> Array:
    """Return the gradient that the scores of hard paths have through their decisions.

    The decision of a node is b = 1 (right) where λ > 0, else 0. It has no gradient; the
    straight-through estimator takes that of the soft share c of `fff_forward_soft` for it. So the
    score of a node on the path has the gradient

        c'(λ) · dot(grad_y, right - left),

    where `right` and `left` are what the output would gain from the hard path that begins at the
    right and at the left child; one of them was taken. Nodes off the path have none.

    Parameters
    ----------
    grad_y : ndarray, dtype of x, shape (..., n_out)
        Gradient of the loss with respect to the output.
    x, nodes : ndarray
        The arguments of the forward pass.
    trace : Trace
        What `fff_forward` returned.
    temperature, gate : float, str
        c, as a function of λ: see `fff_forward_soft`.
    bias : ndarray, dtype of x, shape (n_trees, 2**depth - 1), optional
        The bias of the forward pass: side paths need it.

    Returns
    -------
    ndarray, dtype of x, shape (..., n_trees, depth)
        Gradient with respect to the scores of the trace, to be added to that which they have
        through their coefficients: zero on the last level, where nothing is decided.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit the forward pass; no kernel has run then.

    Notes
    -----
    Every decision is compared with the path not taken, down to the last level: depth · (depth - 1)
    / 2 nodes beside the depth nodes of the path, 66 beside 12, where `fff_forward_soft` evaluates
    4095. The result is the same bits on any number of threads.

    If `nodes` is an array on a GPU, float32 or float64, so must the others be, as for
    `fff_forward`.

    Examples
    --------
    >>> import numpy as np
    >>> import fffnb
    >>> x, nodes = np.ones((5, 3), np.float32), fffnb.init_nodes(3, 2, depth=4)
    >>> y, trace = fffnb.fff_forward(x, nodes, return_trace=True)
    >>> fffnb.straight_through(np.ones_like(y), x, nodes, trace, temperature=0.5).shape
    (5, 1, 4)
    """
    kind = kind_of(nodes)
    if kind is not None:
        options = temperature, gate, bias
        return straight_cuda.straight_through(  # type: ignore[no-any-return]
            kind, grad_y, x, nodes, trace, *options
        )
    nodes, depth = check_nodes(nodes)
    x = check_rows("x", x, nodes.dtype)
    lead, n_in = x.shape[:-1], x.shape[-1]
    width = output_width(n_in, nodes.shape, None)
    grad_y = check_rows("grad_y", grad_y, nodes.dtype)
    check_shape("grad_y", grad_y, (*lead, width), "that of the output of x and nodes")
    check_trace(trace, lead, n_in, nodes, depth)
    check_had_bias(trace, bias)
    if bias is not None:
        bias = unlocked(check_node_bias(bias, nodes))
    temperature, code = check_temperature(temperature), gate_code(gate)
    batch, n_trees = math.prod(lead), len(nodes)
    grad_scores = buffers.empty((batch, n_trees, depth), nodes.dtype)
    cpu.straight.through(
        as_batch(grad_y),
        as_batch(x),
        unlocked(nodes),
        bias,
        ACTIVATIONS.index(trace.activation),
        code,
        temperature,
        *as_paths(trace.scores, trace.leaves, batch),
        grad_scores,
    )
    return grad_scores.reshape(*lead, n_trees, depth)
