"""The leaf layout: routers choose one of ``2**depth`` leaves a tree, each a small network.

Routers are vectors in input space, ``(n_trees, 2**depth - 1, n_in)``, numbered as nodes are. A leaf
is a network of `width` hidden neurons, each of which is laid out as a node is: ``leaves`` is
``(n_trees, 2**depth, width, n_in + n_out)``, rows ``[x | y]``. Both are C-contiguous and of native
byte order.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class LeafBias(NamedTuple):
    """The biases of the leaf form, or their gradients.

    Attributes
    ----------
    routers : ndarray, shape (n_trees, 2**depth - 1)
        Added to the scores of the routers; as a gradient None where the routers have none.
    hidden : ndarray, shape (n_trees, 2**depth, width)
        Added to the scores of the hidden neurons.
    output : ndarray, shape (n_trees, 2**depth, n_out)
        Added to the output of each leaf.
    """

    routers: Any
    hidden: Any
    output: Any
