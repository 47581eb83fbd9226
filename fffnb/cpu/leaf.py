"""The leaf form on the CPU: the tree's walk finds the leaves, the kernels of `leaf_group` run them.

Arguments are checked, C-contiguous and flattened to one batch axis by the caller; `routers` is
(n_trees, n_nodes, n_in), `table` (n_trees, n_leaves, width, n_in + n_out), `bias` three arrays or
None, `activation` a code.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import buffers
from . import leaf_group, tree, tree_sweep

Array = NDArray[Any]
Bias = tuple[Array, Array, Array]


class Groups:
    """The visits of leaves, in the order of the leaves of the forest.

    Attributes
    ----------
    order : ndarray of int64, shape (n_trees, batch)
        The samples of each tree, sorted by leaf.
    leaves : ndarray of int64, shape (n_groups,)
        The visited leaves, tree * n_leaves + leaf, ascending.
    bounds : ndarray of int64, shape (n_groups + 1,)
        Where the visits of each begin in `order`, flattened, and end.
    slopes, weights : ndarray, shape (n_trees * batch, width) and (n_trees * batch, width + 1)
        The gradients of the scores of each visit, and their activations, the last of which is 1.
    """

    def __init__(self, leaves: Array, n_leaves: int, width: int, dtype: np.dtype[Any]) -> None:
        batch, n_trees = leaves.shape
        self.order = tree.sort(leaves.T, n_leaves.bit_length() - 1)
        tree_of = np.arange(n_trees)[:, None]
        keys = (leaves[self.order, tree_of] + n_leaves * tree_of).reshape(-1)
        starts = np.flatnonzero(np.diff(keys, prepend=-1))
        self.leaves, self.bounds = keys[starts], np.append(starts, keys.size)
        self.slopes = buffers.empty((n_trees * batch, width), dtype)
        self.weights = buffers.empty((n_trees * batch, width + 1), dtype)


def forward(
    x: Array,
    routers: Array,
    table: Array,
    bias: Bias | None,
    activation: int,
    scores: Array,
    leaves: Array,
    y: Array,
) -> None:
    """Write scores (batch, n_trees, width), leaves (batch, n_trees) and y (batch, n_out)."""
    batch, n_trees, _ = scores.shape
    if batch == 0:
        return
    router_bias, hidden, output = (None, None, None) if bias is None else bias
    depth, work = table.shape[1].bit_length() - 1, tree.work_of(scores, x, y) // n_trees
    chunk, _, found, coefs, rows, _ = tree.scratch(work, scores[:, :1], y)
    descend(x, routers, router_bias, chunk, found, leaves)
    none = np.empty((0, 0), x.dtype)
    for t in range(n_trees):
        leaf_group.meet(
            work,
            t,
            tree.sort(leaves[:, t], depth),
            chunk,
            x,
            table.reshape(-1, table.shape[3]),
            0,
            x.shape[1],
            False,
            tree.as_row(hidden, x.dtype),
            none if output is None else output.reshape(-1, y.shape[1]),
            activation,
            scores,
            leaves,
            found,
            coefs,
            rows,
            none,
            none,
            y,
        )


def descend(
    x: Array, routers: Array, bias: Array | None, chunk: int, found: Array, leaves: Array
) -> None:
    """Write the leaves (batch, n_trees) that samples come to."""
    batch, n_trees = leaves.shape
    scores = buffers.empty((batch, n_trees, routers.shape[1].bit_length()), x.dtype)
    leaves[...] = 0
    for t in range(n_trees):
        tree_sweep.descend_in_order(
            tree.work_of(scores, x) // n_trees,
            x,
            routers.reshape(-1, x.shape[1]),
            tree.as_row(bias, x.dtype),
            t,
            0,
            scores.shape[2],
            np.arange(batch),
            chunk,
            found,
            scores,
            leaves,
            True,
        )


def backward(
    grad_y: Array,
    table: Array,
    activation: int,
    scores: Array,
    leaves: Array,
    grad_x: Array,
) -> Groups:
    """Write grad_x (batch, n_in) and return the groups that `gather` takes."""
    batch, n_trees, width = scores.shape
    groups = Groups(leaves, table.shape[1], width, scores.dtype)
    if batch == 0:
        return groups
    work = tree.work_of(scores, grad_x, grad_y) // n_trees
    chunk, _, found, gradients, rows, _ = tree.scratch(work, scores[:, :1], grad_x)
    none = np.empty((0, 0), scores.dtype)
    for t in range(n_trees):
        leaf_group.meet(
            work,
            t,
            groups.order[t],
            chunk,
            grad_y,
            table.reshape(-1, table.shape[3]),
            grad_x.shape[1],
            0,
            True,
            tree.as_row(None, scores.dtype),
            none,
            activation,
            scores,
            leaves,
            found,
            gradients,
            rows,
            groups.slopes,
            groups.weights,
            grad_x,
        )
    return groups


def gather(x: Array, grad_y: Array, groups: Groups, grads: Bias, *, sparse: bool) -> None:
    """Write the gradients of the visited leaves: of their rows, hidden biases and output biases.

    `grads` are (n, width, n_in + n_out), (n, width) and (n, n_out) with a place for every leaf, or,
    `sparse`, for the visited ones.
    """
    if len(x) == 0:
        return
    leaf_rows, hidden, output = grads
    places = np.arange(len(groups.leaves)) if sparse else groups.leaves
    hidden[places] = np.add.reduceat(groups.slopes, groups.bounds[:-1], axis=0)
    leaf_group.sum_leaves(
        2 * groups.slopes.size * leaf_rows.shape[2],
        x,
        grad_y,
        groups.order.reshape(1, -1),
        groups.bounds,
        np.ascontiguousarray(groups.slopes.T),
        np.ascontiguousarray(groups.weights.T),
        places,
        leaf_rows.reshape(-1, leaf_rows.shape[2]),
        output,
    )
