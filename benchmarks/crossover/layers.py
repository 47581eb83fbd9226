"""The calls that are timed: steps of fffnb, dense layers, and who checks them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import fffnb
from fffnb.reference import tree as reference

from ..compare.cases import Case
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


def dense_calls(case: Case, grad_y: Any, make: Callable[..., Any]) -> Iterator[Call]:
    """Yield the calls of the dense layers that `make` makes from their widths."""
    shapes: list[tuple[str, tuple[int, ...]]] = [("Linear", (case.n_in, case.n_out))]
    if 4 * max(case.widths) * (case.n_in + case.n_out) <= DENSE_BYTES:
        shapes += [("dense", (case.n_in, width, case.n_out)) for width in case.widths]
    for name, widths in shapes:
        layer = make(*widths)
        yield Call("forward", name, layer.forward)
        yield Call("step", name, functools.partial(layer.step, grad_y=grad_y))
