"""Fixtures of all tests."""

import numpy as np
import pytest

from fffnb.cpu import buffers


@pytest.fixture(autouse=True)
def poisoned_buffers(monkeypatch):
    """Fill every buffer with what cannot pass for a result, so that an unwritten element shows."""

    def poisoned(shape, dtype):
        kind = np.dtype(dtype).kind
        return np.full(shape, np.nan if kind == "f" else np.iinfo(dtype).min // 2, dtype)

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
