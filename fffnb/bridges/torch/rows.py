"""Gradients of the visited rows alone: as sparse tensors, or as steps in the backward pass.

A sparse gradient is what PyTorch's own embeddings give: gradients of several backward passes add
up, `zero_grad` and gradient scalers know them, and optimisers that do not say so.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from ...ops.rules import RowGradient, UpdateRule
from ...ops.tree import fff_backward, fff_backward_update
from .operators import lend_pass, run_forward, score_slopes
from .tensors import lend, take


class Claim:
    """That an optimiser steps a parameter in the backward pass, once between its own steps."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = weakref.ref(optimizer)
        self.stepped = False

    def check(self) -> None:
        """Refuse a second step."""
        if self.stepped:
            raise RuntimeError(
                "these nodes have taken their step, in an earlier backward pass or for another use "
                "of their layer in this one: call optimizer.step() before the next backward pass, "
                "or add gradients up with in_backward=False"
            )

    def rule(self, parameter: Tensor) -> UpdateRule:
        """Return the step that is due, and note that it was taken."""
        self.check()
        optimizer = self.optimizer()
        assert optimizer is not None
        self.stepped = True
        rule: UpdateRule = optimizer.row_rule(parameter, 2)  # trees, nodes
        return rule


#: The claims on parameters, which neither keep them nor the optimisers alive.
claims = WeakIdKeyDictionary()


def claim_on(parameter: Tensor | None) -> Claim | None:
    """Return the claim of an optimiser that still exists."""
    claim = None if parameter is None else claims.get(parameter)
    return claim if claim is not None and claim.optimizer() is not None else None


class _Forward(torch.autograd.Function):
    """The forward pass, of which the backward pass is one of rows."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        nodes: Tensor,
        bias: Tensor | None,
        activation: str,
        straight_through: float | None,
        balance: float | None,
    ) -> tuple[Tensor, Tensor]:
        """Return y and the balance loss, and keep what the backward pass needs."""
        y, scores, leaves, loss = run_forward(x, nodes, bias, activation, balance=balance)
        ctx.activation, ctx.nodes = activation, weakref.ref(nodes)
        ctx.straight_through, ctx.balance = straight_through, balance
        ctx.save_for_backward(x, nodes, bias, scores, leaves)
        return y, loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_y: Tensor, grad_loss: Tensor) -> tuple[Any, ...]:
        """Return the gradients of the arguments of `forward`."""
        for_nodes, for_bias = _is_wanted(ctx, 1), _is_wanted(ctx, 2)
        claim = claim_on(ctx.nodes()) if for_nodes else None
        if claim is not None:
            claim.check()  # nodes that have moved could not be unpacked
        x, nodes, bias, scores, leaves = ctx.saved_tensors
        arrays = lend_pass(grad_y, x, nodes, scores, leaves, ctx.activation, bias is not None)
        slopes = score_slopes(arrays, x, bias, ctx.straight_through, ctx.balance, grad_loss)
        if claim is not None:
            grad_x = _step(arrays, slopes, claim, nodes, bias if for_bias else None)
            return take(grad_x), None, None, None, None, None
        grads: Any = fff_backward(*arrays, sparse=True, grad_scores=slopes)
        return (
            take(grads.x),
            as_sparse(grads.nodes, nodes) if for_nodes else None,
            as_sparse(grads.bias, bias) if for_bias else None,
            None,
            None,
            None,
        )


def _is_wanted(ctx: Any, place: int) -> bool:
    """Return whether this backward pass wants the gradient of an argument, a tensor if it does."""
    if not ctx.needs_input_grad[place]:
        return False
    return bool(torch._C._will_engine_execute_node(ctx.next_functions[place][0]))


def _processes() -> int:
    """Return how many processes train together."""
    distributed = torch.distributed
    ready = distributed.is_available() and distributed.is_initialized()
    return int(distributed.get_world_size()) if ready else 1


def _step(
    arrays: tuple[Any, Any, Any, Any],
    slopes: Any,
    claim: Claim,
    nodes: Tensor,
    bias: Tensor | None,
) -> Any:
    """Step nodes and bias by the rules of the optimiser that claims them; return grad_x."""
    if _processes() > 1:
        raise RuntimeError(
            "in_backward=True would step the nodes of each process by its own gradient alone: "
            "leave it off where processes train together"
        )
    other = claim_on(bias)
    steps = {"grad_scores": slopes}
    if bias is not None:
        if other is None or other.optimizer() is not claim.optimizer():
            raise RuntimeError(
                "the optimiser that steps these nodes in the backward pass must have their bias too"
            )
        steps |= {"bias": lend(bias), "bias_rule": other.rule(bias)}
    grad_x = fff_backward_update(*arrays, claim.rule(nodes), **steps)
    for tensor in (nodes,) if bias is None else (nodes, bias):
        torch.autograd.graph.increment_version(tensor)
    return grad_x


@torch.compiler.disable
def forward(
    x: Tensor,
    nodes: Tensor,
    bias: Tensor | None,
    activation: str,
    straight_through: float | None,
    balance: float | None,
) -> tuple[Tensor, Tensor]:
    """Return y and the balance loss, to be followed by a backward pass of rows."""
    y, loss = _Forward.apply(x, nodes, bias, activation, straight_through, balance)
    return y, loss


class _FormForward(torch.autograd.Function):
    """The forward pass of any form, of which the backward pass is one of rows."""

    @staticmethod
    def forward(
        ctx: Any,
        run: Callable[..., tuple[Tensor, ...]],
        backward: Callable[..., Any],
        options: tuple[Any, ...],
        *tensors: Tensor | None,
    ) -> Tensor:
        """Return y, and keep what the backward pass needs."""
        y, *states = run(*tensors, *options)
        ctx.backward_pass, ctx.options, ctx.n_tensors = backward, options, len(tensors)
        ctx.save_for_backward(*tensors, *states)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Any, ...]:
        """Return the gradients of the arguments of `forward`."""
        saved = ctx.saved_tensors
        grads = ctx.backward_pass(grad_y, *saved, *ctx.options, sparse=True)
        wanted = zip(grads, saved[: ctx.n_tensors], ctx.needs_input_grad[3:], strict=True)
        return None, None, None, *(_gradient(*each) for each in wanted)


def _gradient(gradient: Any, parameter: Tensor, wanted: bool) -> Tensor | None:
    """Return a gradient of an op as a tensor, sparse if it is one of rows; None if unwanted."""
    if not wanted:
        return None
    return as_sparse(gradient, parameter) if isinstance(gradient, RowGradient) else take(gradient)


@torch.compiler.disable
def forward_form(
    run: Callable[..., tuple[Tensor, ...]],
    backward: Callable[..., Any],
    tensors: tuple[Tensor | None, ...],
    *options: Any,
) -> Tensor:
    """Return the first that `run` returns, to be followed by a `backward` pass of rows."""
    y: Tensor = _FormForward.apply(run, backward, options, *tensors)
    return y


def as_sparse(gradient: RowGradient, parameter: Tensor) -> Tensor:
    """Return a row gradient as a sparse tensor of the shape of its parameter."""
    count = int(gradient.count)  # waits for a GPU
    rows, values = take(gradient.rows)[:count], take(gradient.values)[:count]
    axes = parameter.shape[: parameter.ndim + 1 - values.ndim]
    indices = torch.stack(torch.unravel_index(rows, axes))
    with torch.sparse.check_sparse_tensor_invariants(False):  # some versions warn of the default
        return torch.sparse_coo_tensor(indices, values, parameter.shape, is_coalesced=True)


def as_rows(gradient: Tensor) -> RowGradient:
    """Return a sparse gradient as a row gradient, its rows ascending and unique."""
    rows = _rows(gradient)
    if not bool((rows[1:] > rows[:-1]).all()):  # a sum of gradients
        gradient = gradient.coalesce()
        rows = _rows(gradient)
    return RowGradient(lend(rows), lend(gradient._values()), None, len(rows))


def _rows(gradient: Tensor) -> Tensor:
    """Return the rows of a sparse gradient, counted over its sparse axes."""
    first, *others = gradient._indices()
    for size, place in zip(gradient.shape[1:], others, strict=False):
        first = first * size + place
    return first
