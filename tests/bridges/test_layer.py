"""One interface to the layers of all libraries, and what it says when one is missing."""

import sys

import numpy as np
import pytest

import fffnb
from fffnb import bridges, nn


def test_the_default_is_numpys_layer():
    layer = fffnb.FFF(5, 4, depth=3, n_trees=2, activation="gelu", bias=True, rng=7, dtype=float)
    same = nn.FFF(5, 4, depth=3, n_trees=2, activation="gelu", bias=True, rng=7, dtype=float)
    assert isinstance(layer, nn.FFF) and layer.config() == same.config()
    for name, array in same.parameters.items():
        np.testing.assert_array_equal(layer.parameters[name], array)


def test_a_converted_layer_holds_copies():
    layer = fffnb.FFF(5, 4, depth=3, bias=True)
    other = bridges.convert(layer, "numpy")
    other.nodes[...] = 0
    other.bias[...] = 1
    assert layer.nodes.any() and not layer.bias.any()


def test_what_is_no_backend_layer_or_option_is_refused():
    with pytest.raises(ValueError, match=r"backend must be one of .*, got 'tf'"):
        fffnb.FFF(5, 4, backend="tf")
    with pytest.raises(TypeError, match="layer must be an FFF layer, got Linear"):
        bridges.convert(nn.Linear(5, 4), "numpy")
    with pytest.raises(TypeError, match="layer must be an FFF layer, got Frame"):
        bridges.convert(type("Frame", (), {"to_numpy": lambda self: np.ones(3)})(), "torch")
    with pytest.raises(TypeError, match="backend 'numpy' takes no device"):
        fffnb.FFF(5, 4, backend="numpy", device="cuda")


@pytest.mark.parametrize("name", ["torch", "jax"])
def test_a_missing_library_is_named_with_its_extra(monkeypatch, name):
    monkeypatch.delitem(sys.modules, f"fffnb.bridges.{name}", raising=False)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=rf"{name} is not installed.*fffnb\[{name}\]"):
        fffnb.FFF(5, 4, backend=name)
