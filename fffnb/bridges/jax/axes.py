"""What `vmap` does to calls of kernels: it folds batches of samples, and loops over all else."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import numpy as jnp
from jax.custom_batching import custom_vmap

Array = Any
Call = Callable[..., Any]


def batchable(call: Call, n_samples: int) -> Call:
    """Give a call a rule for `vmap`; its first `n_samples` arguments are samples."""
    first_order = jax.custom_jvp(call)
    first_order.defjvp(_refuse)
    folding = custom_vmap(first_order)

    def rule(size: int, batched: Sequence[bool], *args: Array) -> Any:
        results = for_each(folding, n_samples, size, batched, args)
        return results, jax.tree.map(lambda _: True, results)

    folding.def_vmap(rule)
    return folding  # type: ignore[no-any-return]


def _refuse(primals: Any, tangents: Any) -> Any:
    raise TypeError("fff has first derivatives alone, got a derivative of its gradient")


def for_each(
    call: Call, n_samples: int, size: int, batched: Sequence[bool], args: Sequence[Array]
) -> Any:
    """Return what a call gives for all entries of the first axis of those arguments that have it.

    If only samples have one, it is another axis of samples; else this is a loop.
    """
    if n_samples and not any(batched[n_samples:]):
        samples = [
            arg if has_axis else jnp.broadcast_to(arg, (size, *arg.shape))
            for arg, has_axis in zip(args[:n_samples], batched, strict=False)
        ]
        return call(*samples, *args[n_samples:])
    return jax.lax.map(
        lambda entries: call(*replaced(args, batched, entries)), chosen(args, batched)
    )


def chosen(values: Sequence[Any], choice: Sequence[bool]) -> tuple[Any, ...]:
    """Return the chosen ones of some values."""
    return tuple(itertools.compress(values, choice))


def replaced(values: Sequence[Any], choice: Sequence[bool], others: Sequence[Any]) -> list[Any]:
    """Return values, with others in the place of the chosen ones."""
    rest = iter(others)
    pairs = zip(values, choice, strict=True)
    return [next(rest) if replace else value for value, replace in pairs]
