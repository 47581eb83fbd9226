"""How the operators of a form are made: what PyTorch must know to trace and differentiate them.

All that a backward pass needs is an output of the forward operator, so that compiled and exported
graphs hold it. No operator casts anything, under autocast neither.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .tensors import DEVICES, take

#: The types of the arguments of an operator by name, as in a schema.
Types = dict[str, str]


def make_operators(
    name: str,
    forward: Callable[..., tuple[Tensor, ...]],
    shapes: Callable[..., tuple[Tensor, ...]],
    backward: Callable[..., Any],
    *,
    tensors: Types,
    states: tuple[str, ...],
    options: Types,
    values: tuple[str, ...] = ("y",),
    draws: Types | None = None,
) -> Any:
    """Return the operator ``name_forward``, whose gradients are those of ``name_backward``.

    The forward operator takes tensors, of which the first are samples, options and draws. It
    returns values, which have gradients, and states. `shapes` returns as much without memory.
    `backward` takes the gradients of the values, tensors, states and options, and returns the
    gradients of the tensors, as ops do; None where there is none.
    """
    forward_types = {**tensors, **options, **(draws or {})}
    n_tensors, n_values = len(tensors), len(values)
    made = _operator(f"{name}_forward", forward, forward_types, n_values + len(states))
    made.register_fake(shapes)

    def backward_tensors(*arguments: Any) -> tuple[Tensor, ...]:
        likes = arguments[n_values : n_values + n_tensors]
        found = zip(backward(*arguments), likes, strict=True)
        return tuple(_gradient(each, like, arguments[0]) for each, like in found)

    def backward_shapes(*arguments: Any) -> tuple[Tensor, ...]:
        likes = arguments[n_values : n_values + n_tensors]
        return tuple(_gradient(None, like, arguments[0]) for like in likes)

    backward_types = {
        **{f"grad_{value}": "Tensor" for value in values},
        **tensors,
        **{state: "Tensor" for state in states},
        **options,
    }
    returned = _operator(f"{name}_backward", backward_tensors, backward_types, n_tensors)
    returned.register_fake(backward_shapes)
    returned.register_autograd(refuse_second)
    _differentiate(made, returned, n_values, n_tensors, len(options))
    return made


def _differentiate(
    forward: Any, backward: Any, n_values: int, n_tensors: int, n_options: int
) -> None:
    """Let autograd find the gradients of a forward operator by a backward operator."""

    def keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        tensors, others = inputs[:n_tensors], inputs[n_tensors:]
        ctx.options, ctx.n_others = others[:n_options], len(others)
        ctx.mark_non_differentiable(*output[n_values:])
        ctx.save_for_backward(*tensors, *output[n_values:])

    def gradients(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        found = backward(*grads[:n_values], *ctx.saved_tensors, *ctx.options)
        wanted = zip(found, ctx.needs_input_grad, strict=False)
        others = (None,) * ctx.n_others
        return *(each if needed else None for each, needed in wanted), *others

    forward.register_autograd(gradients, setup_context=keep)


def refuse_second(ctx: Any, *grads: Any) -> Any:
    """Say that the gradients have no gradient."""
    raise RuntimeError("fffnb has no gradients of gradients: the backward pass is not recorded")


def _operator(name: str, run: Callable[..., Any], types: Types, n_outputs: int) -> Any:
    """Return an operator that returns tensors."""
    arguments = ", ".join(f"{kind} {word}" for word, kind in types.items())
    outputs = ", ".join(["Tensor"] * n_outputs)
    return torch.library.custom_op(
        f"fffnb::{name}",
        run,
        mutates_args=(),
        device_types=DEVICES,
        schema=f"({arguments}) -> ({outputs})",
    )


def _gradient(array: Any, like: Tensor | None, grad_y: Tensor) -> Tensor:
    """Return the gradient of a tensor: zero where an op gives none, empty where no tensor is."""
    if like is None:
        return grad_y.new_empty(0)
    return like.new_zeros(like.shape) if array is None else take(array)
