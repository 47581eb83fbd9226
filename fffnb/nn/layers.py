"""Layers with explicit forward and backward passes, on NumPy arrays or those of another library."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike

from ..init import init_nodes
from ..nodes import check_dtype, check_size, default_depth
from ..ops.paths import check_temperature
from ..ops.straight import straight_through as straight_gradient
from ..ops.trace import Trace
from ..ops.tree import fff_backward, fff_backward_update, fff_forward
from .form_layer import TreeLayer
from .layer import Array, Gradients, Layer, Observer, Several
from .namespace import cast, namespace_of, ndtr
from .optimizer import Optimizer


class FFF(TreeLayer):
    """Fast FeedForward layer: a forest of which each sample visits one path a tree.

    Parameters
    ----------
    n_in, n_out : int
        Widths of the input and of the output.
    depth : int, optional
        Levels of each tree; by default `default_depth` of n_in.
    n_trees : int, default 1
        Number of trees.
    activation : str, default "identity"
        act on the score of a node: see `fff_forward`.
    bias : bool, default False
        Give each node a bias, zero at first.
    straight_through : float, optional
        Train the decisions of hard paths too: each backward pass adds the gradient of
        `fffnb.straight_through` at this temperature. By default decisions have none. Files keep it;
        the layer of JAX does not have it.
    scheme, rng, dtype
        How the nodes are drawn: see `init_nodes`.

    Attributes
    ----------
    score_loss : callable or None
        From a trace to a loss and its gradient of the scores, such as `balance_loss`: each backward
        pass adds this gradient. None at first; not kept in files.
    balance_rate : float
        How far `balance_bias` moves the bias in each `backward_update`; 0, not at all, at first.
        Not kept in files.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As `init_nodes` and `fff_forward`.

    Examples
    --------
    >>> import numpy as np
    >>> from fffnb import nn
    >>> layer = nn.FFF(64, 10, depth=5, n_trees=4)
    >>> layer(np.ones((3, 64), np.float32)).shape, layer.neurons_read, layer.neurons
    ((3, 10), 20, 124)
    """

    _forward = staticmethod(fff_forward)
    _backward = staticmethod(fff_backward)
    _backward_update = staticmethod(fff_backward_update)
    _arrays = ("nodes",)

    nodes: Array

    straight_through: float | None = None

    def __init__(
        self,
        n_in: int,
        n_out: int,
        depth: int | None = None,
        *,
        n_trees: int = 1,
        activation: str = "identity",
        bias: bool = False,
        straight_through: float | None = None,
        scheme: Literal["sphere", "uniform"] = "sphere",
        rng: int | np.random.Generator | None = 0,
        dtype: DTypeLike = np.float32,
    ) -> None:
        if straight_through is not None:
            self.straight_through = check_temperature(straight_through)
        depth = default_depth(n_in) if depth is None else depth
        nodes = init_nodes(n_in, n_out, depth, n_trees, scheme=scheme, rng=rng, dtype=dtype)
        self._use(n_in, activation, nodes, np.zeros(nodes.shape[:2], nodes.dtype) if bias else None)

    @classmethod
    def of(cls, n_in: int, activation: str, nodes: Array, bias: Array | None = None) -> FFF:
        """Return a layer that uses given nodes (n_trees, n_nodes, n_in + n_out) and biases."""
        layer = cls.__new__(cls)
        layer._use(n_in, activation, nodes, bias)
        return layer

    def _use(self, n_in: int, activation: str, nodes: Array, bias: Array | None) -> None:
        self.n_in, self.n_out = int(n_in), nodes.shape[2] - int(n_in)
        self.n_trees, self.depth = nodes.shape[0], int(nodes.shape[1]).bit_length()
        self.activation = activation
        self.neurons = self.n_trees * nodes.shape[1]
        self.neurons_read = self.n_trees * self.depth
        self._hold((nodes,), bias)

    def _options(self) -> dict[str, Any]:
        return {**super()._options(), "n_out": self.n_out}

    def _backward_options(self, grad_y: Array, x: Array, path: Trace) -> dict[str, Any]:
        found = super()._backward_options(grad_y, x, path)
        if self.straight_through is None:
            return found
        options: dict[str, Any] = {"temperature": self.straight_through, "bias": self.bias}
        slopes = straight_gradient(grad_y, x, self.nodes, path, **options)
        return {"grad_scores": found.get("grad_scores", 0) + slopes}

    def config(self) -> dict[str, Any]:
        """Return the structure as a JSON object; it names `straight_through` where that is set."""
        straight = self.straight_through
        return super().config() | ({} if straight is None else {"straight_through": straight})


class Linear(Layer):
    """Dense layer x @ weight + bias, drawn from ±1/√n_in as in torch.

    Parameters
    ----------
    n_in, n_out : int
        Widths of the input and of the output.
    bias : bool, default True
        Add a bias.
    rng : int, numpy.random.Generator or None, default 0
        Seed or generator.
    dtype : float32 or float64, default float32
        Type of the parameters.

    Examples
    --------
    >>> import numpy as np
    >>> from fffnb import nn
    >>> nn.Linear(64, 10)(np.ones((3, 64), np.float32)).shape
    (3, 10)
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        *,
        bias: bool = True,
        rng: int | np.random.Generator | None = 0,
        dtype: DTypeLike = np.float32,
    ) -> None:
        n_in, n_out = check_size("n_in", n_in), check_size("n_out", n_out)
        dtype = check_dtype(dtype)
        generator = np.random.default_rng(rng)
        bound = 1 / math.sqrt(n_in)
        weight = generator.uniform(-bound, bound, (n_in, n_out)).astype(dtype)
        self._hold(weight, generator.uniform(-bound, bound, n_out).astype(dtype) if bias else None)

    @classmethod
    def of(cls, weight: Array, bias: Array | None = None) -> Linear:
        """Return a layer that uses a given weight (n_in, n_out) and bias (n_out,)."""
        layer = cls.__new__(cls)
        layer._hold(weight, bias)
        return layer

    def _hold(self, weight: Array, bias: Array | None) -> None:
        self.n_in, self.n_out = weight.shape
        self.weight, self.bias = weight, bias
        self.neurons = self.neurons_read = self.n_out
        self.parameters = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}

    def forward(self, x: Array) -> tuple[Array, Array]:
        """Return the output for x and what `backward` needs."""
        if x.shape[-1:] != (self.n_in,):
            raise ValueError(f"x must have {self.n_in} columns, got shape {x.shape}")
        if x.dtype != self.weight.dtype:
            raise TypeError(f"x must have dtype {self.weight.dtype}, got {x.dtype}")
        y = x @ self.weight
        if self.bias is not None:
            y += self.bias
        return y, x

    def backward(
        self, grad_y: Array, trace: Array, *, sparse: bool = False
    ) -> tuple[Array, Gradients]:
        """Return the gradient of the input and those of weight and bias."""
        xp = namespace_of(grad_y)
        flat = xp.reshape(grad_y, (-1, self.n_out))
        gradients: Gradients = {"weight": xp.reshape(trace, (-1, self.n_in)).T @ flat}
        if self.bias is not None:
            gradients["bias"] = xp.sum(flat, axis=0)
        return grad_y @ self.weight.T, gradients

    def config(self) -> dict[str, Any]:
        """Return the structure as a JSON object."""
        bias = self.bias is not None
        return {"kind": "Linear", "n_in": self.n_in, "n_out": self.n_out, "bias": bias}


class ReLU(Layer):
    """max(x, 0), element by element."""

    def forward(self, x: Array) -> tuple[Array, Array]:
        """Return the output for x and what `backward` needs."""
        y = namespace_of(x).maximum(x, 0)
        return y, y

    def backward(
        self, grad_y: Array, trace: Array, *, sparse: bool = False
    ) -> tuple[Array, Gradients]:
        """Return the gradient of the input; there are no parameters."""
        return grad_y * cast(trace > 0, grad_y.dtype), {}


class GELU(Layer):
    """x Φ(x) with the normal distribution function Φ, element by element."""

    def forward(self, x: Array) -> tuple[Array, tuple[Array, Array]]:
        """Return the output for x and what `backward` needs."""
        phi = ndtr(x)
        return x * phi, (x, phi)

    def backward(
        self, grad_y: Array, trace: tuple[Array, Array], *, sparse: bool = False
    ) -> tuple[Array, Gradients]:
        """Return the gradient of the input; there are no parameters."""
        x, phi = trace
        density = namespace_of(x).exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
        return grad_y * (phi + x * density), {}


class Sequential(Several):
    """Layers one after the other; the parameter p of layer i is called ``"i.p"``.

    Parameters
    ----------
    *layers : Layer
        The layers, from the input to the output.

    Examples
    --------
    >>> from fffnb import nn
    >>> model = nn.Sequential(nn.FFF(64, 32, depth=5), nn.ReLU(), nn.Linear(32, 10))
    >>> list(model.parameters)
    ['0.nodes', '2.weight', '2.bias']
    """

    def __call__(self, x: Array) -> Array:
        """Return the output for samples x, keeping nothing for a backward pass."""
        for layer in self.layers:
            x = layer(x)
        return x

    def forward(self, x: Array) -> tuple[Array, list[Any]]:
        """Return the output for x and what `backward` needs."""
        traces = []
        for layer in self.layers:
            x, trace = layer.forward(x)
            traces.append(trace)
        return x, traces

    def backward(
        self, grad_y: Array, trace: list[Any], *, sparse: bool = False
    ) -> tuple[Array, Gradients]:
        """Return the gradient of the input and those of all parameters."""
        gradients: Gradients = {}
        for i in reversed(range(len(self.layers))):
            grad_y, own = self.layers[i].backward(grad_y, trace[i], sparse=sparse)
            gradients.update({f"{i}.{name}": gradient for name, gradient in own.items()})
        return grad_y, gradients

    def backward_update(
        self, grad_y: Array, trace: list[Any], optimizer: Optimizer, prefix: str = ""
    ) -> Array:
        """Step all parameters, from the last layer to the first; return the gradient of x."""
        for i in reversed(range(len(self.layers))):
            grad_y = self.layers[i].backward_update(grad_y, trace[i], optimizer, f"{prefix}{i}.")
        return grad_y

    def observe(self, x: Array, see: Observer, name: str = "") -> Array:
        """Return the output for x, and let `see` look at each layer inside."""
        for inner, layer in self.named(name):
            x = layer.observe(x, see, inner)
        return x
