"""Weights of fastfeedforward: what they mean, bit by bit there and back, and what is refused."""

import numpy as np
import pytest

from fffnb import nn
from fffnb.bridges.fastfeedforward import from_fastfeedforward, to_fastfeedforward


def draw(depth=3, width=2, n_in=5, n_out=4, dtype=np.float64):
    """Return the state_dict of a model."""
    rng = np.random.default_rng(0)
    shapes = {
        "node_weights": (2**depth - 1, n_in),
        "node_biases": (2**depth - 1, 1),
        "w1s": (2**depth, n_in, width),
        "b1s": (2**depth, width),
        "w2s": (2**depth, width, n_out),
        "b2s": (2**depth, n_out),
    }
    state = {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}
    return {**state, "depth": np.array(depth)}


def infer(state, x):
    """Return the leaf of one sample, and what the model in `eval` mode computes."""
    node = 0
    for _ in range(state["depth"]):
        score = state["node_weights"][node] @ x + state["node_biases"][node, 0]
        node = 2 * node + (2 if score >= 0 else 1)
    leaf = node - (2 ** state["depth"] - 1)
    hidden = np.maximum(x @ state["w1s"][leaf] + state["b1s"][leaf], 0)
    return leaf, hidden @ state["w2s"][leaf] + state["b2s"][leaf]


@pytest.mark.parametrize(("depth", "width"), [(1, 1), (3, 2)])
def test_the_layer_computes_what_the_model_does(depth, width):
    state = draw(depth, width)
    x = np.random.default_rng(1).standard_normal((20, 5))
    x[0], state["node_biases"][0] = 0, 0  # a score of exactly 0 goes right
    layer = from_fastfeedforward(state)
    leaves, right = zip(*(infer(state, sample) for sample in x), strict=True)
    assert len(set(leaves)) > depth and leaves[0] >= 2**depth // 2
    np.testing.assert_allclose(layer(x), right, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_weights_come_back_bit_by_bit(dtype):
    state = draw(dtype=dtype)
    before = {name: array.copy() for name, array in state.items()}
    inside = {f"ffn.{name}": array for name, array in state.items()} | {"head.weight": None}
    inside["ffn.leaf_usage"] = np.zeros(8)
    layer = from_fastfeedforward(inside, prefix="ffn.", activation="gelu")
    assert (layer.depth, layer.width, layer.n_in, layer.n_out) == (3, 2, 5, 4)
    back = to_fastfeedforward(layer, activation="gelu")
    for array in layer.parameters.values():
        array[...] = 0
    assert back.keys() == state.keys()
    for name, array in before.items():
        np.testing.assert_array_equal(back[name], array, strict=True)
        np.testing.assert_array_equal(state[name], array)


def test_a_layer_without_biases_gets_zeros():
    layer = nn.LeafFFF(5, 4, depth=2, width=3, bias=False)
    state = to_fastfeedforward(layer)
    assert not any(state[name].any() for name in ("node_biases", "b1s", "b2s"))
    back = from_fastfeedforward(state)
    np.testing.assert_array_equal(back.leaves, layer.leaves)
    np.testing.assert_array_equal(back(np.eye(5, dtype="f4")), layer(np.eye(5, dtype="f4")))


def test_tensors_go_there_and_back():
    torch = pytest.importorskip("torch", reason="torch is not installed: fffnb[torch]")
    from fffnb.bridges.torch import LeafFFF

    state = draw()
    tensors = {name: torch.from_numpy(array) for name, array in state.items()}
    layer = LeafFFF.from_numpy(from_fastfeedforward(tensors))
    for name, array in to_fastfeedforward(layer).items():
        np.testing.assert_array_equal(array, state[name])


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        ({"w2s": None}, ValueError, r"must hold node_weights, .*b2s, got node_weights, "),
        (
            {"gain": np.ones(3)},
            ValueError,
            "nothing but .*leaf_usage under .*, got gain",
        ),
        ({"b1s": np.ones((8, 2), "f4")}, TypeError, "b1s must be float32 or .* got float32"),
        ({"node_weights": np.ones((7, 5), int)}, TypeError, "node_weights must .* got int64"),
        ({"node_weights": np.ones((6, 5))}, ValueError, r"must have 2\*\*depth - 1 rows, got 6"),
        ({"node_weights": np.ones((0, 5))}, ValueError, r"not empty, got shape \(0, 5\)"),
        ({"w1s": np.ones((8, 5))}, ValueError, r"w1s must have 3 axes, .*got shape \(8, 5\)"),
        ({"w1s": np.ones((8, 2, 5))}, ValueError, r"w1s must have shape \(8, 5, 5\).*\(8, 2, 5\)"),
        ({"b2s": np.ones((8, 3))}, ValueError, r"b2s must have shape \(8, 4\) .* got \(8, 3\)"),
        ({"node_biases": np.ones(7)}, ValueError, r"node_biases must have shape \(7, 1\)"),
    ],
)
def test_wrong_weights_are_refused(change, error, sentence):
    state = {name: array for name, array in (draw() | change).items() if array is not None}
    with pytest.raises(error, match=sentence):
        from_fastfeedforward(state)


def test_what_fastfeedforward_cannot_hold_is_refused():
    with pytest.raises(TypeError, match="state_dict must map names to arrays, got list"):
        from_fastfeedforward([])
    with pytest.raises(ValueError, match=r"layer must have one tree, .* got 2"):
        to_fastfeedforward(nn.LeafFFF(5, 4, depth=2, width=3, n_trees=2))
    with pytest.raises(ValueError, match=r"activation of the module .*'gelu', got 'relu'"):
        to_fastfeedforward(nn.LeafFFF(5, 4, depth=2, width=3), activation="gelu")
    with pytest.raises(TypeError, match="layer must be a LeafFFF, got FFF"):
        to_fastfeedforward(nn.FFF(5, 4, depth=2))
