"""Soft training of the leaf form: every sample visits all leaves, each as far as it leads there.

Source: Belcak and Wattenhofer, "Fast Feedforward Networks" (arXiv:2308.14711): training, region
leak; the smooth step of Hazimeh et al., "The Tree Ensemble Layer" (ICML 2020).
"""

from __future__ import annotations

import math
from typing import Literal, overload

import numpy as np

from .. import buffers, cpu
from ..activations import ACTIVATIONS
from ..leaves import LeafBias
from ..nodes import refuse_beyond_memory
from . import leaf_soft_cuda
from .arrays import Array, as_batch, check_native, check_rows, check_shape, unlocked
from .device import kind_of
from .leaf import check_bias, check_parameters, check_samples
from .leaf_trace import LeafGradients, LeafSoftTrace, check_leaf_soft_origin, check_leaf_states
from .paths import check_leak, check_temperature, draw_leaks, gate_code
from .trace import activation_code


@overload
def leaf_forward_soft(
    x: Array,
    routers: Array,
    leaves: Array,
    *,
    temperature: float = ...,
    gate: str = ...,
    leak: float = ...,
    rng: int | np.random.Generator | None = ...,
    bias: LeafBias | None = ...,
    activation: str = ...,
    return_trace: Literal[False] = ...,
) -> Array: ...


@overload
def leaf_forward_soft(
    x: Array,
    routers: Array,
    leaves: Array,
    *,
    temperature: float = ...,
    gate: str = ...,
    leak: float = ...,
    rng: int | np.random.Generator | None = ...,
    bias: LeafBias | None = ...,
    activation: str = ...,
    return_trace: Literal[True],
) -> tuple[Array, LeafSoftTrace]: ...


def leaf_forward_soft(
    x: Array,
    routers: Array,
    leaves: Array,
    *,
    temperature: float = 1.0,
    gate: str = "sigmoid",
    leak: float = 0.0,
    rng: int | np.random.Generator | None = None,
    bias: LeafBias | None = None,
    activation: str = "relu",
    return_trace: bool = False,
) -> Array | tuple[Array, LeafSoftTrace]:
    """Send samples to all leaves at once and sum what these say, each by its weight.

    Of what arrives at a router the share c goes right, 1 - c left, where c is the gate of its
    score / temperature. The weight of a leaf is the product of the shares on the path to it, so
    that those of a tree sum to one. At a low temperature the output is that of `leaf_forward`.

    Parameters
    ----------
    x : ndarray, float32 or float64, shape (..., n_in)
        Samples, as those of `leaf_forward`.
    routers, leaves : ndarray
        The forest, as that of `leaf_forward`.
    temperature : float, default 1
        The scale of scores on which routers are soft, above 0.
    gate : {"sigmoid", "smooth_step"}
        c as a function of score / temperature: see `fff_forward_soft`.
    leak : float, default 0
        Probability, 0 to 0.5, with which a router swaps its children for a sample.
    rng : int, numpy.random.Generator or None, default None
        Seed or generator of the leaks; None draws fresh entropy.
    bias : LeafBias, optional
        The biases of routers, hidden neurons and outputs, all three.
    activation : {"identity", "relu", "gelu", "relu2", "silu", "tanh"}
        act, as that of `fff_forward`.
    return_trace : bool, default False
        Return also what `leaf_backward_soft` and `hardening_loss` need.

    Returns
    -------
    y : ndarray, dtype of x, shape (..., n_out)
        The output.
    trace : LeafSoftTrace
        Only with ``return_trace=True``.

    Raises
    ------
    TypeError, ValueError
        If an argument is of a wrong kind, dtype, shape or layout; nothing has been computed then.
    MemoryError
        If the scores and weights of all hidden neurons would not fit in the memory of this machine,
        or of the GPU; says how many bytes they take.

    Notes
    -----
    Every leaf is evaluated: time and memory grow with 2**depth · width, as those of a dense layer
    of as many hidden neurons. The trace holds an array (batch, n_trees, 2**depth, width) of scores;
    the forward pass needs two more of them, the backward pass four.

    The dense products are those of NumPy, whose library decides on their last bits. A score that is
    NaN makes the output of its sample NaN, and of no other.

    If `routers` is an array on a GPU, float32 or float64, so must the others be, as for
    `fff_forward`; the leaks of a seed are others there.

    Examples
    --------
    >>> import numpy as np
    >>> import fffnb
    >>> x, (routers, leaves, bias) = np.ones((5, 3), np.float32), fffnb.init_leaf(3, 2, 4, width=8)
    >>> y, trace = fffnb.leaf_forward_soft(x, routers, leaves, bias=bias, return_trace=True)
    >>> y.shape, trace.weights.shape
    ((5, 2), (5, 1, 31))
    >>> cold = fffnb.leaf_forward_soft(x, routers, leaves, bias=bias, temperature=1e-6)
    >>> bool(np.allclose(cold, fffnb.leaf_forward(x, routers, leaves, bias=bias)))
    True
    """
    kind = kind_of(routers)
    if kind is not None:
        options = temperature, gate, leak, rng, bias, activation, return_trace
        return leaf_soft_cuda.forward(  # type: ignore[no-any-return]
            kind, x, routers, leaves, *options
        )
    routers, leaves = check_parameters(routers, leaves)
    x = check_samples(x, routers)
    bias = check_bias(bias, routers, leaves)
    temperature, leak = check_temperature(temperature), check_leak(leak)
    codes = activation_code(activation), gate_code(gate)
    lead, batch, (n_trees, n_nodes, n_in) = x.shape[:-1], math.prod(x.shape[:-1]), routers.shape
    table = _by_tree(unlocked(leaves))
    refuse_beyond_memory("scores and weights", (3, batch, *table.shape[:2]), routers.dtype)
    router_shape = batch, n_trees, n_nodes
    leaks = draw_leaks(leak, rng, router_shape)
    router_scores = buffers.empty(router_shape, routers.dtype)
    weights = buffers.empty((batch, n_trees, 2 * n_nodes + 1), routers.dtype)
    scores = buffers.empty((batch, *table.shape[:2]), routers.dtype)
    y = buffers.empty((batch, table.shape[2] - n_in), routers.dtype)
    gating = _leaks(leaks, router_shape), codes[1], temperature
    states = router_scores, weights, scores
    cpu.leaf_soft.forward(as_batch(x), unlocked(routers), table, bias, codes[0], gating, *states, y)
    y = y.reshape(*lead, y.shape[1])
    if not return_trace:
        return y
    made = (
        router_scores.reshape(*lead, *router_shape[1:]),
        weights.reshape(*lead, *weights.shape[1:]),
        scores.reshape(*lead, *leaves.shape[:3]),
        leaks if leaks is None else leaks.reshape(*lead, *router_shape[1:]),
    )
    made_by = activation, gate, temperature, bias is not None
    return y, LeafSoftTrace(*made, *made_by, routers.shape, leaves.shape)


def leaf_backward_soft(
    grad_y: Array,
    x: Array,
    routers: Array,
    leaves: Array,
    trace: LeafSoftTrace,
    *,
    bias: LeafBias | None = None,
    grad_scores: Array | None = None,
) -> LeafGradients:
    """Return the gradients of `leaf_forward_soft`, those of the routers included.

    Parameters
    ----------
    grad_y : ndarray, dtype of x, shape (..., n_out)
        Gradient of the loss with respect to the output.
    x, routers, leaves, bias
        The arguments of the forward pass.
    trace : LeafSoftTrace
        What the forward pass returned; it knows gate, temperature, leaks and activation.
    grad_scores : ndarray, dtype of x, shape (..., n_trees, 2**depth - 1), optional
        Gradient with respect to the scores of the routers of what else there is in the loss, such
        as that of `hardening_loss` times its weight.

    Returns
    -------
    LeafGradients
        The named tuple (x, routers, leaves, bias); all dense, as all leaves were visited.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit the forward pass; nothing has been computed then.

    Examples
    --------
    >>> import numpy as np
    >>> import fffnb
    >>> x, (routers, leaves, _) = np.ones((5, 3), np.float32), fffnb.init_leaf(3, 2, 4, width=8)
    >>> y, trace = fffnb.leaf_forward_soft(x, routers, leaves, return_trace=True)
    >>> loss, slopes = fffnb.hardening_loss(trace)
    >>> layer = routers, leaves
    >>> grads = fffnb.leaf_backward_soft(y, x, *layer, trace, grad_scores=0.1 * slopes)
    >>> grads.x.shape, grads.routers.shape, grads.leaves.shape, grads.bias
    ((5, 3), (1, 15, 3), (1, 16, 8, 5), None)
    """
    kind = kind_of(routers)
    if kind is not None:
        layer = routers, leaves
        return leaf_soft_cuda.backward(kind, grad_y, x, *layer, trace, bias, grad_scores)
    routers, leaves = check_parameters(routers, leaves)
    x = check_samples(x, routers)
    bias = check_bias(bias, routers, leaves)
    lead, batch, n_in = x.shape[:-1], math.prod(x.shape[:-1]), x.shape[-1]
    grad_y = check_rows("grad_y", grad_y, routers.dtype, "routers")
    shape = *lead, leaves.shape[3] - n_in
    check_shape("grad_y", grad_y, shape, "that of the output of x and leaves")
    check_leaf_soft_origin(trace, routers.shape, leaves.shape, bias)
    check_leaf_states(trace, lead, routers.dtype)
    of_routers, table = (batch, *routers.shape[:2]), _by_tree(unlocked(leaves))
    if grad_scores is not None:
        grad_scores = check_native("grad_scores", grad_scores, routers.dtype)
        check_shape("grad_scores", grad_scores, (*lead, *of_routers[1:]), "that of router_scores")
        grad_scores = grad_scores.reshape(of_routers)
    leaks = None if trace.leaks is None else unlocked(trace.leaks)
    grad_x, grad_routers, grad_leaves = (
        buffers.empty(each.shape, routers.dtype) for each in (x, routers, leaves)
    )
    biases = cpu.leaf_soft.backward(
        as_batch(grad_y),
        as_batch(x),
        unlocked(routers),
        table,
        None if bias is None else bias.output,
        ACTIVATIONS.index(trace.activation),
        (_leaks(leaks, of_routers), gate_code(trace.gate), trace.temperature),
        unlocked(trace.router_scores).reshape(of_routers),
        unlocked(trace.weights).reshape(batch, *trace.weights.shape[-2:]),
        unlocked(trace.scores).reshape(batch, *table.shape[:2]),
        grad_scores,
        grad_x.reshape(batch, n_in),
        grad_routers,
        _by_tree(grad_leaves),
    )
    grad_bias = None
    if bias is not None:
        pairs = zip(biases, bias, strict=True)
        grad_bias = LeafBias(*(grad.reshape(each.shape) for grad, each in pairs))
    return LeafGradients(grad_x, grad_routers, grad_leaves, grad_bias)


def _by_tree(leaves: Array) -> Array:
    """Return leaves with the hidden neurons of a tree on one axis."""
    n_trees, n_leaves, width, size = leaves.shape
    return leaves.reshape(n_trees, n_leaves * width, size)


def _leaks(leaks: Array | None, shape: tuple[int, ...]) -> Array:
    """Return leaks as kernels take them: empty if there are none."""
    return np.empty((0, 0, 0), np.bool_) if leaks is None else leaks.reshape(shape)
