"""The forms of `numpy_forms` in plain PyTorch, whose autograd trains them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag


def bag(x: Tensor, nodes: Tensor, *, k: int) -> Tensor:
    """Return y of a bag (1, n_nodes, n_in + n_out)."""
    x_vectors, y_vectors = nodes[0, :, : x.shape[1]], nodes[0, :, x.shape[1] :]
    scores, chosen = (x @ x_vectors.T).topk(k)
    return torch.einsum("bk,bko->bo", scores, y_vectors[chosen])


def keys(x: Tensor, keys: Tensor, y_vectors: Tensor, *, k: int) -> Tensor:
    """Return y of product keys (1, 2, n_keys, n_in / 2); the y vectors have sparse gradients."""
    halves = zip(x.chunk(2, 1), keys[0], strict=True)
    (first, rows), (second, columns) = ((half @ each.T).topk(k) for half, each in halves)
    scores, pairs = (first[:, :, None] + second[:, None]).flatten(1).topk(k)
    nodes = (rows * keys.shape[2])[:, :, None] + columns[:, None]
    chosen = nodes.flatten(1).gather(1, pairs)
    return embedding_bag(chosen, y_vectors, per_sample_weights=scores, mode="sum", sparse=True)


def leaf(
    x: Tensor,
    routers: Tensor,
    leaves: Tensor,
    router_bias: Tensor,
    hidden_bias: Tensor,
    output_bias: Tensor,
) -> Tensor:
    """Return y of a tree of leaves by hard paths: two matrix products for each group of a leaf."""
    place = torch.zeros(len(x), dtype=torch.long, device=x.device)
    for _ in range(len(leaves[0]).bit_length() - 1):
        score = torch.einsum("bi,bi->b", x, routers[0, place]) + router_bias[0, place]
        place = 2 * place + 1 + (score >= 0).long()
    place -= len(routers[0])
    y = x.new_empty(len(x), output_bias.shape[2])
    for at in place.unique().tolist():
        group = (place == at).nonzero()[:, 0]
        x_vectors, y_vectors = leaves[0, at, :, : x.shape[1]], leaves[0, at, :, x.shape[1] :]
        hidden = torch.relu(x[group] @ x_vectors.T + hidden_bias[0, at])
        y[group] = hidden @ y_vectors + output_bias[0, at]
    return y


def leaf_soft(
    x: Tensor,
    routers: Tensor,
    leaves: Tensor,
    router_bias: Tensor,
    hidden_bias: Tensor,
    output_bias: Tensor,
) -> Tensor:
    """Return the soft y of a tree of leaves: all of them, each by the product of its shares."""
    shares = torch.sigmoid(x @ routers[0].T + router_bias[0])
    weights = arriving(shares)[:, len(routers[0]) :]
    rows = leaves.flatten(0, 2)
    hidden = torch.relu(x @ rows[:, : x.shape[1]].T + hidden_bias.flatten())
    hidden = hidden * weights.repeat_interleave(leaves.shape[2], 1)
    return hidden @ rows[:, x.shape[1] :] + weights @ output_bias[0]


def tree_soft(x: Tensor, nodes: Tensor) -> Tensor:
    """Return the soft y of a tree (1, n_nodes, n_in + n_out)."""
    scores = x @ nodes[0, :, : x.shape[1]].T
    inner = nodes.shape[1] // 2  # the nodes that have children
    return (arriving(torch.sigmoid(scores[:, :inner])) * scores) @ nodes[0, :, x.shape[1] :]


def arriving(shares: Tensor) -> Tensor:
    """Return what arrives at each node of a tree and below, of shares that its nodes send right."""
    weights = torch.ones_like(shares[:, :1])
    levels = [weights]
    for level in range((shares.shape[1] + 1).bit_length() - 1):
        right = shares[:, 2**level - 1 : 2 ** (level + 1) - 1]
        weights = torch.stack([weights * (1 - right), weights * right], 2).flatten(1)
        levels.append(weights)
    return torch.cat(levels, 1)


class Form:
    """A layer by one of these functions, over the arrays of parameters themselves."""

    def __init__(
        self, function: Callable[..., Tensor], parameters: list[Any], *, lr: float = 1e-6
    ) -> None:
        self.function = function
        self.parameters = [torch.as_tensor(array).requires_grad_() for array in parameters]
        self.optimizer = torch.optim.SGD(self.parameters, lr=lr)

    def forward(self, x: Tensor) -> Tensor:
        """Return y without gradients."""
        with torch.no_grad():
            return self.function(x, *self.parameters)

    def gradients(self, x: Tensor, grad_y: Tensor) -> list[Tensor | None]:
        """Return the gradients of x and of the parameters."""
        self.optimizer.zero_grad()
        leaf = x.detach().requires_grad_()
        self.function(leaf, *self.parameters).backward(grad_y)
        return [leaf.grad, *(parameter.grad for parameter in self.parameters)]

    def step(self, x: Tensor, grad_y: Tensor) -> None:
        """Do a training step: forward, backward with the gradient of x, SGD."""
        self.gradients(x, grad_y)
        self.optimizer.step()
