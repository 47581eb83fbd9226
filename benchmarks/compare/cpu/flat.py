"""The flat form of a layer, beside its tree: checked against the dense reference, then timed."""

from __future__ import annotations

import itertools

import numpy as np

import fffnb

from ...machine import median_seconds
from ...suite.flat import flat_of
from ...suite.problems import CHECKED, CHECKED_DEPTH, assert_close, sgd
from .layer import Array, Layer


def seconds(layer: Layer) -> dict[str, float]:
    """Return the times of the forward pass and of the fused training step."""
    nodes, inputs, grad_y = layer
    planes, y_vectors = flat_of(nodes, inputs.shape[2])
    check(inputs[0, :CHECKED], planes, y_vectors, grad_y[:CHECKED])
    turn, rule = itertools.cycle(inputs), sgd(1e-6)

    def step() -> None:
        x = next(turn)
        _, trace = fffnb.flat_forward(x, planes, y_vectors, return_trace=True)
        fffnb.flat_backward_update(grad_y, x, planes, y_vectors, trace, rule, rule)

    forward = median_seconds(lambda: fffnb.flat_forward(next(turn), planes, y_vectors))
    return {"flat": forward, "flat_step": median_seconds(step)}


def check(x: Array, planes: Array, y_vectors: Array, grad_y: Array) -> None:
    """Raise AssertionError where forward or backward differ from the truth on the first levels."""
    from fffnb.reference import flat as reference

    depth = min(planes.shape[1], CHECKED_DEPTH)
    layer = planes[:, :depth].copy(), y_vectors[:, : 2**depth - 1].copy()
    clear = ~reference.forward(x, *layer).ambiguous(float(np.finfo(x.dtype).eps))
    x, grad_y = x[clear], grad_y[clear]
    y, trace = fffnb.flat_forward(x, *layer, return_trace=True)
    assert_close(y, reference.forward(x, *layer).y)
    grads = fffnb.flat_backward(grad_y, x, *layer, trace)
    for found, right in zip(grads[:3], reference.backward(grad_y, x, *layer), strict=False):
        assert_close(found, right)
