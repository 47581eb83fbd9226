"""The operators `fffnb::forward` and `fffnb::backward`: what PyTorch must know to trace them.

All that a backward pass needs is an output of the forward operator, so that compiled and exported
graphs hold it. Neither operator casts anything, under autocast neither.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...nodes import depth_of
from ...ops.straight import straight_through as straight_gradient
from ...ops.trace import Trace
from ...ops.tree import fff_backward, fff_forward
from .balance import slopes_of, weigh, weigh_shape
from .library import refuse_second
from .tensors import DEVICES, lend, real_of, take


def run_forward(
    x: Tensor,
    nodes: Tensor,
    bias: Tensor | None,
    activation: str,
    straight_through: float | None = None,
    balance: float | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return y (..., n_out), scores (..., n_trees, depth), leaves (..., n_trees), balance loss.

    How decisions are trained straight through is for the backward pass alone.
    """
    y, trace = fff_forward(
        lend(x.contiguous()),
        lend(nodes),
        bias=lend(bias),
        activation=activation,
        return_trace=True,
    )
    return take(y), take(trace.scores), take(trace.leaves), weigh(trace, balance, x)


forward = torch.library.custom_op(
    "fffnb::forward",
    run_forward,
    mutates_args=(),
    device_types=DEVICES,
    schema="(Tensor x, Tensor nodes, Tensor? bias, str activation, "
    "float? straight_through=None, float? balance=None) -> (Tensor, Tensor, Tensor, Tensor)",
)


@forward.register_fake
def _(
    x: Tensor,
    nodes: Tensor,
    bias: Tensor | None,
    activation: str,
    straight_through: float | None = None,
    balance: float | None = None,
) -> tuple[Tensor, ...]:
    (*lead, n_in), (n_trees, n_nodes, width) = x.shape, nodes.shape
    scores = x.new_empty((*lead, n_trees, depth_of(int(n_nodes))), dtype=real_of(nodes.dtype))
    leaves = x.new_empty((*lead, n_trees), dtype=torch.int32)
    return x.new_empty((*lead, width - n_in)), scores, leaves, weigh_shape(balance, x)


@torch.library.custom_op(
    "fffnb::backward",
    mutates_args=(),
    device_types=DEVICES,
    schema="(Tensor grad_y, Tensor x, Tensor nodes, Tensor scores, Tensor leaves, "
    "str activation, bool has_bias, bool whole, Tensor? bias=None, "
    "float? straight_through=None, float? balance=None, Tensor? grad_loss=None) "
    "-> (Tensor, Tensor, Tensor)",
)
def backward(
    grad_y: Tensor,
    x: Tensor,
    nodes: Tensor,
    scores: Tensor,
    leaves: Tensor,
    activation: str,
    has_bias: bool,
    whole: bool,
    bias: Tensor | None = None,
    straight_through: float | None = None,
    balance: float | None = None,
    grad_loss: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x, nodes and bias; the latter are empty unless it is `whole`.

    That of the bias is empty where there is no bias, too. Decisions that are trained straight
    through need the bias itself.
    """
    arrays = lend_pass(grad_y, x, nodes, scores, leaves, activation, has_bias)
    slopes = score_slopes(arrays, x, bias, straight_through, balance, grad_loss)
    grads = fff_backward(*arrays, sparse=not whole, grad_scores=slopes)
    empty = nodes.new_empty(0)
    if not whole:
        return take(grads.x), empty, empty.clone()
    return take(grads.x), take(grads.nodes), empty if grads.bias is None else take(grads.bias)


@backward.register_fake
def _(
    grad_y: Tensor,
    x: Tensor,
    nodes: Tensor,
    scores: Tensor,
    leaves: Tensor,
    activation: str,
    has_bias: bool,
    whole: bool,
    bias: Tensor | None = None,
    straight_through: float | None = None,
    balance: float | None = None,
    grad_loss: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    grad_nodes = nodes.new_empty(nodes.shape if whole else 0)
    if has_bias and whole:
        grad_bias = nodes.new_empty(nodes.shape[:2], dtype=real_of(nodes.dtype))
    else:
        grad_bias = nodes.new_empty(0)
    return x.new_empty(x.shape), grad_nodes, grad_bias


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    """Keep what the backward pass needs."""
    x, nodes, bias, activation, straight_through, balance = inputs
    _, scores, leaves, _ = output
    ctx.activation, ctx.has_bias = activation, bias is not None
    ctx.straight_through, ctx.balance = straight_through, balance
    ctx.mark_non_differentiable(scores, leaves)
    ctx.save_for_backward(x, nodes, scores, leaves, None if straight_through is None else bias)


def _gradients(ctx: Any, grad_y: Tensor, *others: Any) -> tuple[Any, ...]:
    """Return the gradients of the arguments of `forward`."""
    _, for_nodes, for_bias, *_ = ctx.needs_input_grad
    *tensors, bias = ctx.saved_tensors
    options = ctx.activation, ctx.has_bias, for_nodes or for_bias
    of_scores = bias, ctx.straight_through, ctx.balance, others[-1]
    grads = backward(grad_y, *tensors, *options, *of_scores)
    wanted = grads[0], grads[1] if for_nodes else None, grads[2] if for_bias else None
    return *wanted, None, None, None


forward.register_autograd(_gradients, setup_context=_keep)
backward.register_autograd(refuse_second)


def lend_pass(
    grad_y: Tensor,
    x: Tensor,
    nodes: Tensor,
    scores: Tensor,
    leaves: Tensor,
    activation: str,
    has_bias: bool,
) -> tuple[Any, Any, Any, Trace]:
    """Return the arguments of `fff_backward`, lent."""
    shape, n_in = tuple(nodes.shape), x.shape[-1]
    trace = Trace(lend(scores), lend(leaves), activation, has_bias, shape, n_in)
    return lend(grad_y.contiguous()), lend(x.contiguous()), lend(nodes), trace


def score_slopes(
    arrays: tuple[Any, Any, Any, Trace],
    x: Tensor,
    bias: Tensor | None,
    straight_through: float | None,
    balance: float | None,
    grad_loss: Tensor | None,
) -> Any:
    """Return the gradient that the scores of a pass have of their own, None if they have none.

    Decisions that are trained straight through give them one, and the balance loss.
    """
    slopes = slopes_of(arrays[3], balance, grad_loss, x)
    if straight_through is None:
        return slopes
    through = straight_gradient(*arrays, temperature=straight_through, bias=lend(bias))
    return through if slopes is None else through + slopes
