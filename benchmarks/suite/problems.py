"""Seeded problems, built once a process, and how asv times a call on them.

asv runs the suite on old commits too, where the package has less: what only some topics need is
imported where they need it.
"""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import fffnb

Array = NDArray[Any]


class Sizes(NamedTuple):
    """A layer, a batch, and the threads that work on them (None: as many as Numba starts)."""

    n_in: int = 768
    n_out: int = 768
    depth: int = 12
    batch: int = 128
    n_trees: int = 1
    dtype: str = "float32"
    threads: int | None = 2


#: The cases of all topics, by what sets them apart from the first, which is UltraFastBERT's layer.
#: Trees deeper than it are narrow: 2**20 nodes take a gigabyte at 128 → 128.
CASES = {
    "base": Sizes(),
    "batch=1": Sizes(batch=1),
    "batch=16": Sizes(batch=16),
    "batch=1024": Sizes(batch=1024),
    "batch=8192": Sizes(batch=8192),
    "width=128": Sizes(128, 128),
    "width=2048": Sizes(2048, 2048),
    "width=128, depth=8": Sizes(128, 128, depth=8),
    "width=128, depth=16": Sizes(128, 128, depth=16),
    "width=128, depth=20": Sizes(128, 128, depth=20),
    "trees=8, depth=9": Sizes(n_trees=8, depth=9),
    "dtype=float64": Sizes(dtype="float64"),
    "batch=1024, threads=1": Sizes(batch=1024, threads=1),
}

#: The learning rate of timed steps: all work is done, and weights and paths stay what they are.
LR = 0.0

#: Samples compared with the dense reference, and the depth from which it would need gigabytes:
#: there the first levels are compared, as trees of their own.
CHECKED, CHECKED_DEPTH = 64, 12


class Timed:
    """How asv times the calls of a topic.

    There is no `setup`, which asv would repeat before every call, so the first call builds and
    checks the problem. It is a warm-up, but asv would take its time for that of all and never put
    two calls in a sample. So every sample is one call, and there are many.
    """

    number = 1
    repeat = (20, 500, 2.0)
    params: tuple[tuple[str, ...], ...] = (tuple(CASES),)
    param_names: tuple[str, ...] = ("case",)


class Kind(NamedTuple):
    """A kind of array: how to make one from a NumPy array, and the way back."""

    send: Callable[[Array], Any]
    fetch: Callable[[Any], Array]


HOST = Kind(np.asarray, np.asarray)


def rows_of(gradient: Any, kind: Kind) -> tuple[Array, Array]:
    """Return the rows and values of a row gradient, without the tail that it has on a GPU."""
    assert isinstance(gradient, fffnb.RowGradient)
    rows = kind.fetch(gradient.rows)
    return rows[rows >= 0], kind.fetch(gradient.values)[rows >= 0]


class Problem(NamedTuple):
    """A layer, a batch, the gradient that comes back, and the trace."""

    x: Array
    nodes: Array
    grad_y: Array
    trace: fffnb.Trace


@functools.cache
def problem(sizes: Sizes) -> Problem:
    """Return a problem whose paths spread over the trees."""
    n_in, n_out, depth, batch, n_trees, dtype, threads = sizes
    if threads is not None:
        import numba

        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
    rng = np.random.default_rng(0)
    real: Any = np.dtype(dtype)
    x = rng.standard_normal((batch, n_in), real)
    nodes = draw_nodes(n_in, n_out, depth, rng, n_trees=n_trees, dtype=dtype)
    grad_y = rng.standard_normal((batch, n_out), real)
    return Problem(x, nodes, grad_y, fffnb.fff_forward(x, nodes, return_trace=True)[1])


def draw_nodes(
    n_in: int,
    n_out: int,
    depth: int,
    rng: np.random.Generator,
    *,
    n_trees: int = 1,
    dtype: str = "float32",
) -> Array:
    """Return nodes without a second copy of them, which a deep tree could not afford.

    Their memory starts on a cache line, as that of `fffnb.init_nodes` does.
    """
    shape = (n_trees, 2**depth - 1, n_in + n_out)
    real: Any = np.dtype(dtype)
    line = 64 // real.itemsize
    nodes: Array = np.empty(math.prod(shape) + line, real)
    start = -nodes.ctypes.data // real.itemsize % line
    nodes = nodes[start : start + math.prod(shape)].reshape(shape)
    rng.random(dtype=real, out=nodes)
    nodes -= 0.5
    nodes *= real.type((12 / n_in) ** 0.5)
    return nodes


def top_levels(nodes: Array, depth: int) -> Array:
    """Return the levels of a forest that are compared with the reference."""
    return np.ascontiguousarray(nodes[:, : 2 ** min(depth, CHECKED_DEPTH) - 1])


def clear_samples(x: Array, nodes: Array) -> Array:
    """Return which samples come nowhere so near to a decision that rounding could turn it."""
    from fffnb.reference import tree as reference

    return ~reference.forward(x, nodes).ambiguous(float(np.finfo(np.float32).eps))


def assert_close(found: Any, right: Array, bound: float = 1e-5) -> None:
    """Raise AssertionError where two results differ by more than rounding explains."""
    assert found.shape == right.shape, f"got {found.shape}, right is {right.shape}"
    error, size = np.linalg.norm(found - right), np.linalg.norm(right)
    assert error <= bound * size, f"error {error:.3g} exceeds {bound:.3g} of {size:.3g}"


def check(x: Array, nodes: Array, grad_y: Array, kind: Kind = HOST, bound: float = 1e-5) -> None:
    """Raise AssertionError where forward or backward on a kind of array differ from the truth."""
    from fffnb.reference import tree as reference

    clear = clear_samples(x, nodes)
    x, grad_y = x[clear], grad_y[clear]
    right = (reference.forward(x, nodes).y, *reference.backward(grad_y, x, nodes)[:2])
    x, nodes, grad_y = map(kind.send, (x, nodes, grad_y))
    y, trace = fffnb.fff_forward(x, nodes, return_trace=True)
    grads = fffnb.fff_backward(grad_y, x, nodes, trace)
    for found, wanted in zip((y, grads.x, grads.nodes), right, strict=True):
        assert_close(kind.fetch(found), wanted, bound)


def skipped(reason: str) -> Exception:
    """Return what asv counts as a skipped benchmark where it is raised."""
    error: type[Exception] = importlib.import_module(
        "asv_runner.benchmarks.mark"
    ).SkipNotImplemented
    return error(reason)


def sgd(lr: float) -> fffnb.UpdateRule:
    """Return the rule of plain SGD."""
    numbers = {"lr": lr, "momentum": 0.0, "weight_decay": 0.0, "nesterov": 0.0}
    return fffnb.UpdateRule("sgd", numbers, {})
