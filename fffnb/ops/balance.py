"""Balance: a loss and a bias that send as many samples left as right at every node.

Both look at the trace of a hard forward pass, so they touch visited nodes alone. The last node of a
path turns, too, but no node follows: its turn is left as it is, unless it chooses y vectors, those
of a pattern of signs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ..nodes import count_flat_rows, depth_of
from . import balance_cuda
from .arrays import Array, check_native, check_number, check_shape, check_writeable
from .balance_cuda import Origin
from .device import Kind, kind_of
from .flat_trace import FlatTrace
from .trace import Trace, check_paths


class Turns(NamedTuple):
    """Where samples turned on one level, and how the others turned there.

    Attributes
    ----------
    rows : ndarray of int64, shape (n_rows,)
        The visited nodes, tree * n_nodes + node, ascending and unique.
    counts, rights : ndarray of int64, shape (n_rows,)
        How many samples visited each of them, and how many went right.
    visits : ndarray of int64, shape (..., n_trees)
        The place among `rows` of the node that each sample met.
    """

    rows: Array
    counts: Array
    rights: Array
    visits: Array


def balance_loss(trace: Trace | FlatTrace, *, weight: float = 1.0) -> tuple[float, Array]:
    """Return how unevenly samples turn at the nodes that they visit, and its gradient.

    At a node that n of the samples visit, let r and l be how many of them go right and left, and
    R = Σ σ(λ), L = Σ σ(-λ) over their scores λ, with the logistic function σ: soft counts, while r
    and l are constants. The loss is the mean of 2 (r R + l L) / n² over the visits of all nodes
    that have children, times `weight`. It is 1 where every node sends half of its samples each way,
    or cannot tell them apart (λ = 0), and up to 2 where each surely sends all of them one way.

    Parameters
    ----------
    trace : Trace or FlatTrace
        What `fff_forward` or `flat_forward` returned for at least one sample and trees of at least
        two levels.
    weight : float, default 1
        What to multiply loss and gradient by, 0 or more.

    Returns
    -------
    loss : float
        The loss. From a trace on a GPU it is an array of shape () there.
    grad_scores : ndarray, shape and dtype of trace.scores
        Its gradient, for the argument of that name of `fff_backward` or `flat_backward`; zero on
        the last level, unless that chooses y vectors of patterns.

    Raises
    ------
    TypeError, ValueError
        If an argument is of a wrong kind, `trace` holds no sample, or its trees have only one
        level.

    Notes
    -----
    The source balances the leaves by 2^depth Σ (share of the samples) (share of the soft mass),
    which needs the scores of all nodes. This is the same formula for the two children of one node
    and its visitors, summed with the share of the samples that visit it; so the gradient of a score
    takes one node's counts, and those of nodes that nobody visits are not there.

    A batch must be large beside the number of nodes on a level: the score of a node's only visitor
    is drawn to zero, as all of its visitors are on one side. Where that is not wanted, set the
    gradients of deep levels to zero.

    Source: "Enhancing Fast Feed Forward Networks with Load Balancing and a Master Leaf Node"
    (arXiv:2405.16836), for leaves.

    Examples
    --------
    >>> import numpy as np
    >>> import fffnb
    >>> x, nodes = np.ones((5, 3)), fffnb.init_nodes(3, 2, depth=4, dtype=float)
    >>> y, trace = fffnb.fff_forward(x, nodes, return_trace=True)
    >>> loss, grad_scores = fffnb.balance_loss(trace, weight=0.1)
    >>> round(loss, 3), grad_scores.shape
    (0.146, (5, 1, 4))
    >>> grads = fffnb.fff_backward(np.ones_like(y), x, nodes, trace, grad_scores=grad_scores)
    """
    weight = _check_amount("weight", weight)
    kind, origin = _check_turns(trace)
    if kind is not None:
        return balance_cuda.loss(kind, trace, origin, weight)
    n_levels = origin.n_levels
    # 2 (r σ(λ) + l σ(-λ)) / n = 1 + tilt · tanh(λ / 2)
    soft = np.tanh(trace.scores[..., :n_levels].astype(np.float64) / 2)
    tilts = np.empty_like(soft)
    for level, turns in enumerate(_turns(trace.leaves, trace.scores.shape[-1], n_levels)):
        tilts[..., level] = (2 * turns.rights / turns.counts - 1)[turns.visits]
    gradient = np.zeros(trace.scores.shape, trace.scores.dtype)
    gradient[..., :n_levels] = weight / tilts.size * tilts * (1 - soft * soft) / 2
    return weight * float(1 + np.mean(tilts * soft)), gradient


def balance_bias(bias: Array | None, trace: Trace | FlatTrace, *, rate: float = 1e-3) -> None:
    """Move the biases of visited nodes so that fewer samples take the fuller side, in place.

    The bias of a node falls by `rate` if more of its visitors went right than left, and rises by
    `rate` if more went left: balance without a loss and its gradient. In the flat form so does that
    of a plane, which all samples visit.

    Parameters
    ----------
    bias : ndarray, shape (n_trees, 2**depth - 1), or (n_trees, depth) of planes
        The bias of the forward pass, which lies where the trace lies; updated in place.
    trace : Trace or FlatTrace
        What the forward pass of at least one sample returned.
    rate : float, default 1e-3
        How far to move, 0 or more.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit, or as by `balance_loss`; nothing has been updated then.

    Notes
    -----
    The bias is part of the score, so the output moves too, by `rate` times the slope of the
    activation for each node of a path. In the source it counts in the choice of experts alone.

    Source: Wang et al., "Auxiliary-Loss-Free Load Balancing Strategy for Mixture-of-Experts"
    (arXiv:2408.15664), for experts.

    Examples
    --------
    >>> import numpy as np
    >>> import fffnb
    >>> x, nodes = np.ones((5, 3)), fffnb.init_nodes(3, 2, depth=3, dtype=float)
    >>> bias = np.zeros((1, 7))
    >>> y, trace = fffnb.fff_forward(x, nodes, bias=bias, return_trace=True)
    >>> fffnb.balance_bias(bias, trace, rate=0.5)
    >>> bias
    array([[-0.5,  0. , -0.5,  0. ,  0. ,  0. ,  0. ]])
    """
    rate = _check_amount("rate", rate)
    kind, origin = _check_turns(trace)
    if not trace.has_bias:
        raise ValueError("trace must come from a forward pass with a bias, got one without")
    if kind is not None:
        return balance_cuda.move_bias(kind, bias, trace, origin, rate)
    n_levels = origin.n_levels
    bias = check_native("bias", bias, trace.scores.dtype)
    if isinstance(trace, FlatTrace):
        check_shape("bias", bias, trace.planes_shape[:2], "n_trees and depth of planes")
        rights = (trace.scores[..., :n_levels] > 0).reshape(-1, len(bias), n_levels)
        sides = np.sign(2 * rights.sum(axis=0) - len(rights))
        check_writeable("bias", bias)[:, :n_levels] -= rate * sides
        return
    check_shape("bias", bias, trace.nodes_shape[:2], "n_trees and n_nodes of nodes")
    flat = check_writeable("bias", bias).reshape(-1)
    for turns in _turns(trace.leaves, trace.scores.shape[-1], n_levels):
        flat[turns.rows] -= rate * np.sign(2 * turns.rights - turns.counts)


def _check_turns(trace: Trace | FlatTrace) -> tuple[Kind | None, Origin]:
    """Return the kind of device arrays that a trace holds, and what it comes from."""
    origin, scores = _origin(trace), trace.scores
    kind = kind_of(scores)
    if kind is None:
        lead = check_native("trace.scores", scores).shape[:-2]
        check_paths(scores, trace.leaves, (*lead, origin.shape[0]), origin.depth, scores.dtype)
    else:
        balance_cuda.check_trace(kind, trace, origin)
    shape = tuple(scores.shape)
    if 0 in shape:
        raise ValueError(f"trace must hold at least one sample, got scores of shape {shape}")
    if origin.n_levels == 0:
        raise ValueError("trace must come from trees of at least two levels, got one level")
    return kind, origin


def _origin(trace: Trace | FlatTrace) -> Origin:
    """Return what a trace comes from."""
    if isinstance(trace, FlatTrace):
        (n_trees, depth, n_in), n_rows = trace.planes_shape, trace.y_vectors_shape[1]
        patterns = n_rows == count_flat_rows(depth, "patterns")
        return Origin("planes", (n_trees, depth, n_in), depth, depth if patterns else depth - 1)
    if isinstance(trace, Trace):
        depth = depth_of(trace.nodes_shape[1])
        return Origin("nodes", trace.nodes_shape, depth, depth - 1)
    raise TypeError(
        "trace must be the Trace of fff_forward or the FlatTrace of flat_forward, "
        f"got {type(trace).__name__}"
    )


def _turns(leaves: Array, depth: int, n_levels: int) -> Iterator[Turns]:
    """Yield the turns of the first levels of samples that end in leaves (..., n_trees)."""
    ends = leaves + (np.arange(leaves.shape[-1]) << depth)
    ends, visits, counts = np.unique(ends, return_inverse=True, return_counts=True)
    visits = visits.reshape(leaves.shape)
    for level in range(n_levels):
        shift = depth - level
        nodes = ends >> shift  # the tree before the place on the level, ascending
        first = np.diff(nodes, prepend=-1) > 0
        starts = np.flatnonzero(first)
        trees, places = nodes[starts] >> level, nodes[starts] & (1 << level) - 1
        rights = counts * (ends >> (shift - 1) & 1)
        yield Turns(
            trees * ((1 << depth) - 1) + (1 << level) - 1 + places,
            np.add.reduceat(counts, starts),
            np.add.reduceat(rights, starts),
            (np.cumsum(first) - 1)[visits],
        )


def _check_amount(name: str, value: float) -> float:
    """Return a number that is finite and not negative, or say what is wrong with it."""
    amount = check_number(name, value)
    if not 0 <= amount < math.inf:
        raise ValueError(f"{name} must be a finite number, 0 or more, got {value}")
    return amount
