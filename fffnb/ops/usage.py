"""How samples spread over the nodes and leaves of a forest."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..nodes import depth_of
from .arrays import Array
from .device import check_host
from .tree import fff_forward


class Usage(NamedTuple):
    """How many samples visited which node, and ended in which leaf; `str` of it is a report.

    Attributes
    ----------
    nodes : ndarray of int64, shape (n_trees, 2**depth - 1)
        Samples that visited each node.
    leaves : ndarray of int64, shape (n_trees, 2**depth)
        Samples that ended in each leaf.
    """

    nodes: Array
    leaves: Array

    @property
    def batch(self) -> int:
        """Number of samples."""
        return int(self.nodes[0, 0])

    @property
    def depth(self) -> int:
        """Levels of each tree."""
        return depth_of(self.nodes.shape[1])

    @property
    def dead(self) -> Array:
        """The rows of the nodes that nobody visited, tree * n_nodes + node, ascending, int64."""
        return np.flatnonzero(self.nodes == 0)

    @property
    def entropy(self) -> Array:
        """Entropy of the shares of the leaves of each tree in bits, 0 to depth, (n_trees,)."""
        shares = self.leaves / self.batch
        logs = np.log2(shares, out=np.zeros_like(shares), where=shares > 0)
        return np.asarray(-(shares * logs).sum(axis=1) + 0.0)  # + 0.0: no minus zero

    @property
    def evenness(self) -> Array:
        """`entropy` / depth: 1 where all leaves have as many samples, 0 where one has them all."""
        return self.entropy / self.depth

    def __str__(self) -> str:
        """Return the number of samples and a line for each tree."""
        lines = [f"{self.batch:,} samples"]
        for tree, (nodes, leaves) in enumerate(zip(*self, strict=True)):
            seen = f"{np.count_nonzero(nodes):,} of {len(nodes):,} nodes visited"
            used = f"{np.count_nonzero(leaves):,} of {len(leaves):,} leaves used"
            busiest = f"busiest leaf {100 * leaves.max() / self.batch:.1f} %"
            evenness = f"evenness {self.evenness[tree]:.2f}"
            lines.append(f"tree {tree}: {seen}, {used}, {busiest}, {evenness}")
        return "\n".join(lines)


def usage(nodes: Array, x: Array, *, bias: Array | None = None) -> Usage:
    """Count how many samples visit each node of a forest and end in each leaf.

    Parameters
    ----------
    nodes : ndarray, float32 or float64, shape (n_trees, 2**depth - 1, n_in + n_out)
        The forest.
    x : ndarray, dtype of nodes, shape (..., n_in)
        Samples, at least one.
    bias : ndarray, dtype of nodes, shape (n_trees, 2**depth - 1), optional
        Added to the scores.

    Returns
    -------
    Usage
        The counts, with their entropy, the dead nodes and a report.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit, as by `fff_forward`; if `nodes` is on a GPU; if there is no
        sample.

    Notes
    -----
    This is a forward pass and one count for each sample and tree; the visits of a node are the sum
    of those of its children. The last node of a path turns too, which decides on the leaf, though
    no node follows.

    Examples
    --------
    >>> import numpy as np
    >>> import fffnb
    >>> x = np.random.default_rng(0).standard_normal((1000, 3))
    >>> used = fffnb.usage(fffnb.init_nodes(3, 2, depth=3, dtype=float), x)
    >>> used.nodes
    array([[1000,  515,  485,  402,  113,  317,  168]])
    >>> print(used)
    1,000 samples
    tree 0: 7 of 7 nodes visited, 8 of 8 leaves used, busiest leaf 21.0 %, evenness 0.92
    """
    check_host("nodes", nodes, "usage is counted")
    _, trace = fff_forward(x, nodes, bias=bias, return_trace=True)
    return count_visits(trace.leaves, depth_of(nodes.shape[1]))


def count_visits(leaves: Array, depth: int) -> Usage:
    """Return the usage of trees of which samples ended in leaves (..., n_trees)."""
    trees = leaves.reshape(-1, leaves.shape[-1]).T
    if trees.shape[1] == 0:
        raise ValueError("x must hold at least one sample to count its visits, got none")
    counts = np.stack([np.bincount(tree, minlength=2**depth) for tree in trees])
    levels = [counts]
    for _ in range(depth):
        levels.append(levels[-1][:, 0::2] + levels[-1][:, 1::2])
    return Usage(np.concatenate(levels[:0:-1], axis=1), counts)
