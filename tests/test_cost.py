"""Cost grows with depth, not with the number of nodes; and the commands that show it run."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def measured():
    sys.path.insert(0, str(ROOT))
    try:
        depth = importlib.import_module("benchmarks.depth")
    finally:
        sys.path.remove(str(ROOT))
    return lambda *depths, repeats: [depth.measure_in_new_process(each, repeats) for each in depths]


def test_twice_the_depth_costs_at_most_three_times_the_time(measured, monkeypatch):
    monkeypatch.setenv("NUMBA_NUM_THREADS", "1")  # threads would wait for those of other programs
    ratios = []
    for _ in range(3):  # on a busy machine a single measurement says little
        shallow, deep = measured(8, 16, repeats=100)
        ratios.append(deep["rows_ms"] / shallow["rows_ms"])
        if ratios[-1] <= 3:
            return
    pytest.fail(f"depth 16 took {ratios} times as long as depth 8")


def test_memory_is_flat_in_the_number_of_nodes(measured):
    shallow, deep = measured(8, 16, repeats=5)  # 255 and 65,535 nodes: 0.5 and 134 MB of weights
    assert shallow["numba_allocations"] == deep["numba_allocations"]
    if deep["peak_bytes"] is None:
        pytest.skip("the peak of the resident set is only known on Linux")
    assert deep["peak_bytes"] <= shallow["peak_bytes"] + 4_000_000


def test_busy_prints_a_table():
    command = [sys.executable, "-m", "benchmarks.busy", "--only", "128→64", "--calls", "5"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.count("128→64, 7, 1") == 2
