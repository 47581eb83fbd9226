"""A training step through PyTorch: forward, backward with the gradient of x, SGD.

768 → 768, depth 12, float32, one tree. All that is timed is checked first, and works on the same
nodes, which a learning rate of zero leaves as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from fffnb import nn
from fffnb.bridges.torch import FFF, SGD

from ..peers import torch_layers
from ..suite.problems import LR, Problem, Sizes, assert_close, problem
from ..suite.step import fused_step, step_with_rows
from ..suite.truth import Truth, check_step
from . import medians

BATCHES = (1024, 128)


def main() -> None:
    """Print the times, and how many times as long as NumPy's fused step they take."""
    for batch in BATCHES:
        seconds = measure(Sizes(batch=batch))
        base = next(iter(seconds.values()))
        print(f"batch {batch:<18}        ms  × NumPy")
        for name, each in seconds.items():
            print(f"{name:24}  {1e3 * each:8.2f}  {each / base:7.2f}")


def measure(sizes: Sizes) -> dict[str, float]:
    """Return the times of all steps on a batch, NumPy's fused one first."""
    given = problem(sizes)
    truth = Truth(given.x, given.nodes, given.trace.leaves)
    calls: dict[str, Callable[[], object]] = {
        "NumPy, backward_update": fused_step(sizes),
        "NumPy, row gradient": step_with_rows(sizes),
        "rows, in_backward=True": torch_step(given, truth, "rows", SGD, in_backward=True),
        "rows": torch_step(given, truth, "rows", SGD),
        "dense": torch_step(given, truth, "dense", torch.optim.SGD),
        **{f"plain PyTorch, {form}": plain_step(given, truth, form) for form in torch_layers.FORMS},
    }
    return medians(calls, slow=tuple(name for name in calls if name.startswith("plain")))


def torch_step(
    given: Problem, truth: Truth, gradient: Any, make: Any, **options: Any
) -> Callable[[], object]:
    """Return a step of our layer, checked."""
    layer = FFF.from_numpy(nn.FFF.of(given.x.shape[1], "identity", given.nodes), gradient=gradient)
    layer.nodes = torch.nn.Parameter(torch.from_numpy(given.nodes))
    optimizer = make(layer.parameters(), lr=LR, **options)
    x, grad_y = torch.from_numpy(given.x), torch.from_numpy(given.grad_y)

    def step(lr: float = LR) -> tuple[Any, Any]:
        optimizer.param_groups[0]["lr"] = lr
        optimizer.zero_grad()
        leaf = x.detach().requires_grad_()
        y = layer(leaf)
        y.backward(grad_y)
        optimizer.step()
        return y.detach(), leaf.grad

    y, grad_x = step()
    assert_close(y.numpy(), truth.y, truth.bound)
    assert_close(grad_x.numpy(), truth.gradients(given.grad_y)[0], truth.bound)
    check_step(step, truth, given.nodes, given.grad_y)
    return step


def plain_step(given: Problem, truth: Truth, form: str) -> Callable[[], object]:
    """Return a step of a tree in plain PyTorch, checked."""
    tree = torch_layers.Tree(form, torch.from_numpy(given.nodes), given.x.shape[1])
    x, grad_y = torch.from_numpy(given.x), torch.from_numpy(given.grad_y)
    assert_close(tree.forward(x).numpy(), truth.y, truth.bound)
    grad_x, grad_nodes = tree.gradients(x, grad_y)
    right = truth.gradients(given.grad_y)
    assert_close(grad_x.numpy(), right[0], truth.bound)
    assert_close(grad_nodes[0].numpy()[truth.rows], right[1], truth.bound)
    return lambda: tree.step(x, grad_y)
