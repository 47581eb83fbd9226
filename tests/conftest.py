"""Fixtures of all tests."""

import importlib
import os
import pkgutil
from pathlib import Path

import numpy as np
import pytest

from fffnb import buffers

# Programs that tests start import the package that the tests import, with the kernels compiled
# for it, not one that is installed elsewhere.
PACKAGE = str(Path(buffers.__file__).parents[1])
os.environ["PYTHONPATH"] = os.pathsep.join([PACKAGE, *filter(None, [os.environ.get("PYTHONPATH")])])

# Modules of the benchmarks choose a folder for kernels where nobody has.
os.environ.setdefault("NUMBA_CACHE_DIR", "")


def pytest_collection_modifyitems(config, items):
    """Leave out float64 in parallel: a kernel is compiled for each, and each is tested alone."""
    left_out = [
        item
        for item in items
        if hasattr(item, "callspec")
        and {"parallel", "float64"} <= set(map(str, item.callspec.params.values()))
    ]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture(autouse=True)
def poisoned_buffers(monkeypatch):
    """Fill every buffer with what cannot pass for a result, so that an unwritten element shows."""

    empty = buffers.empty

    def poisoned(shape, dtype):
        array = empty(shape, dtype)
        array[...] = np.nan if array.dtype.kind == "f" else np.iinfo(dtype).min // 2
        return array

    monkeypatch.setattr(buffers, "empty", poisoned)


@pytest.fixture(params=["serial", "parallel"])
def form(request, monkeypatch):
    """Force one form of every kernel."""
    monkeypatch.setattr("fffnb.cpu.jit.forced", request.param)
    return request.param


@pytest.fixture(params=["walk", "sweep"])
def path(request, monkeypatch):
    """Force one form of the tree's forward pass."""
    monkeypatch.setattr("fffnb.cpu.tree.forced", request.param)
    return request.param


@pytest.fixture
def forget_kernels():
    """Give a function that forgets all GPU kernels, as after a change of what is compiled in."""
    package = importlib.import_module("fffnb.cuda")
    names = {module.name for module in pkgutil.iter_modules(package.__path__)}
    names -= {"cache", "launch", "simt", "support", "team"}

    def forget():
        for name in names:
            module = importlib.import_module(f"fffnb.cuda.{name}")
            for made in vars(module).values():
                if hasattr(made, "cache_clear"):
                    made.cache_clear()

    return forget
