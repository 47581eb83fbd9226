"""The balance loss, node by node, on the dense scores and masks of `tree.forward`.

Shapes: scores and mask (n_trees, batch, n_nodes); everything is computed in float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def loss(scores: Array, mask: Array) -> tuple[float, Array]:
    """Return the loss of the nodes that have children, and its gradient.

    A node counts as much as it has visitors among all visits; how many go right is a constant.
    """
    total, gradient = 0.0, np.zeros(scores.shape)
    inner = scores.shape[2] // 2
    n_visits = mask[:, :, :inner].sum()
    for tree, node in np.ndindex(len(scores), inner):
        visitors = np.flatnonzero(mask[tree, :, node])
        if len(visitors) > 0:
            found = scores[tree, visitors, node]
            right, left = (found > 0).sum(), (found <= 0).sum()
            to_right = 1 / (1 + np.exp(-found))
            soft = right * to_right.sum() + left * (1 - to_right).sum()
            share = len(visitors) / n_visits
            total += share * 2 * soft / len(visitors) ** 2
            slopes = (right - left) * to_right * (1 - to_right)
            gradient[tree, visitors, node] = share * 2 * slopes / len(visitors) ** 2
    return total, gradient
