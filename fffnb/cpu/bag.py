"""The bag on the CPU: the kernels of `bag_choose` and `bag_mix` put to work.

Arguments are checked, C-contiguous and flattened to one batch axis by the caller; `nodes` is
(n_trees, n_nodes, n_in + n_out), `bias` (n_trees, n_nodes) or None, `activation` a code.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import activations, buffers
from . import bag_choose, bag_mix, jit, tree

Array = NDArray[Any]

#: Bytes of the vectors that a thread meets with all its samples before it goes on to the next.
BLOCK_BYTES = 256_000


#: Floating-point operations that take as long as to look at one score, among a few dozen.
CHOICE_WORK = 50


class Choice(NamedTuple):
    """The rows of a table that samples chose.

    Attributes
    ----------
    starts : ndarray of int64, shape (batch + 1,)
        Sample s has the entries from starts[s] to starts[s + 1].
    rows : ndarray of int64, shape (n_entries,)
        The rows.
    scores : ndarray, shape (n_entries,)
        Their scores.
    """

    starts: Array
    rows: Array
    scores: Array


class Visits(NamedTuple):
    """Who chose which row of a table.

    Attributes
    ----------
    rows : ndarray of int64, shape (n_rows,)
        The chosen rows, ascending.
    starts : ndarray of int64, shape (n_rows + 1,)
        Row r has the entries from starts[r] to starts[r + 1] of `order`.
    order, samples : ndarray of int64, shape (n_entries,)
        The entries of a choice sorted by row, and their samples.
    """

    rows: Array
    starts: Array
    order: Array
    samples: Array


def forward(
    x: Array, nodes: Array, bias: Array | None, k: int | None, activation: int, y: Array
) -> Choice:
    """Write y (batch, n_out) and return what the samples chose."""
    n_trees, _, width = nodes.shape
    table = nodes.reshape(-1, width)
    scores = score(x, table, bias, n_trees)
    choice = choose_positive(scores) if k is None else choose_best(scores, k)
    mix(choice, activation, table, x.shape[1], y)
    return choice


def score(x: Array, table: Array, bias: Array | None, n_groups: int, n_parts: int = 1) -> Array:
    """Return the scores (batch, n_groups, n) of rows in groups of n, as the kernel does."""
    batch, n_in, n = len(x), x.shape[1] // n_parts, len(table) // n_groups
    scores = buffers.empty((batch, n_groups, n), x.dtype)
    if batch == 0:
        return scores
    n_blocks = -(-n // max(3, BLOCK_BYTES // (n_in * x.itemsize)))
    block = 3 * -(-n // (3 * n_blocks))  # as even as whole tiles can be
    found = buffers.empty((n_groups * -(-n // block) * -(-batch // 4), 16), x.dtype)
    row, work = tree.as_row(bias, x.dtype), 2 * scores.size * n_in
    bag_choose.score(work, x, n_parts, table, row, block, found, scores)
    return scores


def choose_positive(scores: Array) -> Choice:
    """Return the choice of all rows of positive score."""
    batch = len(scores)
    scores = scores.reshape(batch, scores.shape[1] * scores.shape[2])
    starts = np.zeros(batch + 1, np.int64)
    if batch > 0:
        bag_choose.count_positive(2 * scores.size, scores, starts[1:])
        np.cumsum(starts, out=starts)
    rows = buffers.empty(starts[-1], np.int64)
    kept = buffers.empty(starts[-1], scores.dtype)
    if len(rows) > 0:
        bag_choose.list_positive(2 * scores.size, scores, starts, rows, kept)
    return Choice(starts, rows, kept)


def choose_best(scores: Array, k: int) -> Choice:
    """Return the choice of the k best rows of each group."""
    batch, n_groups, _ = scores.shape
    best, rows = best_of(scores, k, n_groups)
    starts = np.arange(batch + 1) * (n_groups * k)
    return Choice(starts, rows.reshape(-1), best.reshape(-1))


def best_of(scores: Array, k: int, n_groups: int) -> tuple[Array, Array]:
    """Return the k best scores along the last axis and their rows; arguments as of the kernel."""
    scores = scores.reshape(-1, scores.shape[2])
    best = buffers.empty((len(scores), k), scores.dtype)
    rows = buffers.empty(best.shape, np.int64)
    if len(scores) > 0:
        bag_choose.choose(CHOICE_WORK * scores.size, scores, n_groups, best, rows)
    return best, rows


def mix(choice: Choice, activation: int, table: Array, start: int, out: Array) -> None:
    """Write the sum of act(score) * row of each sample, from column `start` of the rows on."""
    if len(out) == 0:
        return
    coefs = buffers.empty((1, len(choice.rows)), out.dtype)
    work = 2 * coefs.size * out.shape[1]
    rows = choice.rows[None]
    bag_mix.mix_chosen(
        work, choice.starts, rows, choice.scores, activation, coefs, table, start, out
    )


def backward(
    grad_y: Array, nodes: Array, activation: int, choice: Choice, grad_x: Array
) -> tuple[Array, Array]:
    """Write grad_x (batch, n_in); return the gradients of the scores, and act(score)."""
    table = nodes.reshape(-1, nodes.shape[2])
    slopes, coefs = weigh(grad_y, table, activation, choice)
    mix(choice._replace(scores=slopes), activations.IDENTITY, table, 0, grad_x)
    return slopes, coefs


def weigh(grad_y: Array, table: Array, activation: int, choice: Choice) -> tuple[Array, Array]:
    """Return the gradient of the score of each entry, and act(score); y vectors end the rows."""
    slopes, coefs = (buffers.empty(choice.scores.shape, grad_y.dtype) for _ in range(2))
    if len(slopes) > 0:
        work = 2 * slopes.size * grad_y.shape[1]
        chunk = tree.chunk_of(len(grad_y), work)
        found = buffers.empty((-(-len(grad_y) // chunk), 16), grad_y.dtype)
        bag_mix.dot_chosen(work, *choice, activation, chunk, found, grad_y, table, slopes, coefs)
    return slopes, coefs


def visit(choice: Choice, n_rows: int) -> Visits:
    """Return who chose which of the n_rows rows of a table."""
    order = tree.sort(choice.rows, int(n_rows).bit_length())
    rows = choice.rows[order]
    firsts = np.flatnonzero(np.diff(rows, prepend=-1))
    samples = np.repeat(np.arange(len(choice.starts) - 1), np.diff(choice.starts))[order]
    return Visits(rows[firsts], np.append(firsts, len(rows)), order, samples)


def gather(
    x: Array,
    grad_y: Array,
    visits: Visits,
    slopes: Array,
    coefs: Array,
    out: Array,
    *,
    sparse: bool,
) -> None:
    """Write the gradients [x | y] of the visited rows to those of `out`, or, `sparse`, one by one.

    `slopes` weigh x, `coefs` weigh grad_y, one number for each entry of the choice.
    """
    batch, n_rows, n_entries = len(x), len(visits.rows), len(visits.order)
    if n_entries == 0:
        return
    work = 2 * n_entries * out.shape[1]
    n_items = min(n_rows, 4 * jit.threads_for(work))
    share = np.arange(n_items) * n_entries // n_items
    bounds = np.append(np.searchsorted(visits.starts[:-1], share), n_rows)
    fit = tree.STEP_BYTES // (out.shape[1] * out.itemsize)
    chunk = max(fit, 8 * batch * n_rows // n_entries)  # 8 samples a row, or it is not worth a turn
    bag_mix.sum_rows(
        work,
        x,
        grad_y,
        visits.samples[None],
        slopes[visits.order][None],
        coefs[visits.order][None],
        visits.starts,
        bounds,
        max(1, chunk),
        buffers.empty(n_rows, np.int64),
        np.arange(n_rows) if sparse else visits.rows,
        out,
    )


def sum_slopes(visits: Visits, slopes: Array) -> Array:
    """Return the gradient of the bias of each visited row."""
    if len(visits.rows) == 0:
        return slopes
    return np.add.reduceat(slopes[visits.order], visits.starts[:-1])
