"""Trees in PyTorch, JAX and plain Numba: checked against fffnb, then timed."""

from __future__ import annotations

import functools
import gc
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

import fffnb

from ...peers import installed
from ...suite.problems import CHECKED, assert_close, clear_samples, top_levels
from .layer import Array, Layer
from .timing import timed


class Peer(NamedTuple):
    """A tree of another library.

    Attributes
    ----------
    name : str
        Its column.
    make : function
        Makes the tree from nodes and n_in.
    send : function
        Makes the library's array from a NumPy array.
    """

    name: str
    make: Callable[[Array, int], Any]
    send: Callable[[Array], Any]


def peers() -> Iterator[Peer]:
    """Yield the trees whose libraries are installed."""
    if installed("torch"):
        import torch

        from ...peers import torch_layers

        for form in torch_layers.FORMS:
            yield Peer(form, functools.partial(torch_tree, form), torch.from_numpy)
    if installed("jax"):
        import jax

        jax.config.update("jax_platforms", "cpu")  # or it would take a GPU, if there is one

        from ...peers import jax_tree

        yield Peer("jax", jax_tree.Tree, jax.numpy.asarray)
    from ...peers import numba_tree

    yield Peer("numba", numba_tree.Tree, np.asarray)


def torch_tree(form: str, nodes: Array, n_in: int) -> Any:
    """Return a tree in PyTorch."""
    import torch

    from ...peers import torch_layers

    return torch_layers.Tree(form, torch.from_numpy(nodes), n_in)


def seconds(layer: Layer, *, compiled: bool) -> dict[str, float]:
    """Return the times of all trees, forward and training step."""
    nodes, inputs, grad_y = layer
    n_in = inputs.shape[2]
    top = top_levels(nodes, fffnb.depth_of(nodes.shape[1]))
    times: dict[str, float] = {}
    for name, make, send in peers():
        check_gradients(make(top, n_in), send, inputs[0, :CHECKED], grad_y[:CHECKED], top)
        tree = make(nodes, n_in)
        turn = itertools.cycle([send(x) for x in inputs])
        check_forward(tree, send, layer)
        times[name] = timed(tree.forward, turn)
        times[f"{name}_step"] = timed(functools.partial(tree.step, grad_y=send(grad_y)), turn)
        del tree
        gc.collect()  # gigabytes
    if compiled:
        times["compiled"] = compiled_seconds(layer, min(("gather", "bmm"), key=times.__getitem__))
    return times


def compiled_seconds(layer: Layer, form: str) -> float:
    """Return the time of a tree in PyTorch by torch.compile."""
    import torch

    tree = torch_tree(form, layer.nodes, layer.inputs.shape[2])
    torch.compiler.reset()  # it gives up after a few shapes
    tree.function = torch.compile(tree.function)
    check_forward(tree, torch.from_numpy, layer)
    return timed(tree.forward, itertools.cycle(torch.from_numpy(layer.inputs)))


def check_forward(tree: Any, send: Callable[[Array], Any], layer: Layer) -> None:
    """Raise AssertionError where a tree and fffnb differ on the samples with clear paths."""
    x = layer.inputs[0]
    y, trace = fffnb.fff_forward(x, layer.nodes, return_trace=True)
    clear = clear_paths(x, layer.nodes, trace)
    assert_close(np.asarray(tree.forward(send(x)))[clear], y[clear])


def check_gradients(
    tree: Any, send: Callable[[Array], Any], x: Array, grad_y: Array, nodes: Array
) -> None:
    """Raise AssertionError where a tree and fffnb differ in y or a gradient."""
    clear = clear_samples(x, nodes)
    x, grad_y = x[clear], grad_y[clear]
    y, trace = fffnb.fff_forward(x, nodes, return_trace=True)
    grads = fffnb.fff_backward(grad_y, x, nodes, trace)
    grad_x, grad_nodes = tree.gradients(send(x), send(grad_y))
    assert_close(np.asarray(tree.forward(send(x))), y)
    assert_close(np.asarray(grad_x), grads.x)
    assert_close(grads.nodes, np.asarray(grad_nodes))


def clear_paths(x: Array, nodes: Array, trace: fffnb.Trace) -> Array:
    """Return which samples come nowhere near to another path, from the scores on theirs."""
    x_vectors = nodes[0, :, : x.shape[1]]
    depth = trace.scores.shape[-1]
    level = np.arange(depth)
    path = (trace.leaves >> (depth - level)) + 2**level - 1
    norms = np.sqrt(np.einsum("ni,ni->n", x_vectors, x_vectors))
    sizes = np.linalg.norm(x, axis=1)[:, None] * norms[path]
    clear = np.abs(trace.scores[:, 0]) > 16 * np.finfo(np.float32).eps * sizes
    return np.asarray(clear.all(axis=1))
