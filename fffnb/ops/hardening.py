"""The hardening loss of soft training: what is left open by the decisions of the nodes.

Source: Belcak and Wattenhofer, "Fast Feedforward Networks" (arXiv:2308.14711).
"""

from __future__ import annotations

from typing import Literal

from .. import cpu
from .arrays import Array, check_native, unlocked
from .leaf_trace import LeafSoftTrace, check_leaf_states
from .paths import gate_code
from .soft_trace import SoftTrace, check_states


def hardening_loss(
    trace: SoftTrace | LeafSoftTrace, *, reduction: Literal["mean", "sum"] = "mean"
) -> tuple[float, Array]:
    """Return the entropy of the decisions, which training can lower, and its gradient.

    A decision is that of a node for a sample: c to the right, 1 - c to the left, with entropy
    -c log c - (1 - c) log(1 - c). The nodes of the last level have no children and decide nothing;
    the routers of the leaf form all decide.

    Parameters
    ----------
    trace : SoftTrace or LeafSoftTrace
        What `fff_forward_soft` or `leaf_forward_soft` returned.
    reduction : {"mean", "sum"}
        Mean over samples, trees and deciding nodes, as in the code of the paper (its weight there
        is 0.1), or sum, as in its text (3).

    Returns
    -------
    loss : float
        In nats: a mean lies from 0 to log 2. The paper takes hard paths to do as well as soft ones
        once the mean is below 0.1.
    grad_scores : ndarray, shape and dtype of the scores
        Gradient of `loss`; the backward pass takes it, times the weight of the loss.

    Raises
    ------
    TypeError, ValueError
        If `trace` is none of these or holds no sample, or `reduction` is unknown.

    Examples
    --------
    >>> import numpy as np
    >>> import fffnb
    >>> x, nodes = np.zeros((5, 3)), fffnb.init_nodes(3, 2, depth=4, dtype="float64")
    >>> y, trace = fffnb.fff_forward_soft(x, nodes, return_trace=True)
    >>> loss, grad_scores = fffnb.hardening_loss(trace)
    >>> round(loss, 4), grad_scores.shape
    (0.6931, (5, 1, 15))
    """
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction must be 'mean' or 'sum', got {reduction!r}")
    scores, n_deciding = _decisions(trace)
    if scores.size == 0:
        raise ValueError(f"trace must hold at least one sample, got scores of {scores.shape}")
    n_trees, n_nodes = scores.shape[-2:]
    loss, slopes = cpu.soft.entropy(
        unlocked(scores).reshape(-1, n_trees, n_nodes),
        n_deciding,
        gate_code(trace.gate),
        trace.temperature,
    )
    if reduction == "mean":
        n_decisions = max(1, len(slopes) * n_trees * n_deciding)
        loss /= n_decisions
        slopes /= n_decisions
    return loss, slopes.reshape(scores.shape)


def _decisions(trace: SoftTrace | LeafSoftTrace) -> tuple[Array, int]:
    """Return the scores that a trace holds of nodes, and how many first ones of a tree decide."""
    if isinstance(trace, LeafSoftTrace):
        scores = check_native("trace.router_scores", trace.router_scores)
        check_leaf_states(trace, scores.shape[:-2], scores.dtype)
        return scores, scores.shape[-1]
    if not isinstance(trace, SoftTrace):
        raise TypeError(
            "trace must be the SoftTrace of fff_forward_soft or the LeafSoftTrace of "
            f"leaf_forward_soft, got {type(trace).__name__}"
        )
    scores = check_native("trace.scores", trace.scores)
    check_states(trace, scores.shape[:-2], scores.dtype)
    return scores, scores.shape[-1] // 2
