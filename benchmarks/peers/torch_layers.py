"""The tree and dense layers in plain PyTorch, as one writes them without kernels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

import fffnb


def gather(x: Tensor, x_vectors: Tensor, y_vectors: Tensor) -> Tensor:
    """Return y of one tree: rows by indexing, products by einsum, the outputs mixed in one."""
    node = torch.zeros(len(x), dtype=torch.long, device=x.device)
    path, scores = [], []
    for _ in range(fffnb.depth_of(len(x_vectors))):
        score = torch.einsum("bi,bi->b", x, x_vectors[node])
        path.append(node)
        scores.append(score)
        node = 2 * node + 1 + (score > 0).long()
    return torch.einsum("bd,bdo->bo", torch.stack(scores, 1), y_vectors[torch.stack(path, 1)])


def bmm(x: Tensor, x_vectors: Tensor, y_vectors: Tensor) -> Tensor:
    """Return y of one tree: rows by index_select, products by bmm, the outputs mixed by level."""
    node = torch.zeros(len(x), dtype=torch.long, device=x.device)
    y = x.new_zeros(len(x), y_vectors.shape[1])
    for _ in range(fffnb.depth_of(len(x_vectors))):
        rows = x_vectors.index_select(0, node)
        score = torch.bmm(x[:, None, :], rows[:, :, None])[:, 0]
        y = y + score * y_vectors.index_select(0, node)
        node = 2 * node + 1 + (score[:, 0] > 0).long()
    return y


FORMS = {"gather": gather, "bmm": bmm}


class Tree:
    """A tree over a copy of nodes (1, n_nodes, n_in + n_out), by `gather` or by `bmm`."""

    def __init__(self, form: str, nodes: Tensor, n_in: int, lr: float = 1e-6):
        self.function = FORMS[form]
        self.vectors = [
            half.clone(memory_format=torch.contiguous_format).requires_grad_()
            for half in (nodes[0, :, :n_in], nodes[0, :, n_in:])
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

    def gradients(self, x: Tensor, grad_y: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradients of x and of the nodes."""
        grad_x = self.backward(x, grad_y)
        return grad_x, torch.hstack([vectors.grad for vectors in self.vectors])[None]

    def step(self, x: Tensor, grad_y: Tensor) -> None:
        """Do a training step: forward, backward with the gradient of x, SGD."""
        self.backward(x, grad_y)
        self.optimizer.step()


class Dense:
    """Linear layers through these widths, without biases, ReLU between them.

    With `autocast` the products of a training step are of bfloat16, the weights of float32.
    """

    def __init__(self, *widths: int, autocast: bool = False, lr: float = 1e-6, **where: Any):
        layers: list[Any] = []
        for n_in, n_out in pairwise(widths):
            layers += [torch.nn.Linear(n_in, n_out, bias=False, **where), torch.nn.ReLU()]
        self.layers = torch.nn.Sequential(*layers[:-1])
        self.optimizer = torch.optim.SGD(self.layers.parameters(), lr=lr)
        self.autocast = autocast

    def forward(self, x: Tensor) -> Any:
        """Return y without gradients."""
        with torch.no_grad():
            return self.layers(x)

    def step(self, x: Tensor, grad_y: Tensor) -> None:
        """Do a training step: forward, backward with the gradient of x, SGD."""
        self.optimizer.zero_grad()
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.autocast):
            y = self.layers(x.detach().requires_grad_())
        y.backward(grad_y.to(y.dtype))
        self.optimizer.step()


@contextmanager
def tf32() -> Iterator[None]:
    """Let products of float32 matrices round their factors to TF32."""
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")
