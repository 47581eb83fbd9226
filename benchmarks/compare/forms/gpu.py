"""All forms of fffnb beside the same in plain PyTorch, on a GPU.

Time is the median between CUDA events around single Python calls in float32, the shortest of
`PASSES` medians, PyTorch's that of the fastest way to write a form (`torch_forms.WAYS`); inputs
rotate. "Both" is forward and backward, with the gradients of x and of all parameters, in fffnb of
the visited rows where a form has them. Before anything is timed, some outputs of fffnb are checked
against the dense reference, and outputs and gradients of a whole batch, of fffnb and of every way
in PyTorch, against the plain form in float64.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fffnb import RowGradient

from ...peers import torch_forms
from ...suite.problems import assert_close
from .. import record
from ..gpu.device import GPU, Call, event_seconds
from ..gpu.layer import PEER_BOUND, assert_near
from ..gpu.step import dense_rows
from .cases import CHECKED, GPU_CASES, INPUTS, Array, Case, ordered

#: The batches of each case, and how often each call is timed.
BATCHES, PASSES = (128, 4096), 3

#: How far samples are moved to see whether rounding could send them elsewhere, how many times as
#: far results move when it does, and the least share of samples that must stay where they are.
SHIFT, JUMP, CLEAR = 1e-4, 100, 0.9

#: The columns of times, and the line of a table.
COLUMNS = ("forward", "torch", "both", "torch_both")
LINE = "{:37} {:>5} {:>9} {:>9} {:>6} {:>9} {:>10} {:>6}"


class Way(NamedTuple):
    """A way to compute a form: the output, all gradients, and the inputs that rotate."""

    forward: Call
    both: Callable[[Any], list[Any]]
    inputs: Sequence[Any]


def compare(names: list[str], machine: str) -> dict[str, Any]:
    """Print the table of these cases; return all figures of the machine of this name."""
    gpu = torch.cuda.get_device_name()
    print(f"{gpu}, torch {torch.__version__}, milliseconds\n")
    print(LINE.format("form, sizes", "batch", *COLUMNS[:2], "×", *COLUMNS[2:], "×"))
    results = []
    for name in names:
        layer = GPU_CASES[name].make()
        for batch in BATCHES:
            seconds = measure(GPU_CASES[name]._replace(batch=batch), layer)
            results.append({"form": name, "batch": batch, "seconds": seconds})
            print(_row(name, batch, *(seconds[column] for column in COLUMNS)), flush=True)
            torch.cuda.empty_cache()
    return {"machine": {**record.machine(machine), "gpu": gpu}, "forms": results}


def measure(case: Case, layer: Any) -> dict[str, float]:
    """Check a layer and its peers on a batch; return their times."""
    rng = np.random.default_rng(1)
    shapes = [(case.batch, layer.n_in)] * INPUTS + [(case.batch, layer.n_out)]
    *inputs, grad_y = (send(rng.standard_normal(shape, np.float32)) for shape in shapes)
    *tensors, grad = map(torch.as_tensor, (*inputs, grad_y))
    there = layer.with_parameters({name: send(each) for name, each in layer.parameters.items()})
    exact, *forms = plain_forms(case, there)
    settle(tensors[0], exact, grad)
    ours = way_of(there, case.soft, inputs, grad_y)
    plain = [
        Way(form.forward, functools.partial(form.gradients, grad_y=grad), tensors) for form in forms
    ]
    some = tensors[0][:CHECKED].cpu().numpy()
    found = torch.as_tensor(ours.forward(inputs[0]))[:CHECKED].cpu().numpy()
    assert_close(found, case.truth(some, layer))
    check([ours, *plain], exact, tensors[0], grad, there)
    return times(ours, plain)


def send(array: Array) -> Any:
    """Return an array as a tensor on the GPU."""
    return torch.as_tensor(array, device=GPU)


def plain_forms(case: Case, layer: Any) -> list[torch_forms.Form]:
    """Return the plain form in float64, then all ways to write it, on the parameters themselves."""
    ways, given = torch_forms.WAYS[case.plain], list(layer.parameters.values())
    doubled = [torch.as_tensor(array).double() for array in given]
    return [
        torch_forms.Form(functools.partial(way, **case.options), arrays)
        for way, arrays in ((ways[0], doubled), *((way, given) for way in ways))
    ]


def way_of(layer: Any, soft: bool, inputs: Sequence[Any], grad_y: Any) -> Way:
    """Return how a layer computes, by its own call unless it is `soft`."""

    def forward(x: Any) -> Any:
        return layer.forward(x)[0] if soft else layer(x)

    def both(x: Any) -> list[Any]:
        grad_x, gradients = layer.backward(grad_y, layer.forward(x)[1], sparse=True)
        return [grad_x, *ordered(layer, gradients)]

    return Way(forward, both, inputs)


def settle(x: Tensor, exact: torch_forms.Form, grad_y: Tensor) -> None:
    """Put other samples in the place of those that rounding could send elsewhere."""

    def results(samples: Tensor) -> Tensor:
        gradients: list[Any] = exact.gradients(samples, grad_y.double())
        return torch.cat([exact.forward(samples), gradients[0]], dim=1)

    samples, generator = x.double(), torch.Generator(x.device).manual_seed(0)
    shift = torch.randn(x.shape, generator=generator, device=x.device, dtype=samples.dtype)
    right, clear = results(samples), torch.ones(len(x), dtype=torch.bool, device=x.device)
    for moved in (samples + SHIFT * shift, samples - SHIFT * shift):
        clear &= (results(moved) - right).norm(dim=1) <= JUMP * SHIFT * right.norm(dim=1)
    n = int(clear.sum())
    assert n >= CLEAR * len(x), f"only {n} of {len(x)} samples are nowhere near to a decision"
    x[~clear] = x[clear][: len(x) - n]


def check(ways: list[Way], exact: torch_forms.Form, x: Tensor, grad_y: Tensor, layer: Any) -> None:
    """Raise AssertionError where a way finds other outputs or gradients than the exact form."""
    right, wanted = exact.forward(x.double()), exact.gradients(x.double(), grad_y.double())
    tables = [x, *map(torch.as_tensor, layer.parameters.values())]
    for way in ways:
        assert_near(torch.as_tensor(way.forward(way.inputs[0])), right, PEER_BOUND)
        for found, gradient, table in zip(way.both(way.inputs[0]), wanted, tables, strict=True):
            if gradient is None:
                assert found is None, "there is a gradient of a parameter that decides alone"
            else:
                assert_near(dense(found, table), gradient.to_dense(), PEER_BOUND)


def dense(gradient: Any, table: Tensor) -> Tensor:
    """Return a gradient of any kind as a dense tensor."""
    if isinstance(gradient, RowGradient):
        return dense_rows(gradient, table)
    return torch.as_tensor(gradient).to_dense()


def times(ours: Way, plain: list[Way]) -> dict[str, float]:
    """Return the shortest times of all passes, and of all plain ways."""
    seconds = dict.fromkeys(COLUMNS, np.inf)
    sides = (("forward", "both", [ours]), ("torch", "torch_both", plain))
    for _, (forward, both, ways) in itertools.product(range(PASSES), sides):
        for way in ways:
            seconds[forward] = min(seconds[forward], event_seconds(way.forward, way.inputs))
            seconds[both] = min(seconds[both], event_seconds(way.both, way.inputs))
    return seconds


def _row(name: str, batch: int, *seconds: float) -> str:
    """Return the line of a result."""
    cells = [f"{1e3 * time:.4f}" for time in seconds]
    ratios = [f"{seconds[i + 1] / seconds[i]:.2f}" for i in (0, 2)]
    return LINE.format(name, batch, *cells[:2], ratios[0], *cells[2:], ratios[1])
