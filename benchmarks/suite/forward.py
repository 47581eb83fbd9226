"""Forward pass of one layer."""

import fffnb

from .problems import BATCHES, SHAPES, problem


class Forward:
    """`fff_forward` over shapes (n_in, n_out, depth) and batch sizes."""

    params = (SHAPES, BATCHES)
    param_names = ("shape", "batch")

    def time_forward(self, shape: tuple[int, int, int], batch: int) -> None:
        """Time the whole call, checks and allocation included."""
        x, nodes, _, _ = problem(*shape, batch)
        fffnb.fff_forward(x, nodes)
