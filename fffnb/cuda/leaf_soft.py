"""Soft training of the leaf form on the GPU: all leaves of all samples, as in `soft`.

`bias` are the arrays of routers, hidden neurons and outputs; where there are none, any array stands
in for each.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from .dense import Steps, add_up, backward_products, forward_products, matmul
from .launch import KEPT, Call
from .soft import Forest, cooled
from .soft_paths import collect, share_out
from .tree import Operand

__all__ = ["backward", "forward"]


@functools.lru_cache(KEPT)
def forward(forest: Forest, has_bias: bool) -> Callable[..., None]:
    """Return run(...), a forward pass made ready.

    ``run(call, x, routers, table, bias, leaks, choices, weights, scores, y, gating)`` writes leaks,
    the scores of the routers and of the hidden neurons, weights and y (batch, n_out).
    """
    places, n_in, n_out, n_trees, batch, length, device = forest
    kind, n_visits = forest.kind, batch * n_trees
    n_routers, n_neurons = n_trees * places.n_choices, n_trees * places.n_scores
    make = functools.partial(matmul, kind, device=device, length=length)
    x_by, by_router = Steps(0, n_in, 1), Steps(0, n_routers, 1)
    chosen = make((batch, n_routers, n_in), (x_by, x_by, by_router), has_bias=has_bias)
    scored, mixed = forward_products(forest.sizes(n_neurons), has_bias)
    share = share_out(places).bind(device, (n_visits, 1, 1), places.threads)
    n_leaves, n_parts = places.n_deciding + 1, batch * n_out
    arrivals = _arrivals(forest)
    outputs = Steps(0, 1, n_out, n_leaves * n_out, n_trees)
    parts = Steps(n_parts, n_out, 1, n_parts, n_trees)
    added = make((batch, n_out, n_leaves), (arrivals, outputs, parts))
    whole = add_up(kind, n_trees + 1, n_parts, device)

    def run(call: Call, *arrays: Operand) -> None:
        x, routers, table, bias, leaks, choices, weights, scores, y, gating = arrays
        router_bias, hidden, of_outputs = bias
        coefs = call.take(batch * n_neurons, kind)
        chosen(call, x, routers, choices, router_bias)
        scored(call, x, table, scores, hidden)
        found, temperature = (scores, weights, coefs), cooled(kind, gating.temperature)
        share(call.stream, choices, leaks, *found, gating.seed, gating.leak, temperature)
        target = call.take((n_trees + 1) * n_parts, kind) if has_bias else y
        mixed(call, coefs, table, target)
        if has_bias:
            added(call, weights, of_outputs, target)
            whole(call, target, y)

    return run


@functools.lru_cache(KEPT)
def backward(forest: Forest, has_bias: bool, more: bool) -> Callable[..., None]:
    """Return run(...), a backward pass made ready; with `more` it takes gradients of choices.

    ``run(call, grad_y, x, routers, table, outputs, leaks, choices, weights, scores, extra, grads,
    temperature)`` writes `grads`: those of x, routers, table and, with a bias, its three arrays.
    """
    places, n_in, n_out, n_trees, batch, length, device = forest
    kind, n_visits = forest.kind, batch * n_trees
    n_routers, n_neurons = n_trees * places.n_choices, n_trees * places.n_scores
    n_leaves, n_x = places.n_deciding + 1, batch * n_in
    make = functools.partial(matmul, kind, device=device, length=length)
    by_router, routers_across = Steps(0, n_routers, 1), Steps(0, 1, n_routers)
    x_by, x_across = Steps(0, n_in, 1), Steps(0, 1, n_in)
    y_by, to_outer = Steps(0, n_out, 1), Steps(0, n_trees * n_leaves, 1)
    valued, from_neurons, to_table = backward_products(forest.sizes(n_neurons))
    outer = make((batch, n_trees * n_leaves, n_out), (y_by, y_by, to_outer))
    collected = collect(places, has_bias, more).bind(device, (n_visits, 1, 1), places.threads)
    from_routers = make((batch, n_in, n_routers), (by_router, x_across, Steps(n_x, n_in, 1)))
    to_x = add_up(kind, 2, n_x, device)
    to_routers = make((n_routers, n_in, batch), (routers_across, x_across, x_by))
    start, row, number, matrix, parts = _arrivals(forest)
    across = Steps(start, number, row, matrix, parts), Steps(0, 1, n_out, 0, n_trees)
    of_leaf = Steps(0, n_out, 1, n_leaves * n_out, n_trees)
    to_outputs = make((n_leaves, n_out, batch), (*across, of_leaf))
    to_router_bias = add_up(kind, batch, n_routers, device)
    to_hidden = add_up(kind, batch, n_neurons, device)

    def run(call: Call, *arrays: Operand) -> None:
        grad_y, x, routers, table, outputs, *states, extra, grads, temperature = arrays
        leaks, choices, weights, scores = states
        values, coefs, slopes = (call.take(batch * n_neurons, kind) for _ in range(3))
        turns = call.take(batch * n_routers, kind)
        worths = call.take(n_visits * places.n_places, kind)
        valued(call, grad_y, table, values)
        outers = values
        if has_bias:
            outers = call.take(n_visits * n_leaves, kind)
            outer(call, grad_y, outputs, outers)
        given = choices, leaks, scores, weights, outers, extra
        written = values, worths, coefs, slopes, turns
        collected(call.stream, *given, *written, cooled(kind, temperature))
        halves = call.take(2 * n_x, kind)
        from_neurons(call, slopes, table, halves)
        from_routers(call, turns, routers, halves)
        to_x(call, halves, grads[0])
        to_routers(call, turns, x, grads[1])
        to_table(call, slopes, coefs, x, grad_y, grads[2])
        if has_bias:
            to_router_bias(call, turns, grads[3])
            to_hidden(call, slopes, grads[4])
            to_outputs(call, weights, grad_y, grads[5])

    return run


def _arrivals(forest: Forest) -> Steps:
    """Return where the weights of leaves lie among those of all places, tree by tree."""
    places, n_trees = forest.places, forest.n_trees
    n_places = places.n_places
    return Steps(places.n_deciding, n_trees * n_places, 1, n_places, n_trees)
