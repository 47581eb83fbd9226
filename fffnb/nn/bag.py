"""The layers of the bag and of product keys."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike

from ..init import init_bag, init_keys
from ..nodes import check_size
from ..ops.bag import bag_backward, bag_forward
from ..ops.keys import keys_backward, keys_forward
from .form_layer import FormLayer
from .layer import Array


class BagFFF(FormLayer):
    """Layer without a tree: each sample chooses the best nodes of each bag, or all positive ones.

    Parameters
    ----------
    n_in, n_out : int
        Widths of the input and of the output.
    n_nodes : int
        Nodes of each bag.
    k : int or None
        How many nodes a sample chooses in each bag; None: all of positive score.
    n_trees : int, default 1
        Number of bags.
    activation : str, default "identity"
        act on the score of a node: see `bag_forward`.
    bias : bool, default False
        Give each node a bias, zero at first.
    scheme, rng, dtype
        How the nodes are drawn: see `init_bag`.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As `init_bag` and `bag_forward`.

    Notes
    -----
    A sample reads the x vectors of all nodes, so that `neurons_read` is `neurons`; it reads the y
    vectors of the chosen ones alone, but on a GPU with ``k=None``.

    Examples
    --------
    >>> import numpy as np
    >>> from fffnb import nn
    >>> layer = nn.BagFFF(64, 10, n_nodes=32, k=4)
    >>> layer(np.ones((3, 64), np.float32)).shape, layer.neurons
    ((3, 10), 32)
    """

    _forward = staticmethod(bag_forward)
    _backward = staticmethod(bag_backward)
    _arrays = ("nodes",)
    _structure = ("n_in", "n_out", "n_nodes", "k", "n_trees", "activation")

    nodes: Array
    bias: Array | None

    def __init__(
        self,
        n_in: int,
        n_out: int,
        n_nodes: int,
        *,
        k: int | None,
        n_trees: int = 1,
        activation: str = "identity",
        bias: bool = False,
        scheme: Literal["sphere", "uniform"] = "sphere",
        rng: int | np.random.Generator | None = 0,
        dtype: DTypeLike = np.float32,
    ) -> None:
        nodes = init_bag(n_in, n_out, n_nodes, n_trees, scheme=scheme, rng=rng, dtype=dtype)
        biases = np.zeros(nodes.shape[:2], nodes.dtype) if bias else None
        self._use(n_in, k, activation, nodes, biases)

    @classmethod
    def of(
        cls, n_in: int, k: int | None, activation: str, nodes: Array, bias: Array | None = None
    ) -> BagFFF:
        """Return a layer that uses given nodes (n_trees, n_nodes, n_in + n_out) and biases."""
        layer = cls.__new__(cls)
        layer._use(n_in, k, activation, nodes, bias)
        return layer

    def _use(
        self, n_in: int, k: int | None, activation: str, nodes: Array, bias: Array | None
    ) -> None:
        self.n_in, self.n_out = int(n_in), nodes.shape[2] - int(n_in)
        self.n_trees, self.n_nodes = nodes.shape[:2]
        self.k = None if k is None else check_size("k", k)
        self.activation = activation
        self.neurons = self.neurons_read = self.n_trees * self.n_nodes
        self._hold((nodes,), bias)

    def _options(self) -> dict[str, Any]:
        return {**super()._options(), "k": self.k, "n_out": self.n_out}


class ProductKeyFFF(FormLayer):
    """Layer of many nodes, of which product keys choose the best for each sample.

    Parameters
    ----------
    n_in, n_out : int
        Widths of the input, which must be even, and of the output.
    n_keys : int
        Keys of each half of the input; there are n_keys² nodes.
    k : int
        How many nodes a sample chooses by each tree.
    n_trees : int, default 1
        Sets of keys (heads); the nodes are the same for all.
    activation : str, default "identity"
        act on the score of a node: see `keys_forward`.
    rng, dtype
        How keys and y vectors are drawn: see `init_keys`.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As `init_keys` and `keys_forward`.

    Notes
    -----
    For each tree a sample reads 2 · n_keys keys of half the width, counted as n_keys neurons in
    `neurons_read`, and k y vectors.

    Examples
    --------
    >>> import numpy as np
    >>> from fffnb import nn
    >>> layer = nn.ProductKeyFFF(64, 10, n_keys=32, k=4, n_trees=2)
    >>> layer(np.ones((3, 64), np.float32)).shape, layer.neurons_read, layer.neurons
    ((3, 10), 72, 1024)
    """

    _forward = staticmethod(keys_forward)
    _backward = staticmethod(keys_backward)
    _arrays = ("keys", "y_vectors")
    _structure = ("n_in", "n_out", "n_keys", "k", "n_trees", "activation")

    keys: Array
    y_vectors: Array

    def __init__(
        self,
        n_in: int,
        n_out: int,
        n_keys: int,
        *,
        k: int,
        n_trees: int = 1,
        activation: str = "identity",
        rng: int | np.random.Generator | None = 0,
        dtype: DTypeLike = np.float32,
    ) -> None:
        keys, y_vectors = init_keys(n_in, n_out, n_keys, n_trees, rng=rng, dtype=dtype)
        self._use(k, activation, keys, y_vectors)

    @classmethod
    def of(cls, k: int, activation: str, keys: Array, y_vectors: Array) -> ProductKeyFFF:
        """Return a layer that uses given keys and y vectors: see `keys_forward`."""
        layer = cls.__new__(cls)
        layer._use(k, activation, keys, y_vectors)
        return layer

    def _use(self, k: int, activation: str, keys: Array, y_vectors: Array) -> None:
        self.n_trees, _, self.n_keys, half = keys.shape
        self.n_in, self.n_out = 2 * half, y_vectors.shape[1]
        self.k, self.activation = check_size("k", k), activation
        self.neurons = len(y_vectors)
        self.neurons_read = self.n_trees * (self.n_keys + self.k)
        self._hold((keys, y_vectors), None)

    def _options(self) -> dict[str, Any]:
        return {"k": self.k, "activation": self.activation}

    def config(self) -> dict[str, Any]:
        """Return the structure as a JSON object, which says nothing of a bias."""
        config = super().config()
        del config["bias"]
        return config
