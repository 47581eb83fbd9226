"""Soft training of the leaf form on device arrays: what `ops.leaf_soft` does for GPUs."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from .. import cuda
from ..activations import ACTIVATIONS
from ..leaves import LeafBias
from .device import Kind
from .leaf_cuda import LeafPlan, check_grad_y, checked, plan_of
from .leaf_trace import (
    LeafGradients,
    LeafSoftTrace,
    bias_shapes,
    check_leaf_bias,
    check_leaf_soft_origin,
)
from .paths import check_leak, check_temperature, gate_code
from .running import Running
from .soft_cuda import check_state, clear, draw_seed, forest_of, refuse_beyond_device
from .trace import activation_code


def forward(
    kind: Kind,
    x: Any,
    routers: Any,
    leaves: Any,
    temperature: float,
    gate: str,
    leak: float,
    rng: int | np.random.Generator | None,
    bias: Any,
    activation: str,
    return_trace: bool,
) -> Any:
    """Do what `leaf_forward_soft` says."""
    bias = check_leaf_bias(bias)
    arrays = checked(kind, x, routers, leaves, bias)
    temperature, leak = check_temperature(temperature), check_leak(leak)
    codes = activation_code(activation), gate_code(gate)
    plan = plan_of(*arrays, codes[0], bias is not None)
    table, lead, at = plan.table, plan.lead, kind.address
    (n_trees, n_nodes, _), of_neurons = table.shape, plan.leaves_shape[:3]
    room = 3, *lead, *of_neurons
    refuse_beyond_device("scores and weights", room, table.dtype, table.device)
    make = functools.partial(kind.empty, dtype=table.dtype, like=routers)
    y, choices = make((*lead, plan.n_out)), make((*lead, n_trees, n_nodes))
    weights, scores = make((*lead, n_trees, 2 * n_nodes + 1)), make((*lead, *of_neurons))
    leaks = kind.empty(choices.shape, "bool", routers) if leak else None
    if plan.batch > 0:
        given = at(x), at(routers), at(leaves)
        biases = [at(array) for array in bias or ()]
        forest = _forest(plan, codes[1], leak > 0, *given, *biases[2:], at(y))
        run = cuda.leaf_soft.forward(forest, plan.has_bias)
        leaky = at(choices if leaks is None else leaks)
        states = leaky, at(choices), at(weights), at(scores)
        gating = cuda.soft.Gating(draw_seed(rng, leak), leak, temperature)
        with Running(kind, routers, table.device) as call:
            run(call, *given, biases or (None,) * 3, *states, at(y), gating)
    if not return_trace:
        return y
    made_by = activation, gate, temperature, plan.has_bias
    found = choices, weights, scores, leaks
    return y, LeafSoftTrace(*found, *made_by, table.shape, plan.leaves_shape)


def backward(
    kind: Kind,
    grad_y: Any,
    x: Any,
    routers: Any,
    leaves: Any,
    trace: LeafSoftTrace,
    bias: Any,
    grad_scores: Any,
) -> LeafGradients:
    """Do what `leaf_backward_soft` says."""
    bias = check_leaf_bias(bias)
    arrays = checked(kind, x, routers, leaves, bias)
    check_leaf_soft_origin(trace, arrays[0].shape, arrays[2], bias)
    plan = plan_of(*arrays, ACTIVATIONS.index(trace.activation), trace.has_bias)
    table, at = plan.table, kind.address
    check_grad_y(grad_y, kind, plan)
    gate, temperature = gate_code(trace.gate), check_temperature(trace.temperature)
    _check_states(trace, grad_scores, kind, plan)
    make = functools.partial(kind.empty, dtype=table.dtype, like=routers)
    grads = [make((*plan.lead, plan.n_in)), make(table.shape), make(plan.leaves_shape)]
    if plan.has_bias:
        grads += [make(shape) for shape in bias_shapes(table.shape, plan.leaves_shape)]
    with Running(kind, routers, table.device) as call:
        if plan.batch == 0:
            clear(call, *grads)
        else:
            leaky, results = trace.leaks is not None, [at(array) for array in grads]
            given = [at(array) for array in (grad_y, x, routers, leaves)]
            choices, states = at(trace.router_scores), (trace.weights, trace.scores)
            outputs = choices if bias is None else at(bias.output)
            forest = _forest(plan, gate, leaky, *given, outputs, *results)
            run = cuda.leaf_soft.backward(forest, plan.has_bias, grad_scores is not None)
            leaks = at(trace.leaks) if leaky else choices
            extra = choices if grad_scores is None else at(grad_scores)
            found = leaks, choices, *map(at, states), extra
            run(call, *given, outputs, *found, results, temperature)
    grad_x, grad_routers, grad_leaves, *biases = grads
    grad_bias = LeafBias(*biases) if plan.has_bias else None
    return LeafGradients(grad_x, grad_routers, grad_leaves, grad_bias)


def _forest(plan: LeafPlan, gate: int, leaks: bool, *addresses: Any) -> Any:
    """Return what is known of a call whose arrays start at these addresses."""
    width, levels = plan.leaves_shape[2], plan.leaves_shape[1].bit_length()
    places = cuda.soft.Places(plan.table.dtype, levels, width, plan.activation, gate, leaks)
    return forest_of(plan, places, *addresses)


def _check_states(trace: LeafSoftTrace, grad_scores: Any, kind: Kind, plan: LeafPlan) -> None:
    """Refuse what no forward pass made, and gradients of router scores that do not fit."""
    (n_trees, n_nodes, _), dtype = plan.table.shape, plan.table.dtype
    of_routers = *plan.lead, n_trees, n_nodes
    states = [
        ("trace.router_scores", trace.router_scores, dtype, of_routers),
        ("trace.weights", trace.weights, dtype, (*plan.lead, n_trees, 2 * n_nodes + 1)),
        ("trace.scores", trace.scores, dtype, (*plan.lead, *plan.leaves_shape[:3])),
    ]
    if trace.leaks is not None:
        states.append(("trace.leaks", trace.leaks, "bool", of_routers))
    if grad_scores is not None:
        states.append(("grad_scores", grad_scores, dtype, of_routers))
    for name, array, number, shape in states:
        check_state(name, array, kind, number, plan.table.device, shape)
