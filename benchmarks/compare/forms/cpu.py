"""The other forms of fffnb beside the same in plain NumPy and PyTorch, on the CPU.

Time is the median wall time of whole Python calls in float32, on as many threads in each library;
inputs rotate. A step is forward, backward with the gradient of x, and SGD, in fffnb on the rows
that were visited; NumPy has none. Before it is timed, fffnb is checked against the dense reference
(product keys against all sums of keys), NumPy and PyTorch against fffnb, and the gradients of
fffnb against PyTorch's, without which steps are not timed.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from fffnb import RowGradient, nn
from fffnb.cli.report import duration, table

from ...peers import installed, missing, numpy_forms
from ...suite.problems import assert_close
from .. import record
from ..cpu import threads
from ..cpu.timing import timed
from .cases import CASES, CHECKED, INPUTS, Array, Case, ordered

#: The rate of steps.
LR = 1e-6

#: The columns of times, and which are multiples of which.
COLUMNS = ("forward", "numpy", "torch", "step", "torch_step")
MULTIPLES = {"numpy": "forward", "torch": "forward", "torch_step": "step"}


def compare(names: list[str], machine: str) -> dict[str, Any]:
    """Print the table of these cases; return all figures of the machine of this name."""
    for sentence in missing("torch", "threadpoolctl"):
        print(sentence)
    threads.share()
    results = []
    for name in names:
        case = CASES[name]
        results.append({"form": name, "batch": case.batch, "seconds": measure(case)})
    multiples = [f"{peer} / {ours}" for peer, ours in MULTIPLES.items()]
    rows = [["form, sizes", "batch", *COLUMNS, *multiples]]
    print(table([*rows, *map(_row, results)]))
    return {"machine": record.machine(machine), "forms": results}


def measure(case: Case) -> dict[str, float]:
    """Check a layer and its peers; return their times."""
    layer = case.make()
    rng = np.random.default_rng(1)
    inputs = rng.standard_normal((INPUTS, case.batch, layer.n_in), np.float32)
    grad_y = rng.standard_normal((case.batch, layer.n_out), np.float32)
    forward = (lambda x: layer.forward(x)[0]) if case.soft else layer
    y = forward(inputs[0])
    assert_close(y[:CHECKED], case.truth(inputs[0, :CHECKED], layer))
    parameters = list(layer.parameters.values())
    plain = functools.partial(getattr(numpy_forms, case.plain), **case.options)

    def in_numpy(x: Array) -> Array:
        return np.asarray(plain(x, *parameters))

    assert_close(in_numpy(inputs[0]), y)
    turn = itertools.cycle(inputs)
    seconds = {"forward": timed(forward, turn), "numpy": timed(in_numpy, turn)}
    if installed("torch"):
        seconds |= in_torch(case, layer, inputs, grad_y)
    return seconds


def in_torch(case: Case, layer: Any, inputs: Array, grad_y: Array) -> dict[str, float]:
    """Return the times of PyTorch, and those of steps, which it makes sure of."""
    import torch

    from ...peers import torch_forms

    function = functools.partial(getattr(torch_forms, case.plain), **case.options)
    form = torch_forms.Form(function, list(layer.parameters.values()), lr=LR)
    tensors, grad = [torch.from_numpy(x) for x in inputs], torch.from_numpy(grad_y)
    y, trace = layer.forward(inputs[0]) if case.soft or case.steps else (layer(inputs[0]), None)
    assert_close(form.forward(tensors[0]).numpy(), y)
    turn, there = itertools.cycle(inputs), itertools.cycle(tensors)
    seconds = {"torch": timed(form.forward, there)}
    if not case.steps:
        return seconds
    grad_x, gradients = layer.backward(grad_y, trace, sparse=True)
    right = form.gradients(tensors[0], grad)
    for found, wanted in zip((grad_x, *ordered(layer, gradients)), right, strict=True):
        assert_gradient(found, wanted)
    optimizer = nn.SGD(layer.parameters, lr=LR)

    def step(x: Array) -> None:
        layer.backward_update(grad_y, layer.forward(x)[1], optimizer)

    seconds["step"] = timed(step, turn)
    seconds["torch_step"] = timed(functools.partial(form.step, grad_y=grad), there)
    return seconds


def assert_gradient(found: Any, wanted: Any) -> None:
    """Raise AssertionError where a gradient, or one of rows, is not that of PyTorch."""
    if not isinstance(found, RowGradient):
        assert_close(found, wanted.numpy())
        return
    if wanted.is_sparse:
        wanted = wanted.coalesce()
        rows, values = wanted.indices()[0].numpy(), wanted.values().numpy()
    else:
        whole = wanted.numpy().reshape(-1, found.values.shape[1])
        rows = np.flatnonzero(whole.any(axis=1))
        values = whole[rows]
    np.testing.assert_array_equal(found.rows, rows)
    assert_close(found.values, values)


def _row(result: Mapping[str, Any]) -> list[str]:
    """Return the cells of a result."""
    seconds = result["seconds"]
    times = [duration(seconds[name]) if name in seconds else "–" for name in COLUMNS]
    ratios = [
        f"{seconds[peer] / seconds[ours]:.2g}×" if peer in seconds else "–"
        for peer, ours in MULTIPLES.items()
    ]
    return [result["form"], str(result["batch"]), *times, *ratios]
