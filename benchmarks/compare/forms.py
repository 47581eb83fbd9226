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
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fffnb import RowGradient, nn
from fffnb.cli.report import duration, table

from ..peers import installed, missing, numpy_forms
from ..suite.problems import assert_close
from . import record
from .cpu import threads
from .cpu.timing import timed

Array = NDArray[Any]

#: Samples compared with the reference; the inputs of a case; and the rate of steps.
CHECKED, INPUTS, LR = 8, 4, 1e-6


class Case(NamedTuple):
    """A layer, how it is written plainly, and a batch.

    Attributes
    ----------
    make : function
        Makes the layer.
    plain : str
        The name of its functions in `numpy_forms` and `torch_forms`.
    truth : function
        From x and the layer to the right output.
    batch : int
        Samples.
    soft : bool
        Whether the forward pass is the one that trains; else it is that of a call.
    steps : bool
        Whether to train.
    options : dict
        What the plain functions take by keyword.
    """

    make: Callable[[], Any]
    plain: str
    truth: Callable[[Array, Any], Array]
    batch: int
    soft: bool = False
    steps: bool = True
    options: Mapping[str, int] = {}


def true_bag(x: Array, layer: nn.BagFFF) -> Array:
    """Return the output of a bag."""
    from fffnb.reference import bag

    return bag.forward(x, layer.nodes, layer.k).y


def true_keys(x: Array, layer: nn.ProductKeyFFF) -> Array:
    """Return the output of product keys, from the sums of all pairs."""
    rows = []
    for sample in x.astype(np.float64):
        halves = np.split(sample, 2)
        sums = np.add.outer(
            *(each @ half for each, half in zip(layer.keys[0], halves, strict=True))
        )
        chosen = np.argsort(sums, axis=None)[-layer.k :]
        rows.append(sums.ravel()[chosen] @ layer.y_vectors[chosen])
    return np.stack(rows)


def true_leaf(x: Array, layer: nn.LeafFFF, temperature: float | None = None) -> Array:
    """Return the output of the leaf form, by hard paths without a temperature."""
    from fffnb.reference import leaf

    options = leaf.Options(layer.bias, temperature=temperature)
    return leaf.forward(x, layer.routers, layer.leaves, options).y


def true_tree(x: Array, layer: nn.SoftFFF) -> Array:
    """Return the soft output of a tree."""
    from fffnb.reference import soft

    return soft.forward(x, layer.nodes, soft.Options(temperature=1.0)).y


def _bag(n_nodes: int) -> Case:
    """Return a bag of the widths of UltraFastBERT's layer."""
    make = functools.partial(nn.BagFFF, 768, 768, n_nodes, k=8)
    return Case(make, "bag", true_bag, 128, options={"k": 8})


LEAF = functools.partial(nn.LeafFFF, 784, 10, 4, 8)
SOFT_LEAF = functools.partial(true_leaf, temperature=1.0)

CASES = {
    "bag, 8 of 64, 768 → 768": _bag(64),
    "bag, 8 of 4,096, 768 → 768": _bag(4096),
    "keys, 16 of 2^20, 256 → 256": Case(
        functools.partial(nn.ProductKeyFFF, 256, 256, 1024, k=16),
        *("keys", true_keys, 128),
        options={"k": 16},
    ),
    "leaf, hard, 16 × 8, 784 → 10": Case(LEAF, "leaf", true_leaf, 2048, steps=False),
    "leaf, soft, 16 × 8, 784 → 10": Case(LEAF, "leaf_soft", SOFT_LEAF, 2048, soft=True),
    "tree, soft, depth 12, 768 → 768": Case(
        lambda: nn.SoftFFF(nn.FFF(768, 768, 12)), "tree_soft", true_tree, 128, soft=True
    ),
}

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

    from ..peers import torch_forms

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
    for found, wanted in zip((grad_x, *_ordered(layer, gradients)), right, strict=True):
        assert_gradient(found, wanted)
    optimizer = nn.SGD(layer.parameters, lr=LR)

    def step(x: Array) -> None:
        layer.backward_update(grad_y, layer.forward(x)[1], optimizer)

    seconds["step"] = timed(step, turn)
    seconds["torch_step"] = timed(functools.partial(form.step, grad_y=grad), there)
    return seconds


def _ordered(layer: nn.Layer, gradients: Mapping[str, Any]) -> list[Any]:
    """Return gradients in the order of the parameters."""
    return [gradients[name] for name in layer.parameters]


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
