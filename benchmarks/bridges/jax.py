"""What calls through JAX cost: forward, and forward with the gradients, under `jit`.

768 → 768, depth 12, float32, one tree; batches of 1 and 1024. "pure_callback" is the forward pass
in JAX's callback for functions of NumPy arrays, which copies the nodes; "plain JAX" is a tree
without our kernels. NumPy's gradients are those of visited rows or the dense ones; JAX has only
these. Outputs are checked first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import fffnb
from fffnb.bridges.jax import fff

from ..peers import jax_tree
from ..suite.problems import Problem, Sizes, assert_close, problem
from ..suite.truth import Truth
from . import medians

Calls = dict[str, Callable[[], Any]]

#: The calls of JAX that take longest, which would leave nothing of the others in the caches.
SLOW = ("pure_callback", "plain JAX")


def main() -> None:
    """Print the times, and how many times as long as NumPy's they are."""
    for batch in (1, 1024):
        given = problem(Sizes(batch=batch, threads=None))
        truth = Truth(given.x, given.nodes, given.trace.leaves)
        show(f"forward, batch {batch}", forward_calls(given, truth))
        show(f"forward and gradients, batch {batch}", gradient_calls(given, truth))


def show(title: str, calls: Calls) -> None:
    """Print the medians of some calls, in ms and beside that of the first."""
    seconds = medians(calls, slow=tuple(name for name in calls if name in SLOW))
    first = next(iter(seconds.values()))
    print(f"{title:36}        ms  × {next(iter(seconds))}")
    for name, each in seconds.items():
        print(f"  {name:34}  {1e3 * each:8.3f}  {each / first:8.2f}")


def forward_calls(given: Problem, truth: Truth) -> Calls:
    """Return the forward passes, checked."""
    x, nodes = jax.numpy.array(given.x), jax.numpy.array(given.nodes)
    jitted, copying = jax.jit(fff), jax.jit(in_pure_callback)
    plain = jax_tree.Tree(given.nodes, given.x.shape[1])
    calls: Calls = {
        "NumPy": lambda: fffnb.fff_forward(given.x, given.nodes),
        "jit": lambda: jitted(x, nodes).block_until_ready(),
        "pure_callback": lambda: copying(x, nodes).block_until_ready(),
        "plain JAX": lambda: plain.forward(x),
    }
    for call in calls.values():
        assert_close(np.asarray(call()), truth.y, truth.bound)
    return calls


def in_pure_callback(x: Any, nodes: Any) -> Any:
    """Return the output, by JAX's callback for functions of NumPy arrays."""
    shape = jax.ShapeDtypeStruct((*x.shape[:-1], nodes.shape[2] - x.shape[-1]), x.dtype)

    def forward(x: Any, nodes: Any) -> Any:
        return fffnb.fff_forward(np.asarray(x), np.asarray(nodes))

    return jax.pure_callback(forward, shape, x, nodes)


def gradient_calls(given: Problem, truth: Truth) -> Calls:
    """Return forward passes with gradients of x and nodes, checked."""
    x, nodes, grad_y = map(jax.numpy.array, (given.x, given.nodes, given.grad_y))
    both, of_x = jax.jit(gradients), jax.jit(gradient_of_x)
    plain = jax_tree.Tree(given.nodes, given.x.shape[1])

    def in_numpy(sparse: bool) -> Any:
        _, trace = fffnb.fff_forward(given.x, given.nodes, return_trace=True)
        return fffnb.fff_backward(given.grad_y, given.x, given.nodes, trace, sparse=sparse)

    calls: Calls = {
        "NumPy, dense": lambda: in_numpy(False),
        "NumPy, rows": lambda: in_numpy(True),
        "jit": lambda: jax.block_until_ready(both(x, nodes, grad_y)),
        "jit, of x alone": lambda: jax.block_until_ready(of_x(x, nodes, grad_y)),
        "plain JAX": lambda: plain.gradients(x, grad_y),
    }
    grad_x, grad_rows = truth.gradients(given.grad_y)
    for name in ("NumPy, dense", "jit", "plain JAX"):
        found = calls[name]()
        assert_close(np.asarray(found[0]), grad_x, truth.bound)
        assert_close(np.asarray(found[1])[0][truth.rows], grad_rows, truth.bound)
    assert_close(np.asarray(calls["jit, of x alone"]()), grad_x, truth.bound)
    return calls


def gradients(x: Any, nodes: Any, grad_y: Any) -> Any:
    """Return the gradients of x and nodes."""
    return jax.vjp(fff, x, nodes)[1](grad_y)


def gradient_of_x(x: Any, nodes: Any, grad_y: Any) -> Any:
    """Return the gradient of x alone."""
    return jax.vjp(lambda x: fff(x, nodes), x)[1](grad_y)[0]
