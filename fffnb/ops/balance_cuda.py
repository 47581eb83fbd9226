"""Balance by traces on a GPU: what `ops.balance` does for GPUs."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

from .. import cuda
from .device import Kind, view
from .running import Running
from .views import KEPT, Table, check_bias, check_paths, check_wide


class Origin(NamedTuple):
    """What a trace comes from, and on how many levels from the first on turns are balanced."""

    name: str
    shape: tuple[int, int, int]
    depth: int
    n_levels: int


def check_trace(kind: Kind, trace: Any, origin: Origin) -> Table:
    """Return the nodes or planes from which a trace comes, once its scores and leaves fit them."""
    return _table(kind, kind.facts(trace.scores), kind.facts(trace.leaves), origin)


@functools.lru_cache(KEPT)
def _table(kind: Kind, scores: Any, leaves: Any, origin: Origin) -> Table:
    """Return what `check_trace` does, by the facts of the arrays; 16 bits pass for float32."""
    found = view("trace.scores", scores, kind)
    check_wide("trace.scores", found.dtype)
    table = Table(*origin[:2], found.dtype, origin.depth, scores[3])
    check_paths(scores, leaves, kind, table, found.shape[:-2])
    return table


def loss(kind: Kind, trace: Any, origin: Origin, weight: float) -> tuple[Any, Any]:
    """Return the balance loss of a trace, times its weight, and its gradient."""
    table, scores, at = check_trace(kind, trace, origin), trace.scores, kind.address
    found = kind.empty((), table.dtype, scores)
    slopes = kind.empty(tuple(scores.shape), table.dtype, scores)
    run = cuda.balance.loss(_forest(trace, table, "nodes", origin.n_levels))
    with Running(kind, scores, table.device) as call:
        run(call, at(scores), at(trace.leaves), at(found), at(slopes), weight)
    return found, slopes


def move_bias(kind: Kind, bias: Any, trace: Any, origin: Origin, rate: float) -> None:
    """Do what `balance_bias` says."""
    table = check_trace(kind, trace, origin)
    check_bias(kind.facts(bias), kind, table)
    rows = "levels" if origin.name == "planes" else "nodes"
    run = cuda.balance.bias(_forest(trace, table, rows, origin.n_levels))
    with Running(kind, bias, table.device) as call:
        run(call, kind.address(trace.leaves), kind.address(bias), rate)


def _forest(trace: Any, table: Table, rows: str, n_levels: int) -> Any:
    """Return what is known of a call before its arrays."""
    n_trees, batch = table.shape[0], math.prod(trace.leaves.shape[:-1])
    sizes = table.depth, n_levels, n_trees, batch
    return cuda.balance.Forest(table.dtype, rows, *sizes, table.device)
