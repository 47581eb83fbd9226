"""The forest as UltraFastBERT computes it: the scores of all nodes, and a 0/1 mask of the paths."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import gelu

import fffnb


class Masked(torch.nn.Module):  # type: ignore[misc]
    """A forest with GELU as two linear layers over all of its nodes, by UltraFastBERT's names."""

    def __init__(self, n_in: int, n_out: int, depth: int, n_trees: int = 1) -> None:
        super().__init__()
        self.shape = n_trees, fffnb.count_nodes(depth)
        neurons = n_trees * self.shape[1]
        self.linear_in = torch.nn.Linear(n_in, neurons)
        self.linear_out = torch.nn.Linear(neurons, n_out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return y (..., n_out)."""
        scores = self.linear_in(x).unflatten(-1, self.shape)
        return self.linear_out((gelu(scores) * path_mask(scores)).flatten(-2))


def path_mask(scores: Tensor) -> Tensor:
    """Return which nodes of each tree a sample visits, bool (..., n_trees, n_nodes)."""
    right = scores > 0
    here = torch.ones_like(right[..., :1])
    levels = [here]
    for level in range(fffnb.depth_of(scores.shape[-1]) - 1):
        turn = right[..., 2**level - 1 : 2 ** (level + 1) - 1]
        here = torch.stack((here & ~turn, here & turn), -1).flatten(-2)
        levels.append(here)
    return torch.cat(levels, -1)
