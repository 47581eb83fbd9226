"""The networks that PyTorch trains on CIFAR-10: the original LeNet, and a small ViT."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.utils.parametrize

from fffnb import nn
from fffnb.bridges import convert

from .models import Shared, Words, make_layer
from .train import IMAGES
from .work import Work, work

IMAGE = IMAGES["cifar10"]

#: What two convolutions and poolings of LeNet leave of an image, and the widths that follow.
HEAD = (400, 120, 84, 10)

#: The ViT of arXiv:2308.14711: pixels of a patch's side, width, blocks; and heads of attention.
PATCH, WIDTH, BLOCKS, HEADS = 4, 128, 4, 4


def build(words: Words, seed: int) -> tuple[torch.nn.Module, Work]:
    """Return a network, "net", whose layers are of a form, and what these layers read."""
    options = dict(words)
    net = {"lenet": lenet, "vit": vit}[options.pop("net")]
    torch.manual_seed(seed)
    return net(options, np.random.default_rng(seed))


def lenet(words: Words, rng: np.random.Generator) -> tuple[torch.nn.Module, Work]:
    """Return the convolutions of the original project and a head of three layers of a form."""
    layers: list[nn.Layer] = []
    for widths in pairwise(HEAD):
        layers += [nn.ReLU(), make_layer(words, *widths, rng)]
    head = nn.Sequential(*layers[1:])
    network = torch.nn.Sequential(
        torch.nn.Unflatten(1, IMAGE),
        *(torch.nn.Conv2d(3, 6, 5), torch.nn.ReLU(), torch.nn.MaxPool2d(2)),
        *(torch.nn.Conv2d(6, 16, 5), torch.nn.ReLU(), torch.nn.MaxPool2d(2)),
        torch.nn.Flatten(),
        module(head),
    )
    return network, work(head)


def vit(words: Words, rng: np.random.Generator) -> tuple[torch.nn.Module, Work]:
    """Return a ViT whose blocks have a layer of a form in the place of their two dense layers."""
    layers = [make_layer(words, WIDTH, WIDTH, rng) for _ in range(BLOCKS)]
    blocks = []
    for layer in layers:
        block = torch.nn.TransformerEncoderLayer(
            WIDTH, HEADS, 1, dropout=0.0, activation=_same, batch_first=True, norm_first=True
        )
        block.linear1, block.linear2 = module(layer), torch.nn.Identity()
        blocks.append(block)
    n_patches = (IMAGE[1] // PATCH) * (IMAGE[2] // PATCH)
    network = torch.nn.Sequential(
        torch.nn.Unflatten(1, IMAGE),
        torch.nn.Conv2d(3, WIDTH, PATCH, PATCH),
        torch.nn.Flatten(2),
        _Places(WIDTH, n_patches),
        *blocks,
        torch.nn.LayerNorm(WIDTH),
        torch.nn.Flatten(),
        torch.nn.Linear(WIDTH * n_patches, 10),
    )
    count = Work()
    for layer in layers:
        count = count.plus(work(layer))
    return network, count


class _Places(torch.nn.Module):  # type: ignore[misc]
    """Patches (batch, width, n_patches) as tokens, each with a learned vector of its place."""

    def __init__(self, width: int, n_patches: int) -> None:
        super().__init__()
        self.places = torch.nn.Parameter(0.02 * torch.randn(n_patches, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return tokens (batch, n_patches, width)."""
        return x.transpose(1, 2) + self.places


def _same(x: torch.Tensor) -> torch.Tensor:
    """Return what the layer of a form has computed, as the block's activation."""
    return x


def module(layer: nn.Layer) -> Any:
    """Return a layer as a module of PyTorch."""
    if isinstance(layer, nn.Sequential):
        return torch.nn.Sequential(*(module(each) for each in layer.layers))
    if isinstance(layer, nn.ReLU):
        return torch.nn.ReLU()
    if isinstance(layer, nn.Linear):
        linear = torch.nn.Linear(layer.n_in, layer.n_out)
        linear.load_state_dict(
            {name: torch.from_numpy(each.T.copy()) for name, each in layer.parameters.items()}
        )
        return linear
    if isinstance(layer, Shared):
        plain: Any = convert(layer.plain(), "torch")
        rows = layer._arrays[-1]
        torch.nn.utils.parametrize.register_parametrization(plain, rows, _SharedRows(layer))
        return plain
    return convert(layer, "torch")


class _SharedRows(torch.nn.Module):  # type: ignore[misc]
    """Rows as the sum of their own and one of their level: see `models.Shared`."""

    def __init__(self, layer: Shared) -> None:
        super().__init__()
        self.firsts = layer.firsts.tolist()
        self.register_buffer("levels", torch.from_numpy(layer.levels))

    def forward(self, own: torch.Tensor, shared: torch.Tensor) -> torch.Tensor:
        """Return the rows."""
        return own + shared[:, self.levels]

    def right_inverse(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return both parts as training begins."""
        return torch.zeros_like(rows), rows[:, self.firsts].clone()
