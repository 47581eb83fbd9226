"""Processes and threads: importing costs little, and nothing dies."""

import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

import fffnb
from fffnb.cpu import jit

WORK = """
import numpy as np, fffnb
from fffnb.cpu import jit
x = np.random.default_rng(0).standard_normal((4096, 128)).astype(np.float32)
nodes = fffnb.init_nodes(128, 128, 9)
def work():
    y, trace = fffnb.fff_forward(x, nodes, return_trace=True)
    grads = fffnb.fff_backward(y, x, nodes, trace, sparse=True)
    return y.tobytes() + grads.nodes.values.tobytes()
"""

THREADED = 'assert jit.choose(2 * len(x) * 9 * 256) == "parallel"'


def python(code, *, env=None, cwd=None, timeout=120):
    """Run code in a new process and return what it printed."""
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, **(env or {})},
        cwd=cwd,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_import_costs_at_most_50_ms_more_than_numba():
    timed = "import time; t = time.perf_counter(); import {}; print(time.perf_counter() - t)"
    seconds = {"numba": [], "fffnb": []}
    for _ in range(7):
        for module, times in seconds.items():
            times.append(float(python(timed.format(module))))
    medians = {module: statistics.median(times) for module, times in seconds.items()}
    assert medians["fffnb"] <= medians["numba"] + 0.05, medians


def test_import_starts_no_threads_and_loads_no_framework():
    code = """
import json, sys, threading
import fffnb
tasks = "/proc/self/task"
import os
print(json.dumps({
    "threads": threading.active_count(),
    "tasks": len(os.listdir(tasks)) if os.path.isdir(tasks) else 1,
    "modules": sorted(sys.modules),
}))
"""
    # NumPy's own BLAS starts threads; one thread leaves only those that fffnb would start.
    found = json.loads(python(code, env={"OPENBLAS_NUM_THREADS": "1"}))
    assert found["threads"] == found["tasks"] == 1
    roots = {name.split(".")[0] for name in found["modules"]}
    assert not roots & {"torch", "jax", "cupy", "numba_cuda", "sklearn", "matplotlib", "tqdm"}
    assert "numba.cuda" not in found["modules"]


@pytest.mark.parametrize("layer", ["omp", "workqueue"])
def test_threads_may_call_at_once(layer):
    code = f"""{WORK}
import threading
expected, wrong = work(), []
assert jit.threading_layer() == {layer!r}
{THREADED}
def many():
    wrong.extend(1 for _ in range(40) if work() != expected)
threads = [threading.Thread(target=many) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print("same" if not wrong else "other")
"""
    assert python(code, env={"NUMBA_THREADING_LAYER": layer}) == "same\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork is of POSIX systems")
@pytest.mark.parametrize("layer", ["omp", "workqueue"])
def test_forked_children_and_grandchildren_compute(layer):
    code = f"""{WORK}
import os
{THREADED}
expected = work()
def forked(then):
    child = os.fork()
    if child == 0:
        os._exit(0 if work() == expected and then() else 1)
    return os.waitpid(child, 0)[1] == 0
print(forked(lambda: forked(lambda: True)))
"""
    assert python(code, env={"NUMBA_THREADING_LAYER": layer}) == "True\n"


def test_spawned_children_compute(tmp_path):
    script = tmp_path / "spawn.py"
    script.write_text(
        f"""{WORK}
import multiprocessing
def child(expected):
    assert work() == expected
if __name__ == "__main__":
    process = multiprocessing.get_context("spawn").Process(target=child, args=(work(),))
    process.start()
    process.join()
    print(process.exitcode)
"""
    )
    assert python(f"import runpy; runpy.run_path({str(script)!r}, run_name='__main__')") == "0\n"


def test_without_a_threading_layer_it_says_so_and_runs_serially():
    code = f"""{WORK}
import warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    first, second = work(), work()
print(first == second, jit.threading_layer(), len(caught), caught[0].category.__name__)
"""
    hidden = "import sys; sys.modules['numba.np.ufunc.tbbpool'] = None"  # as if not installed
    env = {"NUMBA_THREADING_LAYER": "tbb"}
    assert python(f"{hidden}\n{code}", env=env) == "True None 1 RuntimeWarning\n"


def test_without_any_place_for_a_cache_it_compiles_anew(tmp_path):
    """Root may write anywhere, so the places are files where folders are needed."""
    copy = tmp_path / "fffnb"
    shutil.copytree(Path(fffnb.__file__).parent, copy)
    for cache in copy.rglob("__pycache__"):
        shutil.rmtree(cache)
    (copy / "cpu" / "__pycache__").write_text("no folder")
    home = tmp_path / "home"
    home.write_text("no folder")
    env = {
        "PYTHONPATH": str(tmp_path),
        "HOME": str(home),
        "XDG_CACHE_HOME": str(home),
        "IPYTHONDIR": str(home),
        "NUMBA_CACHE_DIR": "",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    code = f"""
import numpy as np, fffnb
from fffnb.cpu.tree_walk import forward
assert fffnb.__file__.startswith({str(copy)!r})
assert fffnb.fff_forward(np.ones((3, 2), np.float32), fffnb.init_nodes(2, 2, 4)).all()
print({{type(kernel._cache).__name__ for kernel in (forward.serial, forward.parallel)}})
"""
    assert python(code, env=env, cwd=tmp_path) == "{'NullCache'}\n"


def test_work_decides_between_serial_and_parallel(monkeypatch):
    monkeypatch.setattr(jit, "threading_layer", lambda: "omp")
    monkeypatch.setattr("numba.get_num_threads", lambda: 2)
    monkeypatch.setattr("numba.config.NUMBA_NUM_THREADS", 2)
    edge = jit.PARALLEL_WORK["omp"]
    assert [jit.choose(work) for work in (0, edge - 1, edge)] == ["serial", "serial", "parallel"]
    monkeypatch.setattr(jit, "threading_layer", lambda: "workqueue")
    assert jit.choose(edge) == "serial"
    assert jit.choose(jit.PARALLEL_WORK["workqueue"]) == "parallel"
    monkeypatch.setattr("numba.get_num_threads", lambda: 1)
    assert jit.choose(10**12) == "serial"
    monkeypatch.setattr(jit, "_pool_lost_in_fork", True)
    monkeypatch.setattr("numba.get_num_threads", lambda: 2)
    assert jit.choose(10**12) == "serial"
