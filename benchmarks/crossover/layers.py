"""The calls that are timed: steps of fffnb, dense layers, and who checks them."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import fffnb
from fffnb.reference import tree as reference

from ..compare.cases import Case
from ..peers import dense
from ..suite.problems import HOST, Array, Kind, assert_close, clear_samples, sgd

#: A dense layer whose weights take more bytes than this is not timed.
DENSE_BYTES = 600_000_000


class Call(NamedTuple):
    """A call on inputs: "forward" or "step", and of whom."""

    what: str
    name: str
    function: Callable[[Any], object]


def keep_fastest(times: dict[str, dict[str, float]], call: Call, seconds: float) -> None:
    """Keep the time of a call where it is the shortest of its name."""
    known = times.setdefault(call.what, {})
    known[call.name] = min(seconds, known.get(call.name, seconds))


def step(nodes: Any, grad_y: Any) -> Callable[[Any], None]:
    """Return a training step of fffnb: forward, then backward and SGD in one."""
    rule = sgd(1e-6)

    def call(x: Any) -> None:
        _, trace = fffnb.fff_forward(x, nodes, return_trace=True)
        fffnb.fff_backward_update(grad_y, x, nodes, trace, rule)

    return call


def check_step(x: Array, nodes: Array, grad_y: Array, kind: Kind = HOST) -> None:
    """Raise AssertionError where a step on a kind of array differs from the reference."""
    clear = clear_samples(x, nodes)
    x, grad_y = x[clear], grad_y[clear]
    right = reference.backward(grad_y, x, nodes)[:2]
    x, updated, grad_y = map(kind.send, (x, nodes.copy(), grad_y))
    _, trace = fffnb.fff_forward(x, updated, return_trace=True)
    grad_x = fffnb.fff_backward_update(grad_y, x, updated, trace, sgd(1.0))
    assert_close(kind.fetch(grad_x), right[0])
    assert_close(nodes - kind.fetch(updated), right[1])


def numpy_calls(case: Case, grad_y: Array) -> Iterator[Call]:
    """Yield the dense layers through NumPy."""
    shape = (case.n_in, case.n_out)
    yield Call("forward", "Linear", dense.linear(*shape))
    for width in dense_widths(case):
        yield Call("forward", "dense", dense.feed_forward(*shape, width))
        take_step = dense.feed_forward_step(*shape, width)
        yield Call("step", "dense", functools.partial(take_step, grad_y=grad_y))


def torch_calls(case: Case, grad_y: Any) -> Iterator[Call]:
    """Yield the dense layers through PyTorch, where grad_y is."""
    from ..peers.torch_layers import Dense

    wide = [("dense", (case.n_in, width, case.n_out)) for width in dense_widths(case)]
    for name, widths in itertools.chain([("Linear", (case.n_in, case.n_out))], wide):
        layer = Dense(*widths, device=grad_y.device)
        yield Call("forward", name, layer.forward)
        yield Call("step", name, functools.partial(layer.step, grad_y=grad_y))


def dense_widths(case: Case) -> tuple[int, ...]:
    """Return the widths of the dense layers, none where they would be too large."""
    fits = 4 * max(case.widths) * (case.n_in + case.n_out) <= DENSE_BYTES
    return case.widths if fits else ()
