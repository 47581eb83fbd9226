"""Fixtures of all tests."""

import numpy as np
import pytest

from fffnb import buffers


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
