"""Soft training of the tree on device arrays: what `ops.soft` does for GPUs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import cuda
from ..activations import ACTIVATIONS
from .device import BYTES, Kind, kind_of, view
from .paths import check_leak, check_temperature, gate_code
from .running import Running
from .soft_trace import SoftTrace
from .trace import Gradients, activation_code, check_origin
from .tree_cuda import fill_with_zeros
from .views import (
    Plan,
    check_samples,
    check_shaped,
    check_wide,
    forward_plan,
    offset_of,
    vector_length,
)

#: Bits of the seed of the leaks of a call.
SEED_BITS = 62


def forward(
    kind: Kind,
    x: Any,
    nodes: Any,
    temperature: float,
    gate: str,
    leak: float,
    rng: int | np.random.Generator | None,
    bias: Any,
    activation: str,
    n_out: int | None,
    return_trace: bool,
) -> Any:
    """Do what `fff_forward_soft` says."""
    plan = _planned(kind, x, nodes, bias, activation, n_out)
    temperature, leak, code = check_temperature(temperature), check_leak(leak), gate_code(gate)
    table, whole = plan.table, (*plan.lead, *plan.table.shape[:2])
    refuse_beyond_device("scores and weights", (2, *whole), table.dtype, table.device)
    y = kind.empty((*plan.lead, plan.n_out), table.dtype, nodes)
    scores, weights = (kind.empty(whole, table.dtype, nodes) for _ in range(2))
    leaks = kind.empty(whole, "bool", nodes) if leak else None
    if plan.batch > 0:
        at = kind.address
        places = cuda.soft.Places(table.dtype, table.depth, 0, plan.activation, code, leak > 0)
        forest = forest_of(plan, places, at(x), at(nodes), at(y))
        run = cuda.soft.forward(forest, plan.has_bias)
        given = at(x), at(nodes), None if bias is None else at(bias)
        leaky = at(scores if leaks is None else leaks)
        gating = cuda.soft.Gating(draw_seed(rng, leak), leak, temperature)
        with Running(kind, nodes, table.device) as call:
            run(call, *given, leaky, at(scores), at(weights), at(y), gating)
    if not return_trace:
        return y
    made_by = activation, gate, temperature, plan.has_bias
    return y, SoftTrace(scores, weights, leaks, *made_by, table.shape, plan.n_in)


def backward(
    kind: Kind, grad_y: Any, x: Any, nodes: Any, trace: SoftTrace, grad_scores: Any
) -> Gradients:
    """Do what `fff_backward_soft` says."""
    plan = _planned(kind, x, nodes, None, "identity", None)
    table, at, n_in = plan.table, kind.address, plan.n_in
    grads = check_samples("grad_y", kind.facts(grad_y), kind, table)
    check_shaped("grad_y", grads, (*plan.lead, plan.n_out), "that of the output of x and nodes")
    check_origin(trace, table.shape, n_in, SoftTrace, "fff_forward_soft")
    code, temperature = gate_code(trace.gate), check_temperature(trace.temperature)
    states = {"trace.scores": trace.scores, "trace.weights": trace.weights}
    if grad_scores is not None:
        states["grad_scores"] = grad_scores
    whole = *plan.lead, *table.shape[:2]
    for name, array in states.items():
        check_state(name, array, kind, table.dtype, table.device, whole)
    if trace.leaks is not None:
        check_state("trace.leaks", trace.leaks, kind, "bool", table.device, whole)
    grad_x = kind.empty((*plan.lead, n_in), table.dtype, nodes)
    grad_nodes = kind.empty(table.shape, table.dtype, nodes)
    grad_bias = kind.empty(table.shape[:2], table.dtype, nodes) if trace.has_bias else None
    with Running(kind, nodes, table.device) as call:
        if plan.batch == 0:
            clear(call, grad_nodes, grad_bias)
            return Gradients(grad_x, grad_nodes, grad_bias)
        of_act, leaky = ACTIVATIONS.index(trace.activation), trace.leaks is not None
        places = cuda.soft.Places(table.dtype, table.depth, 0, of_act, code, leaky)
        forest = forest_of(plan, places, *map(at, (grad_y, x, nodes, grad_x, grad_nodes)))
        run = cuda.soft.backward(forest, grad_scores is not None)
        scores = at(trace.scores)
        run(
            call,
            at(grad_y),
            at(x),
            at(nodes),
            at(trace.leaks) if leaky else scores,
            scores,
            at(trace.weights),
            scores if grad_scores is None else at(grad_scores),
            at(grad_x),
            at(grad_nodes),
            None if grad_bias is None else at(grad_bias),
            temperature,
        )
    return Gradients(grad_x, grad_nodes, grad_bias)


def entropy(
    kind: Kind, scores: Any, n_deciding: int, gate: int, temperature: float, scale: float
) -> tuple[Any, Any]:
    """Return the entropy of decisions, times `scale`, and its gradient.

    They are those of the first `n_deciding` scores of each tree, which are checked.
    """
    dtype, device, at = kind.dtype(scores.dtype), kind.device(scores), kind.address
    shape = tuple(scores.shape)
    n_choices, n_visits = shape[-1], math.prod(shape[:-1])
    loss, slopes = kind.empty((), dtype, scores), kind.empty(shape, dtype, scores)
    run = cuda.soft.entropy(dtype, gate, n_choices, n_deciding, n_visits, device)
    with Running(kind, scores, device) as call:
        run(call, at(scores), at(loss), at(slopes), check_temperature(temperature), scale)
    return loss, slopes


def check_choices(name: str, scores: Any, forest: tuple[int, ...]) -> None:
    """Refuse scores of a trace that cannot be those of a forest of so many trees and nodes."""
    kind: Any = kind_of(scores)
    found = view(name, kind.facts(scores), kind)
    check_wide(name, found.dtype)
    lead = found.shape[:-2]
    check_shaped(name, found, (*lead, *forest), "that of the parameters and the samples")


def _planned(kind: Kind, x: Any, nodes: Any, bias: Any, activation: str, n_out: int | None) -> Plan:
    """Return the plan of a forward pass, which is that of the tree, but not for 16 bits."""
    activation_code(activation)
    of_bias = None if bias is None else kind.facts(bias)
    plan = forward_plan(kind, kind.facts(x), kind.facts(nodes), of_bias, None, activation, n_out)
    check_wide("nodes", plan.table.dtype)
    return plan


def forest_of(plan: Plan, places: Any, *addresses: Any) -> Any:
    """Return what is known of a call whose arrays start at these addresses."""
    table = plan.table
    length = vector_length(table.dtype, (), offset_of(*addresses))
    sizes = plan.n_in, plan.n_out, table.shape[0], plan.batch
    return cuda.soft.Forest(places, *sizes, length, table.device)


def check_state(
    name: str, array: Any, kind: Kind, dtype: str, device: int, shape: tuple[int, ...]
) -> None:
    """Refuse what a trace holds, or a gradient of it, that does not fit the samples."""
    found = view(name, kind.facts(array), kind, device)
    if found.dtype != dtype:
        raise TypeError(f"{name} must be {dtype}, got {found.dtype}")
    check_shaped(name, found, shape, "that of the parameters and the leading axes of x")


def draw_seed(rng: int | np.random.Generator | None, leak: float) -> int:
    """Return the seed of the leaks of a call, 0 if there are none."""
    return int(np.random.default_rng(rng).integers(1 << SEED_BITS)) if leak else 0


def refuse_beyond_device(name: str, shape: tuple[int, ...], dtype: str, device: int) -> None:
    """Raise MemoryError before an allocation that a device cannot hold."""
    needed, present = BYTES[dtype] * math.prod(shape), cuda.launch.memory_of(device)
    if needed > present:
        raise MemoryError(
            f"{name} of shape {shape} and dtype {dtype} would take {needed:,} bytes, "
            f"device {device} has {present:,}"
        )


def clear(call: Running, *arrays: Any) -> None:
    """Fill the arrays that there are with zeros."""
    for array in arrays:
        if array is not None:
            size = BYTES[call.kind.dtype(array.dtype)]
            fill_with_zeros(call, array, size * math.prod(array.shape))
