"""The tree and the linear layer in plain PyTorch, as one writes them without kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import fffnb

Array = NDArray[Any]


def gather(x: Tensor, x_vectors: Tensor, y_vectors: Tensor) -> Tensor:
    """Return y of one tree: rows by indexing, products by einsum, the outputs mixed in one."""
    node = torch.zeros(len(x), dtype=torch.long)
    path, scores = [], []
    for _ in range(fffnb.depth_of(len(x_vectors))):
        score = torch.einsum("bi,bi->b", x, x_vectors[node])
        path.append(node)
        scores.append(score)
        node = 2 * node + 1 + (score > 0).long()
    return torch.einsum("bd,bdo->bo", torch.stack(scores, 1), y_vectors[torch.stack(path, 1)])


def bmm(x: Tensor, x_vectors: Tensor, y_vectors: Tensor) -> Tensor:
    """Return y of one tree: rows by index_select, products by bmm, the outputs mixed by level."""
    node = torch.zeros(len(x), dtype=torch.long)
    y = x.new_zeros(len(x), y_vectors.shape[1])
    for _ in range(fffnb.depth_of(len(x_vectors))):
        rows = x_vectors.index_select(0, node)
        score = torch.bmm(x[:, None, :], rows[:, :, None])[:, 0]
        y = y + score * y_vectors.index_select(0, node)
        node = 2 * node + 1 + (score[:, 0] > 0).long()
    return y


class Tree:
    """A tree over a copy of nodes (1, n_nodes, n_in + n_out), by `gather` or by `bmm`."""

    def __init__(self, form: str, nodes: Array, n_in: int, lr: float = 1e-6):
        self.function = {"gather": gather, "bmm": bmm}[form]
        self.vectors = [
            torch.tensor(half[0], requires_grad=True) for half in fffnb.split_nodes(nodes, n_in)
        ]
        self.optimizer = torch.optim.SGD(self.vectors, lr=lr)

    def forward(self, x: Tensor) -> Tensor:
        """Return y without gradients."""
        with torch.no_grad():
            return self.function(x, *self.vectors)

    def backward(self, x: Tensor, grad_y: Tensor) -> Tensor:
        """Set the gradients of the vectors, return that of x."""
        self.optimizer.zero_grad()
        leaf = x.detach().requires_grad_()
        self.function(leaf, *self.vectors).backward(grad_y)
        assert leaf.grad is not None
        return leaf.grad

    def gradient(self) -> Array:
        """Return the gradient of the nodes (1, n_nodes, n_in + n_out)."""
        return np.asarray(torch.hstack([vectors.grad for vectors in self.vectors])[None])

    def step(self, x: Tensor, grad_y: Tensor) -> None:
        """Do a training step: forward, backward with the gradient of x, SGD."""
        self.backward(x, grad_y)
        self.optimizer.step()


class Linear:
    """A linear layer n_in → n_out."""

    def __init__(self, n_in: int, n_out: int):
        self.layer = torch.nn.Linear(n_in, n_out)

    def forward(self, x: Tensor) -> Any:
        """Return y without gradients."""
        with torch.no_grad():
            return self.layer(x)
