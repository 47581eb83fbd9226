"""fffnb on the CPU beside plain trees and dense layers.

Time is the wall time of whole Python calls, medians, float32, on as many threads in every library
(`threads`); a peer that takes more than a second is timed once, after a first call or, from five
seconds on, by it. Inputs rotate, so that x comes from memory wherever a program's would
(`layer.draw_inputs`). Weights are cold where those that the rotation visits exceed the last-level
cache by far, else warm, as a program's would be. Weights of dense layers are read whole by every
call.

Everything is checked before it is timed: fffnb against the dense reference, trees in PyTorch, JAX
and plain Numba against fffnb, gradients included, dense layers in PyTorch against those in NumPy.
A dense feed-forward layer (FF) is the faster of width 2^depth - 1 and 2^depth. The roof is the
larger of the useful operations at the rate of sgemm and of the bytes of the visited rows, x and y
at the measured bandwidth; both are measured in this run.

Columns: `gather` and `bmm` are trees in PyTorch, `compiled` the faster of them by torch.compile,
`jax` and `numba` are trees too; `flat` is fffnb's flat form with as many y vectors, beside which
`forward` and `step` are the tree's; `linear` and `ff` are NumPy's, `nn.Linear` and `torch_ff`
PyTorch's, and `ff_published` is NumPy's FF of the width that the published benchmark has.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from typing import Any

import numba

from ...machine import read_bandwidth, sgemm_rate
from ...peers import missing
from .. import claims, record
from ..cases import PUBLISHED, Case
from ..table import Result, Table, ratio
from . import dense, flat, layer, threads, trees
from .layer import ROTATE_BYTES, draw_inputs

__all__ = ["CASES", "compare", "draw_inputs"]

CASES = (
    *PUBLISHED,
    Case(768, 768, 12, 1),
    Case(768, 768, 12, 128),
    Case(768, 768, 12, 1024),
    Case(768, 768, 12, 4096),
    Case(4096, 64, 12, 4096),
    Case(784, 500, 8, 128),
    Case(784, 500, 8, 4096),
    Case(256, 256, 16, 64),
)

TREES = ("gather", "bmm", "compiled", "jax", "numba")
LINEAR = ("linear", "nn.Linear", "linear_compiled")
FEED_FORWARD = ("ff", "torch_ff", "ff_compiled", "ff_published")
STEPS = ("gather_step", "bmm_step", "jax_step", "numba_step", "ff_step", "torch_ff_step")

TABLES = {
    "forward, trees, ms": Table(
        columns=("forward", *TREES),
        ours="forward",
        peers=TREES,
        notes={
            "GFLOP/s": lambda result: float(result["roof"]["gflops"]),
            "compute": lambda result: 1e3 * result["roof"]["compute"],
            "memory": lambda result: 1e3 * result["roof"]["memory"],
            "of roof": lambda result: float(result["roof"]["fraction"]),
        },
    ),
    "flat form, ms": Table(
        columns=("flat", "forward", "flat_step", "step"),
        ours="flat",
        peers=("forward",),
        notes={"step/flat_step": lambda result: ratio(result, "step", "flat_step")},
    ),
    "forward, dense layers, ms": Table(
        columns=("forward", *LINEAR, *FEED_FORWARD),
        ours="forward",
        peers=(*LINEAR, *FEED_FORWARD),
        notes={},
    ),
    "training step, ms": Table(
        columns=("backward", "step", *STEPS),
        ours="step",
        peers=STEPS,
        notes={"bwd/fwd": lambda result: ratio(result, "backward", "forward")},
    ),
}


def generic_name() -> str:
    """Return the name of a machine with as many cores as this process may use."""
    return f"cpu-{numba.config.NUMBA_DEFAULT_NUM_THREADS}core"  # type: ignore[attr-defined]


def compare(cases: list[Case], name: str, *, compiled: bool) -> dict[str, Any]:
    """Print the tables; return all figures of the machine of this name."""
    for sentence in missing("torch", "jax", "threadpoolctl"):
        print(sentence)
    threads.share()
    rates = {"sgemm": sgemm_rate(), "read": read_bandwidth(ROTATE_BYTES)}
    machine = {**record.machine(name), **rates}
    print(
        f"{name}: {machine['threads']} threads, sgemm {rates['sgemm'] / 1e9:.0f} GFLOP/s, "
        f"reading {rates['read'] / 1e9:.1f} GB/s\n"
    )
    results: Iterable[Result] = measured(cases, compiled=compiled)
    for title, table in TABLES.items():
        print(title)
        results = table.show(results)
    restated = claims.restated(results)
    if restated:
        claims.show(restated)
    return {"machine": machine, "cases": results, "claims": restated}


def measured(cases: list[Case], *, compiled: bool) -> Iterator[Result]:
    """Yield the results of the cases, memory given back after each."""
    for case in cases:
        drawn = layer.draw(case)
        result = layer.measure(case, drawn)
        result["seconds"] |= flat.seconds(drawn)
        result["seconds"] |= trees.seconds(drawn, compiled=compiled)
        result["seconds"] |= dense.seconds(case, drawn, compiled=compiled)
        del drawn
        gc.collect()
        yield result
