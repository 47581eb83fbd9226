"""The kernels in callbacks that see XLA's own memory.

It looks like NumPy's on the CPU, like CuPy's on a GPU, where the kernels run on XLA's stream.
Arguments and outputs are not copied; scores, leaves and gradients are, to the place that XLA chose.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental.buffer_callback import buffer_callback

from ...nodes import depth_of
from ...ops.rules import RowGradient
from ...ops.trace import Trace
from ...ops.transfer import require_cupy
from ...ops.tree import fff_backward, fff_forward
from .axes import batchable

Array = Any
Call = Callable[..., Any]

#: DLPack's number for memory of the CPU.
_ON_CPU = 1


def _on_views(op: Call) -> Call:
    """Return a callback that calls an op on views of XLA's buffers: of results, then arguments."""

    def call(ctx: Any, results: Sequence[Any], *args: Any) -> None:
        buffers = (*results, *args)
        if buffers[0].__dlpack_device__()[0] == _ON_CPU:
            op(*map(np.asarray, buffers))
            return
        cupy = require_cupy()
        views = [cupy.asarray(buffer) for buffer in buffers]
        with views[0].device, _stream(cupy, ctx.stream):
            op(*views)

    return call


def _stream(cupy: Any, handle: int) -> Any:
    """Return XLA's stream as CuPy's."""
    if hasattr(cupy.cuda.Stream, "from_external"):  # from CuPy 14 on
        return cupy.cuda.Stream.from_external(_Handle(handle))
    return cupy.cuda.ExternalStream(handle)


class _Handle:
    """A stream by the protocol of CUDA's Python packages."""

    def __init__(self, handle: int) -> None:
        self.handle = handle

    def __cuda_stream__(self) -> tuple[int, int]:
        """Return the version of the protocol, and the handle."""
        return 0, self.handle


def _write(result: Array, gradient: Array | RowGradient) -> None:
    """Write a gradient to where XLA wants it."""
    if not isinstance(gradient, RowGradient):
        result[...] = gradient
        return
    result[...] = 0
    result.reshape(-1, *gradient.values.shape[1:])[gradient.rows] = gradient.values


def output_like(x: Array, nodes: Array) -> Any:
    """Return shape and dtype of the output."""
    return jax.ShapeDtypeStruct((*x.shape[:-1], nodes.shape[2] - x.shape[-1]), nodes.dtype)


@functools.cache
def forward(activation: str) -> Call:
    """Return the function of x, nodes and, perhaps, bias that gives y."""

    def op(y: Array, x: Array, nodes: Array, bias: Array | None = None) -> None:
        fff_forward(x, nodes, bias=bias, activation=activation, out=y)

    callback = _on_views(op)
    return lambda x, nodes, *bias: buffer_callback(callback, [output_like(x, nodes)])(
        x, nodes, *bias
    )[0]


@functools.cache
def forward_traced(activation: str) -> Call:
    """Return the function of x, nodes and, perhaps, bias that gives y, scores and leaves."""

    def op(
        y: Array, scores: Array, leaves: Array, x: Array, nodes: Array, bias: Array | None = None
    ) -> None:
        _, trace = fff_forward(x, nodes, bias=bias, activation=activation, out=y, return_trace=True)
        scores[...] = trace.scores
        leaves[...] = trace.leaves

    callback = _on_views(op)

    def call(x: Array, nodes: Array, *bias: Array) -> Any:
        lead, n_trees = x.shape[:-1], nodes.shape[0]
        scores = jax.ShapeDtypeStruct((*lead, n_trees, depth_of(nodes.shape[1])), nodes.dtype)
        leaves = jax.ShapeDtypeStruct((*lead, n_trees), np.int32)
        return buffer_callback(callback, [output_like(x, nodes), scores, leaves])(x, nodes, *bias)

    return batchable(call, n_samples=1)


@functools.cache
def backward(activation: str, has_bias: bool, whole: bool) -> Call:
    """Return the function of grad_y, x, scores, leaves and nodes that gives grad_x.

    If it is `whole`, it also gives the gradients of nodes and, where there is one, bias.
    """

    def op(*arrays: Array) -> None:
        *results, grad_y, x, scores, leaves, nodes = arrays
        trace = Trace(scores, leaves, activation, has_bias, nodes.shape, x.shape[-1])
        sparse = isinstance(nodes, np.ndarray) or not whole  # a GPU's rows end with -1
        gradients = fff_backward(grad_y, x, nodes, trace, sparse=sparse)
        for result, gradient in zip(results, gradients, strict=False):
            _write(result, gradient)

    callback = _on_views(op)

    def call(grad_y: Array, x: Array, scores: Array, leaves: Array, nodes: Array) -> Any:
        shapes = [x.shape, nodes.shape, nodes.shape[:2]][: 1 + whole * (1 + has_bias)]
        results = [jax.ShapeDtypeStruct(shape, nodes.dtype) for shape in shapes]
        return buffer_callback(callback, results)(grad_y, x, scores, leaves, nodes)

    return batchable(call, n_samples=0 if whole else 4)
