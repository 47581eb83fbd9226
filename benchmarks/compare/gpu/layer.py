"""A layer on the GPU, its inputs, and the truth about them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

import fffnb

from ...suite.problems import CHECKED, CHECKED_DEPTH, Kind, check
from ..cases import Case
from .device import GPU, cache_bytes

#: The inputs of a case rotate over this many times the second-level cache, the most that do.
ROTATE_CACHES, ROTATE_MOST = 4, 256

#: Numbers of the nodes that are compared with the dense reference.
REFERENCE_SIZE = 2**25

#: Relative errors that are taken for rounding: fffnb by storage, and peers.
BOUNDS = {torch.float32: 2e-6, torch.bfloat16: 1e-2}
PEER_BOUND = 1e-5

TENSORS = Kind(
    send=lambda array: torch.from_numpy(array).to(GPU), fetch=lambda tensor: tensor.cpu().numpy()
)

Made = TypeVar("Made")


class Layer(NamedTuple):
    """Nodes (1, n_nodes, n_in + n_out), inputs (n, batch, n_in) that rotate, and grad_y."""

    nodes: Tensor
    inputs: Tensor
    grad_y: Tensor


def draw(case: Case) -> Layer:
    """Return a layer whose paths spread over the tree, the top checked against the reference."""
    generator = torch.Generator(GPU).manual_seed(0)
    shape = (1, 2**case.depth - 1, case.n_in + case.n_out)
    nodes = torch.rand(shape, generator=generator, device=GPU)
    nodes -= 0.5
    nodes *= (12 / case.n_in) ** 0.5
    n = ROTATE_CACHES * cache_bytes() // (4 * case.batch * case.n_in) + 1
    shape = (max(2, min(ROTATE_MOST, n)), case.batch, case.n_in)
    inputs = torch.randn(shape, generator=generator, device=GPU)
    grad_y = torch.randn((case.batch, case.n_out), generator=generator, device=GPU)
    _check_top(nodes, inputs)
    return Layer(nodes, inputs, grad_y)


def _check_top(nodes: Tensor, inputs: Tensor) -> None:
    """Raise AssertionError where fffnb differs from the reference on the first levels."""
    n_in, width = inputs.shape[2], nodes.shape[2]
    levels = min(CHECKED_DEPTH, (REFERENCE_SIZE // width).bit_length() - 1)
    x = inputs.reshape(-1, n_in)[:CHECKED].cpu().numpy()
    grad_y = np.random.default_rng(2).standard_normal((len(x), width - n_in), np.float32)
    top = nodes[:, : 2**levels - 1].cpu().numpy()
    check(x, top, grad_y, TENSORS, BOUNDS[torch.float32])


class Truth(NamedTuple):
    """The output in float64, and which samples come nowhere near to another path."""

    y: Tensor
    clear: Tensor

    def check(self, y: Tensor, bound: float) -> None:
        """Raise AssertionError where clear samples differ by more than `bound`."""
        assert_near(y[self.clear], self.y[self.clear], bound)


def truth(x: Tensor, nodes: Tensor) -> Truth:
    """Walk down one tree in float64, whatever x and nodes are stored in."""
    x, n_in = x.double(), x.shape[1]
    node = torch.zeros(len(x), dtype=torch.long, device=x.device)
    y = x.new_zeros(len(x), nodes.shape[2] - n_in)
    clear = torch.ones(len(x), dtype=torch.bool, device=x.device)
    for _ in range(fffnb.depth_of(nodes.shape[1])):
        rows = nodes[0, node].double()
        terms = x * rows[:, :n_in]
        score = terms.sum(1)
        clear &= score.abs() > 16 * torch.finfo(torch.float32).eps * terms.abs().sum(1)
        y += score[:, None] * rows[:, n_in:]
        node = 2 * node + 1 + (score > 0).long()
    return Truth(y, clear)


def assert_near(found: Tensor, right: Tensor, bound: float) -> None:
    """Raise AssertionError where the relative RMS error exceeds `bound`."""
    assert found.shape == right.shape, f"got {found.shape}, right is {right.shape}"
    error, size = float((found - right).norm()), float(right.norm())
    assert error <= bound * size, f"error {error:.3g} exceeds {bound:.3g} of {size:.3g}"


def leaves(layer: Layer) -> np.ndarray[tuple[int, ...], np.dtype[np.int32]]:
    """Return the leaves of all inputs, (n, batch, 1)."""
    found: Tensor = fffnb.fff_forward(layer.inputs, layer.nodes, return_trace=True)[1].leaves
    return np.asarray(found.cpu().numpy())


def attempt(
    remarks: list[str], column: str, refusal: type[Exception], make: Callable[[], Made]
) -> Made | None:
    """Return what `make` makes, or None with a remark where it is refused."""
    try:
        return make()
    except refusal as error:
        remarks.append(f"{column}: {type(error).__name__}: {error}")
        return None
