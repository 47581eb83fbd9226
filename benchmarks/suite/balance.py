"""Balance beside a training step: the loss, and a backward pass that takes its gradient."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

import fffnb

from .problems import CASES, Array, Sizes, Timed, assert_close, problem


@functools.cache
def loss(sizes: Sizes) -> Callable[[], tuple[float, Array]]:
    """Return the call, checked."""
    from fffnb.reference import balance, tree

    x, nodes, _, trace = problem(sizes)

    def call() -> tuple[float, Array]:
        return fffnb.balance_loss(trace)

    run = tree.forward(x, nodes)
    clear = ~run.ambiguous(float(np.finfo(nodes.dtype).eps))
    assert clear.all(), "a sample is so near to a decision that rounding could turn it"
    right, gradient = balance.loss(run.scores, run.mask)
    found, grad_scores = call()
    assert_close(np.array([found]), np.array([right]))
    on_paths = gradient[run.mask].reshape(sizes.n_trees, sizes.batch, sizes.depth)
    assert_close(grad_scores, on_paths.transpose(1, 0, 2))
    return call


@functools.cache
def backward(sizes: Sizes) -> Callable[[], fffnb.Gradients]:
    """Return the pass with row gradients, checked by what the scores alone give."""
    x, nodes, grad_y, trace = problem(sizes)
    grad_scores = loss(sizes)()[1]

    def call(grad_y: Array = grad_y) -> fffnb.Gradients:
        return fffnb.fff_backward(grad_y, x, nodes, trace, grad_scores=grad_scores, sparse=True)

    level = np.arange(sizes.depth)
    paths = (trace.leaves[:, :, None] >> (sizes.depth - level)) + 2**level - 1
    paths += len(nodes[0]) * np.arange(sizes.n_trees)[:, None]
    table = nodes.reshape(-1, nodes.shape[2])
    grads = call(np.zeros_like(grad_y))
    assert isinstance(grads.nodes, fffnb.RowGradient)
    grad_nodes = np.zeros((len(table), sizes.n_in))
    np.add.at(grad_nodes, paths, grad_scores[..., None] * x[:, None, None].astype(np.float64))
    assert_close(grads.nodes.values[:, : sizes.n_in], grad_nodes[grads.nodes.rows])
    x_vectors = table[paths, : sizes.n_in].astype(np.float64)
    assert_close(grads.x, np.einsum("btd,btdi->bi", grad_scores, x_vectors))
    return call


class Balance(Timed):
    """`balance_loss`, and `fff_backward` with its gradient."""

    params = (("base",),)

    def time_loss(self, case: str) -> None:
        """Time the loss."""
        loss(CASES[case])()

    def time_backward(self, case: str) -> None:
        """Time the pass."""
        backward(CASES[case])()
