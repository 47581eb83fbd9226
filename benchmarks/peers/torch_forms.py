"""The forms of FFF in plain PyTorch, whose autograd trains them: `numpy_forms`, tree and flat form.

Rows are mixed by one of two functions, `gathered` or `summed`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from . import torch_layers


def gathered(scores: Tensor, rows: Tensor, table: Tensor, *, sparse: bool = False) -> Tensor:
    """Return the sum of score times row of a table, for rows (batch, k) that are gathered."""
    return torch.einsum("bk,bko->bo", scores, functional.embedding(rows, table, sparse=sparse))


def summed(scores: Tensor, rows: Tensor, table: Tensor, *, sparse: bool = False) -> Tensor:
    """Return what `gathered` does, in one kernel."""
    options = {"per_sample_weights": scores, "mode": "sum", "sparse": sparse}
    return functional.embedding_bag(rows, table, **options)


def halves(rows: Tensor, n_in: int) -> tuple[Tensor, Tensor]:
    """Return the x and the y vectors of rows (..., n_in + n_out)."""
    x_vectors, y_vectors = rows.split([n_in, rows.shape[-1] - n_in], dim=-1)
    return x_vectors, y_vectors


def tree(x: Tensor, nodes: Tensor, *, form: str = "gather") -> Tensor:
    """Return y of a tree (1, n_nodes, n_in + n_out), by one of `torch_layers.FORMS`."""
    return torch_layers.FORMS[form](x, *halves(nodes[0], x.shape[1]))


def flat(
    x: Tensor, planes: Tensor, y_vectors: Tensor, *, mix: Callable[..., Tensor] = gathered
) -> Tensor:
    """Return y of the flat form: planes (1, depth, n_in), y vectors of nodes or of patterns."""
    depth, n_rows = planes.shape[1], y_vectors.shape[1]
    scores = x @ planes[0].T
    level = torch.arange(depth, device=x.device)
    leaf = ((scores > 0) * 2 ** (depth - 1 - level)).sum(1, keepdim=True)
    nodes = n_rows == 2**depth - 1
    rows = 2**level - 1 + (leaf >> (depth - level)) if nodes else leaf * depth + level
    return mix(scores, rows, y_vectors[0])


def bag(
    x: Tensor, nodes: Tensor, *, k: int | None, mix: Callable[..., Tensor] = gathered
) -> Tensor:
    """Return y of a bag (1, n_nodes, n_in + n_out); without k it is a dense layer with ReLU."""
    x_vectors, y_vectors = halves(nodes[0], x.shape[1])
    scores = x @ x_vectors.T
    return torch.relu(scores) @ y_vectors if k is None else mix(*scores.topk(k), y_vectors)


def keys(
    x: Tensor,
    keys: Tensor,
    y_vectors: Tensor,
    *,
    k: int,
    mix: Callable[..., Tensor] = summed,
) -> Tensor:
    """Return y of product keys (1, 2, n_keys, n_in / 2); the y vectors have sparse gradients."""
    pairs = zip(x.chunk(2, 1), keys[0], strict=True)
    (first, rows), (second, columns) = ((half @ each.T).topk(k) for half, each in pairs)
    scores, places = (first[:, :, None] + second[:, None]).flatten(1).topk(k)
    nodes = (rows * keys.shape[2])[:, :, None] + columns[:, None]
    return mix(scores, nodes.flatten(1).gather(1, places), y_vectors, sparse=True)


def ends(x: Tensor, routers: Tensor, router_bias: Tensor) -> Tensor:
    """Return the leaf of each sample in a tree of routers, by hard paths."""
    place = torch.zeros(len(x), dtype=torch.long, device=x.device)
    with torch.no_grad():
        for _ in range((routers.shape[1] + 1).bit_length() - 1):
            score = torch.einsum("bi,bi->b", x, routers[0, place]) + router_bias[0, place]
            place = 2 * place + 1 + (score >= 0).long()
    return place - routers.shape[1]


def leaf(
    x: Tensor,
    routers: Tensor,
    leaves: Tensor,
    router_bias: Tensor,
    hidden_bias: Tensor,
    output_bias: Tensor,
    *,
    activation: str = "relu",
) -> Tensor:
    """Return y of a tree of leaves by hard paths: two matrix products for each group of a leaf."""
    place, act = ends(x, routers, router_bias), getattr(functional, activation)
    y = x.new_empty(len(x), output_bias.shape[2])
    for at in place.unique().tolist():
        group = (place == at).nonzero()[:, 0]
        x_vectors, y_vectors = halves(leaves[0, at], x.shape[1])
        hidden = act(x[group] @ x_vectors.T + hidden_bias[0, at])
        y[group] = hidden @ y_vectors + output_bias[0, at]
    return y


def leaf_gathered(
    x: Tensor,
    routers: Tensor,
    leaves: Tensor,
    router_bias: Tensor,
    hidden_bias: Tensor,
    output_bias: Tensor,
    *,
    activation: str = "relu",
) -> Tensor:
    """Return what `leaf` does, the weights of its leaf gathered for each sample."""
    place, act = ends(x, routers, router_bias), getattr(functional, activation)
    x_vectors, y_vectors = halves(leaves[0], x.shape[1])
    hidden = act(torch.einsum("bi,bwi->bw", x, x_vectors[place]) + hidden_bias[0, place])
    return torch.einsum("bw,bwo->bo", hidden, y_vectors[place]) + output_bias[0, place]


def leaf_soft(
    x: Tensor,
    routers: Tensor,
    leaves: Tensor,
    router_bias: Tensor,
    hidden_bias: Tensor,
    output_bias: Tensor,
    *,
    activation: str = "relu",
) -> Tensor:
    """Return the soft y of a tree of leaves: all of them, each by the product of its shares."""
    shares = torch.sigmoid(x @ routers[0].T + router_bias[0])
    weights = arriving(shares)[:, len(routers[0]) :]
    x_vectors, y_vectors = halves(leaves.flatten(0, 2), x.shape[1])
    hidden = getattr(functional, activation)(x @ x_vectors.T + hidden_bias.flatten())
    hidden = hidden * weights.repeat_interleave(leaves.shape[2], 1)
    return hidden @ y_vectors + weights @ output_bias[0]


def tree_soft(x: Tensor, nodes: Tensor) -> Tensor:
    """Return the soft y of a tree (1, n_nodes, n_in + n_out)."""
    x_vectors, y_vectors = halves(nodes[0], x.shape[1])
    scores = x @ x_vectors.T
    inner = nodes.shape[1] // 2  # the nodes that have children
    return (arriving(torch.sigmoid(scores[:, :inner])) * scores) @ y_vectors


def arriving(shares: Tensor) -> Tensor:
    """Return what arrives at each node of a tree and below, of shares that its nodes send right."""
    weights = torch.ones_like(shares[:, :1])
    levels = [weights]
    for level in range((shares.shape[1] + 1).bit_length() - 1):
        right = shares[:, 2**level - 1 : 2 ** (level + 1) - 1]
        weights = torch.stack([weights * (1 - right), weights * right], 2).flatten(1)
        levels.append(weights)
    return torch.cat(levels, 1)


#: The ways to write a form, the one of its name first.
WAYS: dict[str, tuple[Callable[..., Tensor], ...]] = {
    "tree": (tree, functools.partial(tree, form="bmm")),
    "flat": (flat, functools.partial(flat, mix=summed)),
    "bag": (bag, functools.partial(bag, mix=summed)),
    "keys": (keys, functools.partial(keys, mix=gathered)),
    "leaf": (leaf, leaf_gathered),
    "leaf_soft": (leaf_soft,),
    "tree_soft": (tree_soft,),
}


class Form:
    """A layer by one of these functions, over the arrays of parameters themselves."""

    def __init__(
        self, function: Callable[..., Tensor], parameters: list[Any], *, lr: float = 1e-6
    ) -> None:
        self.function = function
        self.parameters = [torch.as_tensor(array).detach().requires_grad_() for array in parameters]
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
