"""``python -m benchmarks.depth``: time and memory of a training step against the depth of the tree.

256 → 256, batch 64, float32, one tree. Each depth runs in a process of its own. "rows" is forward,
backward with row gradients and SGD on them; "fused" is forward, then backward and SGD in one.
Memory is what the steps add to the resident set at its peak, weights, state and batch being there
already; allocations are what the runtime of Numba counts in a step (array headers, not buffers).
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

DEPTHS = (8, 10, 12, 14, 16, 18, 20)
N_IN = N_OUT = 256
BATCH = 64


def measure(depth: int, repeats: int) -> dict[str, Any]:
    """Measure one depth in this process."""
    rtsys: Any = importlib.import_module("numba.core.runtime").rtsys

    from benchmarks.suite.problems import Sizes
    from benchmarks.suite.step import fused_step, step_with_rows

    small, sizes = (Sizes(N_IN, N_OUT, levels, BATCH, threads=None) for levels in (2, depth))
    for make in (step_with_rows, fused_step):  # compile before memory is looked at
        make(small)()
    steps = {"rows": warm(step_with_rows(sizes)), "fused": warm(fused_step(sizes))}
    allocated = rtsys.get_allocation_stats().alloc
    before = reset_peak()
    times = {name: [seconds(step) for _ in range(repeats)] for name, step in steps.items()}
    return {
        "depth": depth,
        "nodes": 2**depth - 1,
        "weights_bytes": (2**depth - 1) * (N_IN + N_OUT) * 4,
        **{f"{name}_ms": 1e3 * statistics.median(each) for name, each in times.items()},
        "peak_bytes": None if before is None else peak() - before,
        "numba_allocations": (rtsys.get_allocation_stats().alloc - allocated) / (2 * repeats),
    }


def warm(step: Callable[[], None]) -> Callable[[], None]:
    """Return a step that has run once."""
    step()
    return step


def seconds(call: Callable[[], None]) -> float:
    """Return the wall time of a call."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def reset_peak() -> int | None:
    """Forget the peak of the resident set and return its size, or None where Linux is not."""
    if not os.path.exists("/proc/self/clear_refs"):
        return None
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def peak() -> int:
    """Return the peak of the resident set since `reset_peak`, in bytes."""
    return status("VmHWM")


def status(field: str) -> int:
    """Return a size from the process status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return 1024 * int(line.split()[1])
    raise KeyError(field)


def measure_in_new_process(depth: int, repeats: int) -> dict[str, Any]:
    """Measure one depth in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.depth", "--only", str(depth)]
    run = subprocess.run(
        [*command, "--repeats", str(repeats)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "NUMBA_NRT_STATS": "1"},
        cwd=Path(__file__).parents[1],
    )
    result: dict[str, Any] = json.loads(run.stdout)
    return result


def main() -> None:
    """Print the table, or JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.depth", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--repeats", type=int, default=300, help="steps of each kind")
    parser.add_argument("--only", type=int, metavar="DEPTH", help="one depth, in this process")
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measure(options.only, options.repeats)))
        return
    rows = [measure_in_new_process(depth, options.repeats) for depth in DEPTHS]
    if options.json:
        print(json.dumps(rows, indent=2))
        return
    print("depth      nodes  weights MB  rows ms  × depth 8  fused ms  peak added MB  allocations")
    for row in rows:
        added = "–" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 1e6:.2f}"
        print(
            f"{row['depth']:5}  {row['nodes']:9,}  {row['weights_bytes'] / 1e6:10,.1f}"
            f"  {row['rows_ms']:7.3f}  {row['rows_ms'] / rows[0]['rows_ms']:9.2f}"
            f"  {row['fused_ms']:8.3f}  {added:>13}  {row['numba_allocations']:11.1f}"
        )


if __name__ == "__main__":
    main()
