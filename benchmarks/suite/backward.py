"""Backward pass of one layer."""

import fffnb

from .problems import BATCHES, SHAPES, problem


class Backward:
    """`fff_backward` over shapes (n_in, n_out, depth) and batch sizes."""

    params = (SHAPES, BATCHES)
    param_names = ("shape", "batch")

    def time_rows(self, shape: tuple[int, int, int], batch: int) -> None:
        """Time the backward pass with row gradients."""
        x, nodes, grad_y, trace = problem(*shape, batch)
        fffnb.fff_backward(grad_y, x, nodes, trace, sparse=True)

    def time_dense(self, shape: tuple[int, int, int], batch: int) -> None:
        """Time the backward pass with a dense gradient."""
        x, nodes, grad_y, trace = problem(*shape, batch)
        fffnb.fff_backward(grad_y, x, nodes, trace)
