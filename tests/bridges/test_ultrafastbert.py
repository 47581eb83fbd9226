"""Weights of UltraFastBERT: what they mean, bit by bit there and back, and what is refused."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

from fffnb import nn
from fffnb.reference import tree as reference

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'fffnb[torch]'")

from fffnb.bridges.ultrafastbert import from_ultrafastbert, to_ultrafastbert  # noqa: E402

sys.path.append(str(Path(__file__).parents[2]))
masked = importlib.import_module("benchmarks.peers.masked")

FORESTS = [(0, 5), (1, 1), (3, 1), (2, 3)]  # depth in edges, parallel_size
ACTS = {
    "gelu": torch.nn.functional.gelu,
    "relu": torch.relu,
    "identity": lambda score: score,
}


def draw(depth=2, parallel_size=3, n_in=5, n_out=4, dtype=torch.float64, seed=0):
    """Return the state_dict of a layer."""
    torch.manual_seed(seed)
    neurons = parallel_size * (2 ** (depth + 1) - 1)
    return {
        "linear_in.weight": torch.randn(neurons, n_in, dtype=dtype),
        "linear_in.bias": torch.randn(neurons, dtype=dtype),
        "linear_out.weight": torch.randn(n_out, neurons, dtype=dtype),
    }


def walk(state, x, depth, parallel_size, act):
    """Return what the model computes for one sample, node by node."""
    y = torch.zeros(len(state["linear_out.weight"]), dtype=x.dtype)
    for tree in range(parallel_size):
        node = 0
        for _ in range(depth + 1):
            neuron = tree * (2 ** (depth + 1) - 1) + node
            logit = state["linear_in.weight"][neuron] @ x + state["linear_in.bias"][neuron]
            y += act(logit) * state["linear_out.weight"][:, neuron]
            node = 2 * node + (2 if logit > 0 else 1)
    return y


def assert_same(found, right):
    assert list(found) == list(right)
    for key, tensor in right.items():
        assert found[key].dtype == tensor.dtype
        assert torch.equal(found[key], tensor), key


@pytest.mark.parametrize("activation", ACTS)
@pytest.mark.parametrize(("depth", "parallel_size"), FORESTS)
def test_the_layer_computes_what_the_model_does(depth, parallel_size, activation):
    state = draw(depth, parallel_size)
    layer = from_ultrafastbert(
        state, depth=depth, parallel_size=parallel_size, activation=activation
    )
    x = torch.randn(20, 5, dtype=torch.float64)
    right = [walk(state, sample, depth, parallel_size, ACTS[activation]).numpy() for sample in x]
    np.testing.assert_allclose(layer(x.numpy()), right, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("depth", "parallel_size"), FORESTS)
def test_weights_come_back_bit_by_bit(depth, parallel_size, dtype):
    state = draw(depth, parallel_size, dtype=dtype)
    layer = from_ultrafastbert(state, depth=depth, parallel_size=parallel_size)
    assert (layer.depth, layer.n_trees, layer.n_in, layer.n_out) == (depth + 1, parallel_size, 5, 4)
    back = to_ultrafastbert(layer)
    assert_same(back, state)
    again = from_ultrafastbert(back, depth=depth, parallel_size=parallel_size)
    assert again.config() == layer.config()
    for name, array in layer.parameters.items():
        np.testing.assert_array_equal(again.parameters[name], array)
    model = masked.Masked(5, 4, depth + 1, parallel_size).to(dtype)
    model.load_state_dict(back)  # strict: these keys, these shapes
    assert_same(model.state_dict(), state)


def test_the_masked_peer_is_right():
    state = draw(3, 2)
    layer = from_ultrafastbert(state, depth=3, parallel_size=2)
    model = masked.Masked(5, 4, 4, 2).double()
    model.load_state_dict(state)
    x = torch.randn(50, 5, dtype=torch.float64)
    right = reference.forward(x.numpy(), layer.nodes, layer.bias, "gelu")
    np.testing.assert_allclose(model(x).detach().numpy(), right.y, rtol=1e-12, atol=1e-12)
    mask = masked.path_mask(torch.from_numpy(right.scores))
    np.testing.assert_array_equal(mask.numpy(), right.mask)


def test_a_layer_without_bias_gets_zeros():
    layer = nn.FFF(5, 4, depth=3, n_trees=2, activation="gelu")
    state = to_ultrafastbert(layer)
    assert state["linear_in.bias"].shape == (14,) and not state["linear_in.bias"].any()
    back = from_ultrafastbert(state, depth=2, parallel_size=2)
    np.testing.assert_array_equal(back.nodes, layer.nodes)
    assert back.bias.shape == (2, 7) and not back.bias.any()


def test_a_layer_of_pytorch_converts_too():
    layer = nn.FFF(5, 4, depth=3, n_trees=2, activation="gelu", bias=True, rng=3)
    layer.bias[...] = np.arange(14).reshape(2, 7)
    bridge = importlib.import_module("fffnb.bridges.torch").FFF.from_numpy(layer)
    assert_same(to_ultrafastbert(bridge), to_ultrafastbert(layer))


@pytest.mark.parametrize(("depth", "parallel_size"), FORESTS)
def test_results_are_copies(depth, parallel_size):
    state = draw(depth, parallel_size)
    layer = from_ultrafastbert(state, depth=depth, parallel_size=parallel_size)
    before = {key: tensor.clone() for key, tensor in state.items()}
    layer.nodes[...] = 7
    layer.bias[...] = 7
    assert_same(state, before)
    for tensor in to_ultrafastbert(layer).values():
        assert tensor.is_contiguous()
        tensor.zero_()
    assert (layer.nodes == 7).all() and (layer.bias == 7).all()


def test_a_prefix_picks_a_layer_of_a_model():
    states = [draw(seed=seed) for seed in range(2)]
    model = {f"layers.{i}.ffn.{k}": t for i, state in enumerate(states) for k, t in state.items()}
    model["layers.0.norm.weight"] = torch.ones(5)
    for i, state in enumerate(states):
        layer = from_ultrafastbert(model, depth=2, parallel_size=3, prefix=f"layers.{i}.ffn.")
        assert_same(to_ultrafastbert(layer), state)


def test_parameters_that_are_trained_and_a_zero_bias_of_the_output_are_taken():
    model = masked.Masked(5, 4, 3, 3).double()
    state = {**model.state_dict(keep_vars=True), "linear_out.bias": torch.zeros(4)}
    layer = from_ultrafastbert(state, depth=2, parallel_size=3)
    assert_same(to_ultrafastbert(layer), dict(model.state_dict()))


def changed(**changes):
    """Return a state_dict of which some tensors are others, or gone where None."""
    state = draw()
    for name, tensor in changes.items():
        state["linear_" + name.replace("_", ".")] = tensor
    return {key: tensor for key, tensor in state.items() if tensor is not None}


REFUSED = {
    "no mapping": (torch.nn.Linear(5, 4), {}, TypeError, "must map names to tensors, got Linear"),
    "nothing": ({}, {}, ValueError, "must hold linear_in.weight, .* got nothing"),
    "a dense block": (
        {"dense_in.weight": torch.ones(4, 5)},
        {},
        ValueError,
        "must hold linear_in.weight, .* got dense_in.weight",
    ),
    "no prefix": (
        {f"a.{i}.{key}": tensor for i in range(2) for key, tensor in draw().items()},
        {},
        ValueError,
        r"which it has with prefix= 'a\.0\.' or 'a\.1\.'",
    ),
    "no bias": (
        changed(in_bias=None),
        {"prefix": ""},
        ValueError,
        "must hold linear_in.weight, linear_in.bias, .* got linear_in.weight, linear_out.weight",
    ),
    "a bias of the output": (
        changed(out_bias=torch.tensor([0, -0.5, 0.25, 0])),
        {},
        ValueError,
        "linear_out.bias must be absent or zero, .* got values up to 0.5",
    ),
    "another name": (
        changed(gate_weight=torch.ones(3)),
        {},
        ValueError,
        "must hold nothing but linear_in.weight, .* got linear_gate.weight",
    ),
    "an array": (
        changed(in_bias=np.ones(21)),
        {},
        TypeError,
        "linear_in.bias must be a tensor, got ndarray",
    ),
    "depth in levels": (
        draw(),
        {"depth": 3},
        ValueError,
        r"45 = parallel_size .* for parallel_size=3 and depth=3, got shape \(21, 5\); "
        "it fits with depth=2$",
    ),
    "other trees": (
        draw(),
        {"parallel_size": 1},
        ValueError,
        r"7 = parallel_size .* got shape \(21, 5\); it fits with parallel_size=3$",
    ),
    "both": (draw(2, 7), {"parallel_size": 1}, ValueError, "fits with parallel_size=7$"),
    "nothing fits": (
        draw(2, 3),
        {"depth": 3, "parallel_size": 2},
        ValueError,
        r"got shape \(21, 5\)$",
    ),
    "another bias": (
        changed(in_bias=torch.ones(7, dtype=torch.float64)),
        {},
        ValueError,
        r"linear_in.bias must have 1 axes and 21 .* got shape \(7,\)$",
    ),
    "y vectors as rows": (
        changed(out_weight=torch.ones(21, 4, dtype=torch.float64)),
        {},
        ValueError,
        r"linear_out.weight must have 2 axes .* on axis 1 .* got shape \(21, 4\)$",
    ),
    "more axes": (
        changed(in_weight=torch.ones(21, 5, 1, dtype=torch.float64)),
        {},
        ValueError,
        r"linear_in.weight must have 2 axes .* got shape \(21, 5, 1\)$",
    ),
    "no input": (
        changed(in_weight=torch.ones(21, 0, dtype=torch.float64)),
        {},
        ValueError,
        "must not be empty",
    ),
    "half precision": (
        {key: tensor.bfloat16() for key, tensor in draw().items()},
        {},
        TypeError,
        r"linear_in.weight must be float32 or float64 .*, got torch.bfloat16; tensor.float\(\)",
    ),
    "integers": (
        changed(in_weight=torch.ones(21, 5, dtype=torch.int64)),
        {},
        TypeError,
        "linear_in.weight must be float32 or float64 .*, got torch.int64",
    ),
    "mixed": (
        changed(out_weight=torch.ones(4, 21)),
        {},
        TypeError,
        "linear_out.weight must be .* like the others, got torch.float32",
    ),
    "another activation": (
        draw(),
        {"activation": "gelu_new"},
        ValueError,
        "activation must be one of identity, .*, got 'gelu_new'",
    ),
    "negative depth": (draw(), {"depth": -1}, ValueError, "depth must be from 0 to 30"),
    "deep": (draw(), {"depth": 31}, ValueError, "depth must be from 0 to 30"),
    "no depth": (draw(), {"depth": True}, TypeError, "depth must be an int, got bool"),
    "no trees": (draw(), {"parallel_size": 0}, ValueError, "parallel_size must be at least 1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_such_layer_is_refused(case):
    state, options, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        from_ultrafastbert(state, **{"depth": 2, "parallel_size": 3, **options})


def test_another_activation_is_refused_on_the_way_back():
    layer = nn.FFF(5, 4, depth=3, activation="relu")
    with pytest.raises(ValueError, match=r"must have the activation .* 'gelu', got 'relu'"):
        to_ultrafastbert(layer)
    assert to_ultrafastbert(layer, activation="relu")["linear_in.weight"].shape == (7, 5)
    with pytest.raises(TypeError, match="layer must be an FFF layer, got Linear"):
        to_ultrafastbert(nn.Linear(5, 4))


def test_a_missing_torch_is_named_with_its_extra(monkeypatch):
    monkeypatch.delitem(sys.modules, "fffnb.bridges.ultrafastbert")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"torch is not installed.*fffnb\[torch\]"):
        importlib.import_module("fffnb.bridges.ultrafastbert")
