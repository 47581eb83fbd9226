"""The hardening loss of soft training: what is left open by the decisions of the nodes.

Source: Belcak and Wattenhofer, "Fast Feedforward Networks" (arXiv:2308.14711).
"""

from __future__ import annotations

import math
from typing import Literal

from .. import cpu
from . import soft_cuda
from .arrays import Array, check_native, unlocked
from .device import kind_of
from .leaf_trace import LeafSoftTrace, check_leaf_states
from .paths import gate_code
from .soft_cuda import check_choices
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
        once the mean is below 0.1. From a trace on a GPU it is an array of shape () there.
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
    n_trees, n_nodes = scores.shape[-2:]
    n_visits = math.prod(scores.shape[:-1])
    if n_visits == 0:
        raise ValueError(f"trace must hold at least one sample, got scores of {scores.shape}")
    n_decisions = max(1, n_visits * n_deciding) if reduction == "mean" else 1
    gating, kind = (gate_code(trace.gate), trace.temperature), kind_of(scores)
    if kind is not None:
        return soft_cuda.entropy(kind, scores, n_deciding, *gating, 1 / n_decisions)
    by_visit = unlocked(scores).reshape(-1, n_trees, n_nodes)
    loss, slopes = cpu.soft.entropy(by_visit, n_deciding, *gating)
    slopes /= n_decisions
    return loss / n_decisions, slopes.reshape(scores.shape)


def _decisions(trace: SoftTrace | LeafSoftTrace) -> tuple[Array, int]:
    """Return the scores that a trace holds of nodes, and how many first ones of a tree decide."""
    if isinstance(trace, LeafSoftTrace):
        name, scores, shape = "trace.router_scores", trace.router_scores, trace.routers_shape
    elif isinstance(trace, SoftTrace):
        name, scores, shape = "trace.scores", trace.scores, trace.nodes_shape
    else:
        raise TypeError(
            "trace must be the SoftTrace of fff_forward_soft or the LeafSoftTrace of "
            f"leaf_forward_soft, got {type(trace).__name__}"
        )
    n_deciding = shape[1] if isinstance(trace, LeafSoftTrace) else shape[1] // 2
    if kind_of(scores) is not None:
        check_choices(name, scores, shape[:2])
        return scores, n_deciding
    lead = check_native(name, scores).shape[:-2]
    if isinstance(trace, LeafSoftTrace):
        check_leaf_states(trace, lead, scores.dtype)
    else:
        check_states(trace, lead, scores.dtype)
    return scores, n_deciding
