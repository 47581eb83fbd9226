"""The flat form: forward pass, and backward pass for row gradients of the y vectors, or fused."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

import fffnb

from .problems import (
    CASES,
    HOST,
    LR,
    Array,
    Kind,
    Sizes,
    Timed,
    assert_close,
    problem,
    rows_of,
    sgd,
)
from .truth import Truth

#: Cases of this topic alone, where it should gain most over the tree.
MORE = {
    "batch=4096": Sizes(batch=4096),
    "4096 → 64, batch=4096": Sizes(4096, 64, batch=4096),
}


class Flat(NamedTuple):
    """A problem, and the truth about it: that of a tree with one x vector a level."""

    x: Array
    grad_y: Array
    planes: Array
    y_vectors: Array
    trace: fffnb.FlatTrace
    truth: Truth


def flat_of(nodes: Array, n_in: int) -> tuple[Array, Array]:
    """Return planes, the x vectors of the left edges of trees, and the y vectors of the nodes."""
    x_vectors, y_vectors = fffnb.split_nodes(nodes, n_in)
    depth = fffnb.depth_of(nodes.shape[1])
    planes = x_vectors[:, 2 ** np.arange(depth) - 1]
    return np.ascontiguousarray(planes), np.ascontiguousarray(y_vectors)


@functools.cache
def flat(sizes: Sizes, kind: Kind = HOST) -> Flat:
    """Return the flat form of a problem as arrays of a kind."""
    from fffnb.reference.flat import nodes_of

    layer = flat_of(problem(sizes).nodes, sizes.n_in)
    x, grad_y, planes, y_vectors = map(kind.send, (problem(sizes).x, problem(sizes).grad_y, *layer))
    trace = fffnb.flat_forward(x, planes, y_vectors, return_trace=True)[1]
    truth = Truth(problem(sizes).x, nodes_of(*layer), kind.fetch(trace.leaves))
    return Flat(x, grad_y, planes, y_vectors, trace, truth)


@functools.cache
def forward(sizes: Sizes, kind: Kind = HOST) -> Callable[[], Array]:
    """Return the call, checked."""
    x, _, planes, y_vectors, _, truth = flat(sizes, kind)

    def call() -> Array:
        return fffnb.flat_forward(x, planes, y_vectors)

    assert_close(kind.fetch(call()), truth.y, truth.bound)
    return call


@functools.cache
def rows(sizes: Sizes, kind: Kind = HOST) -> Callable[[], fffnb.FlatGradients]:
    """Return the backward pass, checked."""
    x, grad_y, planes, y_vectors, trace, truth = flat(sizes, kind)

    def call() -> fffnb.FlatGradients:
        return fffnb.flat_backward(grad_y, x, planes, y_vectors, trace, sparse=True)

    grad_x, grad_rows = truth.gradients(problem(sizes).grad_y)
    grad_planes = np.zeros(planes.shape)
    tree, node = np.divmod(truth.rows, y_vectors.shape[1])
    level = np.frexp(node + 1)[1] - 1
    np.add.at(grad_planes, (tree, level), grad_rows[:, : sizes.n_in])
    grads = call()
    visited, values = rows_of(grads.y_vectors, kind)
    np.testing.assert_array_equal(visited, truth.rows)
    assert_close(kind.fetch(grads.x), grad_x, truth.bound)
    assert_close(kind.fetch(grads.planes), grad_planes, truth.bound)
    assert_close(values, grad_rows[:, sizes.n_in :], truth.bound)
    return call


@functools.cache
def patterns(sizes: Sizes, kind: Kind = HOST) -> Callable[[], Array]:
    """Return the forward pass with a y vector for each leaf and level, checked."""
    x, _, planes, _, trace, _ = flat(sizes, kind)
    shape, depth = (sizes.n_trees, 2**sizes.depth * sizes.depth, sizes.n_out), sizes.depth
    rows = np.random.default_rng(1).standard_normal(shape, problem(sizes).x.dtype)
    y_vectors = kind.send(rows)

    def call() -> Array:
        return fffnb.flat_forward(x, planes, y_vectors)

    leaves = kind.fetch(trace.leaves)[:, :, None]  # the truth of `flat` says that they are right
    vectors = rows[np.arange(sizes.n_trees)[:, None], leaves * depth + np.arange(depth)]
    scores = np.einsum("bi,tdi->btd", kind.fetch(x), kind.fetch(planes), dtype=np.float64)
    assert_close(kind.fetch(call()), np.einsum("btd,btdo->bo", scores, vectors))
    return call


@functools.cache
def update(sizes: Sizes) -> Callable[[], Array]:
    """Return the fused backward pass, checked against the one for gradients."""
    x, grad_y, planes, y_vectors, trace, _ = flat(sizes, HOST)

    def call(lr: float = LR) -> Array:
        rule = sgd(lr)
        return fffnb.flat_backward_update(grad_y, x, planes, y_vectors, trace, rule, rule)

    grads = rows(sizes)()
    assert isinstance(grads.y_vectors, fffnb.RowGradient)
    table, visited = y_vectors.reshape(-1, sizes.n_out), grads.y_vectors.rows
    before = planes.copy(), table[visited]
    assert_close(call(1.0), grads.x)
    assert_close(planes, before[0] - grads.planes)
    assert_close(table[visited], before[1] - grads.y_vectors.values)
    planes[...], table[visited] = before
    return call


class FlatForward(Timed):
    """`flat_forward`."""

    params = (("base", "batch=1", *MORE),)

    def time_forward(self, case: str) -> None:
        """Time the whole call, checks and allocation included."""
        forward((CASES | MORE)[case])()


class FlatPatterns(Timed):
    """`flat_forward` with y vectors for all patterns of signs."""

    params = (("base",),)

    def time_forward(self, case: str) -> None:
        """Time the whole call, checks and allocation included."""
        patterns(CASES[case])()


class FlatBackward(Timed):
    """`flat_backward` with row gradients."""

    params = (("base", "batch=1024"),)

    def time_rows(self, case: str) -> None:
        """Time the pass."""
        rows((CASES | MORE)[case])()

    def time_update(self, case: str) -> None:
        """Time the fused pass."""
        update((CASES | MORE)[case])()
