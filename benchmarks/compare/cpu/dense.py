"""Dense layers through NumPy's BLAS and in PyTorch: checked against each other, then timed."""

from __future__ import annotations

import functools
import gc
import itertools
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import numpy as np

from ...peers import installed
from ...peers.dense import Dense
from ...suite.problems import CHECKED, assert_close
from ..cases import Case
from .layer import Layer
from .timing import timed

#: A dense layer whose weights take more bytes than this is not timed, nor is a call of more
#: operations, which take seconds on a few cores.
MOST_BYTES, MOST_OPERATIONS = 1_100_000_000, 1_500_000_000_000

#: The bound of gradients: rounding may put a hidden value on the other side of ReLU's kink.
GRADIENT_BOUND = 1e-2

Widths = tuple[int, ...]


def seconds(case: Case, layer: Layer, *, compiled: bool) -> dict[str, float | None]:
    """Return the times of a linear layer and of the faster feed-forward layer."""
    n_in, n_out = case.n_in, case.n_out
    linear: list[Widths] = [(n_in, n_out)]
    ff: list[Widths] = [(n_in, width, n_out) for width in case.widths]
    published: list[Widths] = (
        [(n_in, case.published_width, n_out)] if case.published_width is not None else []
    )
    fastest = functools.partial(fastest_seconds, layer)
    times = {
        "linear": fastest(forward, Dense, linear),
        "ff": fastest(forward, Dense, ff),
        "ff_published": fastest(forward, Dense, published),
        "ff_step": fastest(step, Dense, ff, passes=3),
    }
    if not installed("torch"):
        return times
    make = functools.partial(torch_dense, layer)
    times |= {
        "nn.Linear": fastest(torch_forward, make, linear),
        "torch_ff": fastest(torch_forward, make, ff),
        "torch_ff_step": fastest(torch_step, make, ff, passes=3),
    }
    if compiled:
        times |= {
            "linear_compiled": fastest(compiled_forward, make, linear),
            "ff_compiled": fastest(compiled_forward, make, ff),
        }
    return times


def fastest_seconds(
    layer: Layer,
    measure: Callable[[Any, Layer], float],
    make: Callable[..., Any],
    shapes: Iterable[Widths],
    passes: int = 1,
) -> float | None:
    """Return the least time of the dense layers of these shapes, None where all are too large."""
    times = []
    for widths in shapes:
        n_weights = sum(n_in * n_out for n_in, n_out in pairwise(widths))
        operations = 2 * passes * len(layer.grad_y) * n_weights
        if 4 * n_weights <= MOST_BYTES and operations <= MOST_OPERATIONS:
            times.append(measure(make(*widths), layer))
            gc.collect()  # gigabytes
    return min(times, default=None)


def forward(dense: Dense, layer: Layer) -> float:
    """Return the time of a forward pass in NumPy."""
    return timed(dense.forward, itertools.cycle(layer.inputs))


def step(dense: Dense, layer: Layer) -> float:
    """Return the time of a training step in NumPy."""
    call = functools.partial(dense.step, grad_y=layer.grad_y)
    return timed(call, itertools.cycle(layer.inputs))


def torch_forward(dense: Any, layer: Layer) -> float:
    """Return the time of a forward pass in PyTorch."""
    import torch

    return timed(dense.forward, itertools.cycle(torch.from_numpy(layer.inputs)))


def torch_step(dense: Any, layer: Layer) -> float:
    """Return the time of a training step in PyTorch."""
    import torch

    call = functools.partial(dense.step, grad_y=torch.from_numpy(layer.grad_y))
    return timed(call, itertools.cycle(torch.from_numpy(layer.inputs)))


def compiled_forward(dense: Any, layer: Layer) -> float:
    """Return the time of a forward pass in PyTorch by torch.compile."""
    import torch

    x = torch.from_numpy(layer.inputs[0])
    right = dense.forward(x).numpy()
    torch.compiler.reset()  # it gives up after a few shapes
    dense.layers = torch.compile(dense.layers)
    assert_close(dense.forward(x).numpy(), right)
    return torch_forward(dense, layer)


def torch_dense(layer: Layer, *widths: int) -> Any:
    """Return dense layers in PyTorch, checked against NumPy's with the same weights."""
    import torch

    from ...peers import torch_layers

    right, dense = Dense(*widths), torch_layers.Dense(*widths)
    linears = dense.layers[::2]
    for linear, weight in zip(linears, right.weights, strict=True):
        linear.weight.data.copy_(torch.from_numpy(weight.T))
    x, grad_y = layer.inputs[0, :CHECKED], layer.grad_y[:CHECKED]
    assert_close(dense.forward(torch.from_numpy(x)).numpy(), right.forward(x))
    dense.step(torch.from_numpy(x), torch.from_numpy(grad_y))
    for linear, grad in zip(linears, right.gradients(x, grad_y)[1], strict=True):
        assert_close(np.asarray(linear.weight.grad).T, grad, GRADIENT_BOUND)
    return dense
