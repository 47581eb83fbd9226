"""The op, differentiated by `custom_vjp` once `vmap` has folded what it can.

`_fff_p` is what `fff` stands for in a program. As a primitive of its own, it is folded by `vmap`
before it is differentiated: the gradient of nodes that all samples share is summed by the kernels,
where batching the two halves of a `custom_vjp` would make one array as large as the nodes for each
sample.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from ...ops.arrays import FLOATS, check_nodes_shape, check_shape, output_width
from ...ops.trace import activation_code
from .axes import chosen, for_each, replaced
from .callbacks import backward, forward, forward_traced, output_like

Array = Any


def fff(x: Array, nodes: Array, bias: Array | None = None, *, activation: str = "identity") -> Any:
    """Send samples down the trees and sum what the nodes on their paths say, as `fff_forward`.

    Parameters
    ----------
    x : jax.Array, float32 or float64, shape (..., n_in)
        Samples, any number of leading axes, also none.
    nodes : jax.Array, dtype of x, shape (n_trees, 2**depth - 1, n_in + n_out)
        The forest: see `fffnb.init_nodes`.
    bias : jax.Array, dtype of x, shape (n_trees, 2**depth - 1), optional
        Added to the scores.
    activation : {"identity", "relu", "gelu", "relu2", "silu", "tanh"}
        act; static under `jit`.

    Returns
    -------
    jax.Array, dtype of x, shape (..., n_out)
        The output.

    Raises
    ------
    TypeError, ValueError
        While tracing, if an argument is of a wrong dtype or shape.

    Notes
    -----
    The gradients are those of `fff_backward`, of first order and in reverse mode; that of the nodes
    is as large as the nodes, and is computed where it is asked for alone. `vmap` folds a batch of
    samples into one call; over nodes or biases it loops.

    Examples
    --------
    >>> import jax
    >>> import fffnb
    >>> from fffnb.bridges.jax import fff
    >>> x, nodes = jax.numpy.ones((5, 3)), jax.numpy.array(fffnb.init_nodes(3, 2, depth=4))
    >>> jax.jit(fff)(x, nodes).shape
    (5, 2)
    >>> jax.grad(lambda nodes: fff(x, nodes).sum())(nodes).shape
    (1, 15, 5)
    """
    activation_code(activation)
    nodes = floats("nodes", nodes)
    check_nodes_shape(nodes.shape)
    x = floats("x", x, nodes.dtype)
    if x.ndim == 0 or x.shape[-1] == 0:
        raise ValueError(f"x must have shape (..., n) with n >= 1, got {x.shape}")
    output_width(x.shape[-1], nodes.shape, None)
    if bias is None:
        return _fff_p.bind(x, nodes, activation=activation)
    bias = floats("bias", bias, nodes.dtype)
    check_shape("bias", bias, nodes.shape[:2], "n_trees and n_nodes of nodes")
    return _fff_p.bind(x, nodes, bias, activation=activation)


def floats(name: str, value: Any, dtype: Any = None) -> Any:
    """Return a value as an array of JAX, refused if kernels do not know its dtype."""
    found = getattr(value, "dtype", None)
    if found == np.float64 and not jax.config.jax_enable_x64:
        raise TypeError(
            f"{name} must be float32, got float64, which JAX would cast: "
            "jax.config.update('jax_enable_x64', True) keeps it"
        )
    array = jnp.asarray(value)
    if array.dtype not in FLOATS:
        raise TypeError(f"{name} must be float32 or float64, got {array.dtype}")
    if dtype is not None and array.dtype != dtype:
        raise TypeError(f"{name} must have the dtype of nodes, {dtype}, got {array.dtype}")
    return array


def _fff(activation: str, whole: bool, x: Array, nodes: Array, *bias: Array) -> Any:
    """Return y; its gradients are `whole` or that of x alone."""
    return forward(activation)(x, nodes, *bias)


def _fff_fwd(activation: str, whole: bool, x: Array, nodes: Array, *bias: Array) -> Any:
    y, scores, leaves = forward_traced(activation)(x, nodes, *bias)
    return y, (x, scores, leaves, nodes, bias)


def _fff_bwd(activation: str, whole: bool, residuals: Any, grad_y: Array) -> tuple[Any, ...]:
    *arrays, bias = residuals
    gradients = backward(activation, len(bias) > 0, whole)(grad_y, *arrays)
    return *gradients, *[None] * (2 + len(bias) - len(gradients))


_differentiable = jax.custom_vjp(_fff, nondiff_argnums=(0, 1))
_differentiable.defvjp(_fff_fwd, _fff_bwd)


def _evaluate(x: Array, nodes: Array, *bias: Array, activation: str) -> Any:
    return forward(activation)(x, nodes, *bias)


def _abstract(x: Any, nodes: Any, *bias: Any, activation: str) -> Any:
    result = output_like(x, nodes)
    return jax.core.ShapedArray(result.shape, result.dtype)


def _jvp(primals: Sequence[Any], tangents: Sequence[Any], *, activation: str) -> Any:
    """Leave to `_differentiable` what has a tangent."""
    moves = [type(tangent) is not ad.Zero for tangent in tangents]

    def of_moving(*values: Array) -> Any:
        return _differentiable(activation, any(moves[1:]), *replaced(primals, moves, values))

    return jax.jvp(of_moving, chosen(primals, moves), chosen(tangents, moves))


def _batch(args: Sequence[Any], axes: Sequence[int | None], *, activation: str) -> Any:
    """Fold a batch of samples, loop over one of parameters."""
    args = [
        arg if axis is None else jnp.moveaxis(arg, axis, 0)
        for arg, axis in zip(args, axes, strict=True)
    ]
    batched = [axis is not None for axis in axes]
    size = len(args[batched.index(True)])
    bind = functools.partial(_fff_p.bind, activation=activation)
    return for_each(bind, 1, size, batched, args), 0


_fff_p = Primitive("fff")
_fff_p.def_impl(jax.jit(_evaluate, static_argnames="activation"))
_fff_p.def_abstract_eval(_abstract)
mlir.register_lowering(_fff_p, mlir.lower_fun(_evaluate, multiple_results=False))
batching.primitive_batchers[_fff_p] = _batch
ad.primitive_jvps[_fff_p] = _jvp
