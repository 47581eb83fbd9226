"""The operators of the leaf form, hard and soft."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ...leaves import LeafBias
from ...ops.leaf import leaf_backward, leaf_forward
from ...ops.leaf_soft import leaf_backward_soft, leaf_forward_soft
from ...ops.leaf_trace import LeafGradients, LeafSoftTrace, LeafTrace
from .hardening import DRAWS, OPTIONS, no_leaks, slopes_of, weighed_loss
from .library import make_operators
from .tensors import lend, take

#: The tensors that both operators take: all three biases or none.
TENSORS = {
    "x": "Tensor",
    "routers": "Tensor",
    "leaves": "Tensor",
    "router_bias": "Tensor?",
    "hidden_bias": "Tensor?",
    "output_bias": "Tensor?",
}


def _hard_forward(
    x: Tensor, routers: Tensor, leaves: Tensor, *biases_and_activation: Any
) -> tuple[Tensor, ...]:
    """Return y (..., n_out), scores (..., n_trees, width) and leaves (..., n_trees)."""
    *biases, activation = biases_and_activation
    y, trace = leaf_forward(
        lend(x.contiguous()),
        lend(routers),
        lend(leaves),
        bias=_lend_bias(biases),
        activation=activation,
        return_trace=True,
    )
    return take(y), take(trace.scores), take(trace.leaves)


def _hard_shapes(x: Tensor, routers: Tensor, leaves: Tensor, *unused: Any) -> tuple[Tensor, ...]:
    lead, (n_trees, _, width, size) = x.shape[:-1], leaves.shape
    paths = x.new_empty((*lead, n_trees), dtype=torch.int32)
    y = x.new_empty((*lead, size - x.shape[-1]))
    return y, x.new_empty((*lead, n_trees, width)), paths


def _hard_backward(
    grad_y: Tensor,
    x: Tensor,
    routers: Tensor,
    leaves: Tensor,
    router_bias: Tensor | None,
    hidden_bias: Tensor | None,
    output_bias: Tensor | None,
    scores: Tensor,
    paths: Tensor,
    activation: str,
) -> tuple[Any, ...]:
    """Return the gradients of the tensors."""
    shapes = tuple(routers.shape), tuple(leaves.shape)
    trace = LeafTrace(lend(scores), lend(paths), activation, router_bias is not None, *shapes)
    samples = lend(grad_y.contiguous()), lend(x.contiguous())
    return _in_order(leaf_backward(*samples, lend(routers), lend(leaves), trace))


hard = make_operators(
    "leaf",
    _hard_forward,
    _hard_shapes,
    _hard_backward,
    tensors=TENSORS,
    states=("scores", "paths"),
    options={"activation": "str"},
)


def _soft_forward(
    x: Tensor,
    routers: Tensor,
    leaves: Tensor,
    router_bias: Tensor | None,
    hidden_bias: Tensor | None,
    output_bias: Tensor | None,
    activation: str,
    temperature: float,
    gate: str,
    hardening: float,
    leak: float,
    seed: Tensor | None,
) -> tuple[Tensor, ...]:
    """Return y (..., n_out), the weighed loss, and the arrays of a LeafSoftTrace."""
    y, trace = leaf_forward_soft(
        lend(x.contiguous()),
        lend(routers),
        lend(leaves),
        temperature=temperature,
        gate=gate,
        leak=leak,
        rng=None if seed is None else int(seed),
        bias=_lend_bias((router_bias, hidden_bias, output_bias)),
        activation=activation,
        return_trace=True,
    )
    leaks = no_leaks(x) if trace.leaks is None else take(trace.leaks)
    states = (take(each) for each in (trace.router_scores, trace.weights, trace.scores))
    return take(y), weighed_loss(trace, hardening, x), *states, leaks


def _soft_shapes(
    x: Tensor,
    routers: Tensor,
    leaves: Tensor,
    router_bias: Tensor | None,
    hidden_bias: Tensor | None,
    output_bias: Tensor | None,
    activation: str,
    temperature: float,
    gate: str,
    hardening: float,
    leak: float,
    seed: Tensor | None,
) -> tuple[Tensor, ...]:
    lead, (n_trees, n_nodes, n_in) = x.shape[:-1], routers.shape
    router_scores = x.new_empty((*lead, n_trees, n_nodes))
    weights = x.new_empty((*lead, n_trees, 2 * n_nodes + 1))
    scores = x.new_empty((*lead, *leaves.shape[:3]))
    leaks = no_leaks(x) if leak == 0 else router_scores.bool()
    y = x.new_empty((*lead, leaves.shape[3] - n_in))
    return y, x.new_empty(()), router_scores, weights, scores, leaks


def _soft_backward(
    grad_y: Tensor,
    grad_loss: Tensor,
    x: Tensor,
    routers: Tensor,
    leaves: Tensor,
    router_bias: Tensor | None,
    hidden_bias: Tensor | None,
    output_bias: Tensor | None,
    router_scores: Tensor,
    weights: Tensor,
    scores: Tensor,
    leaks: Tensor,
    activation: str,
    temperature: float,
    gate: str,
    hardening: float,
) -> tuple[Any, ...]:
    """Return the gradients of the tensors."""
    bias = _lend_bias((router_bias, hidden_bias, output_bias))
    trace = LeafSoftTrace(
        router_scores=lend(router_scores),
        weights=lend(weights),
        scores=lend(scores),
        leaks=lend(leaks) if leaks.numel() > 0 else None,
        activation=activation,
        gate=gate,
        temperature=temperature,
        has_bias=bias is not None,
        routers_shape=tuple(routers.shape),
        leaves_shape=tuple(leaves.shape),
    )
    grads = leaf_backward_soft(
        lend(grad_y.contiguous()),
        lend(x.contiguous()),
        lend(routers),
        lend(leaves),
        trace,
        bias=bias,
        grad_scores=slopes_of(trace, hardening, grad_loss, x),
    )
    return _in_order(grads)


soft = make_operators(
    "leaf_soft",
    _soft_forward,
    _soft_shapes,
    _soft_backward,
    tensors=TENSORS,
    values=("y", "loss"),
    states=("router_scores", "weights", "scores", "leaks"),
    options=OPTIONS,
    draws=DRAWS,
)


def _lend_bias(biases: Iterable[Tensor | None]) -> LeafBias | None:
    """Return biases as ops take them."""
    lent = LeafBias(*map(lend, biases))
    return None if all(each is None for each in lent) else lent


def _in_order(grads: LeafGradients) -> tuple[Any, ...]:
    """Return gradients in the order of the tensors; None where there is none."""
    biases = (None, None, None) if grads.bias is None else grads.bias
    return grads.x, grads.routers, grads.leaves, *biases
