"""Usage of nodes and leaves, its picture, and the record of scores by level."""

import builtins

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from test_tree import problem

import fffnb
from fffnb import nn
from fffnb.nn import evaluate
from fffnb.ops.usage import count_visits
from fffnb.reference import tree


def test_usage_counts_the_visits_of_the_reference():
    for sizes in ((5, 2, 4, 3, 60), (3, 1, 1, 1, 4), (4, 2, 6, 2, 5)):
        x, nodes, bias, _ = problem(*sizes, "float64")
        truth = tree.forward(x, nodes, bias)
        used = fffnb.usage(nodes, x, bias=bias)
        np.testing.assert_array_equal(used.nodes, truth.mask.sum(axis=1))
        np.testing.assert_array_equal(used.dead, np.flatnonzero(~truth.mask.any(axis=1)))
        for found, leaves in zip(used.leaves, truth.leaves.T, strict=True):
            np.testing.assert_array_equal(found, (leaves == np.arange(len(found))[:, None]).sum(1))
        assert (used.batch, used.depth) == (len(x), sizes[2])


def test_entropy_and_report():
    leaves = np.array([[0, 1], [1, 1], [2, 1], [3, 1]], np.int32)
    used = count_visits(np.repeat(leaves, 500, axis=0), depth=2)
    assert used.entropy.tolist() == [2, 0] and used.evenness.tolist() == [1, 0]
    assert used.dead.tolist() == [5]
    assert str(used).splitlines() == [
        "2,000 samples",
        "tree 0: 3 of 3 nodes visited, 4 of 4 leaves used, busiest leaf 25.0 %, evenness 1.00",
        "tree 1: 2 of 3 nodes visited, 1 of 4 leaves used, busiest leaf 100.0 %, evenness 0.00",
    ]


def test_usage_refuses_no_samples_and_devices(monkeypatch):
    x, nodes, *_ = problem(3, 2, 3, 1, 0, "float32")
    with pytest.raises(ValueError, match=r"x must hold at least one sample .* got none"):
        fffnb.usage(nodes, x)
    with pytest.raises(TypeError, match="x must have the dtype of nodes, float32, got float64"):
        fffnb.usage(nodes, np.ones((2, 3)))
    monkeypatch.setattr("fffnb.ops.device.kind_of", lambda array: Figure)
    monkeypatch.setattr(Figure, "name", "CuPy array", raising=False)
    with pytest.raises(TypeError, match=r"nodes must be a numpy.ndarray, .* got a CuPy array"):
        fffnb.usage(nodes, x)


def model():
    """Return a model with trees inside and beside each other, and samples for it."""
    inner = nn.Sequential(nn.Linear(5, 3), nn.FlatFFF(3, 4, depth=2))
    soft = nn.SoftFFF(nn.FFF(5, 4, depth=4))
    layers = nn.FFF(6, 5, depth=3, n_trees=2), nn.ReLU(), nn.Sum(soft, inner)
    x = np.random.default_rng(0).standard_normal((50, 6)).astype(np.float32)
    return nn.Sequential(*layers), x


def by_hand(made, x):
    """Return the leaves of each FFF layer of `model` by its name."""
    first, relu, both = made.layers
    hidden = relu(first(x))
    linear, flat = both.layers[1].layers
    inside = flat.leaves(linear(hidden))
    return {"0": first.leaves(x), "2.0": both.layers[0].layer.leaves(hidden), "2.1.1": inside}


def test_usage_of_a_model_is_that_of_its_layers(monkeypatch):
    monkeypatch.setattr(evaluate, "EVALUATION_BATCH", 16)
    made, x = model()
    found = nn.usage(made, x)
    expected = by_hand(made, x)
    assert list(found) == list(expected)
    for (name, leaves), depth in zip(expected.items(), (3, 4, 2), strict=True):
        for one, two in zip(found[name], count_visits(leaves, depth), strict=True):
            np.testing.assert_array_equal(one, two)
    assert list(nn.usage(made.layers[0], x)) == [""]
    with pytest.raises(ValueError, match="model must hold a layer with trees, got a ReLU"):
        nn.usage(nn.ReLU(), x)
    with pytest.raises(ValueError, match=r"x must hold at least one sample"):
        nn.usage(made, x[:0])


def test_usage_runs_each_layer_once_and_counts_leaves_of_the_leaf_form(monkeypatch):
    runs, forward = [], fffnb.fff_forward
    layer = nn.FFF(6, 5, depth=3)
    monkeypatch.setattr(
        nn.FFF, "_forward", staticmethod(lambda *a, **kw: runs.append(0) or forward(*a, **kw))
    )
    leaf = nn.LeafFFF(5, 4, depth=2, width=3, n_trees=2)
    x = np.random.default_rng(0).standard_normal((50, 6)).astype(np.float32)
    found = nn.usage(nn.Sequential(layer, leaf), x)["1"]
    assert len(runs) == 1
    right = count_visits(leaf.chosen(layer(x)), 2)
    for one, two in zip(found, right, strict=True):
        np.testing.assert_array_equal(one, two)


def test_the_picture_shows_visits_over_equal_shares():
    leaves = np.array([[0], [0], [0], [1], [2], [2], [2], [2]], np.int32)
    used = count_visits(leaves, depth=2)
    ax = Figure().subplots()
    assert nn.plot_usage(used, ax=ax) is ax
    shown = ax.images[0].get_array()
    equal = [[0] * 4, [0] * 4, [np.log2(1.5), -1, 1, -9]]
    np.testing.assert_allclose(np.ma.filled(shown, -9), equal)
    assert ax.get_title() == "tree 0: 3 of 3 nodes visited"
    ax.figure.canvas.draw()


def test_the_picture_of_a_deep_tree_stops_at_a_level():
    leaves = np.random.default_rng(0).integers(2**14, size=(1000, 2)).astype(np.int32)
    used = count_visits(leaves, depth=14)
    ax = nn.plot_usage(used, 1, ax=Figure().subplots())
    shown = ax.images[0].get_array()
    assert shown.shape == (12, 2**11)
    visits = 2.0 ** shown[11] * len(leaves) / 2**11
    np.testing.assert_allclose(visits.filled(0), used.nodes[1, 2**11 - 1 : 2**12 - 1])


def test_the_picture_refuses_what_it_cannot_draw(monkeypatch):
    used = count_visits(np.zeros((3, 2), np.int32), depth=2)
    with pytest.raises(TypeError, match="usage must be a Usage, got dict"):
        nn.plot_usage({"": used})
    with pytest.raises(IndexError):
        nn.plot_usage(used, 2, ax=Figure().subplots())
    imported = builtins.__import__

    def without(name, *arguments):
        if name == "matplotlib":
            raise ImportError(name)
        return imported(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"a picture needs matplotlib: .*fffnb\[train\]"):
        nn.plot_usage(used)


def test_the_picture_makes_its_own_axes():
    with matplotlib.rc_context({"backend": "agg"}):
        from matplotlib import pyplot

        ax = nn.plot_usage(count_visits(np.zeros((3, 1), np.int32), depth=1))
        pyplot.close(ax.figure)


def test_a_record_sees_turns_sizes_and_flips():
    made, x = model()
    record = nn.LevelRecord(made, x)
    first = made.layers[0]
    scores = first.forward(x)[1][1].scores
    first.nodes[0, 0] *= -2  # the root of the first tree turns round, and nothing else
    assert record(1, nn.History()) is None
    assert set(record.layers) == {"0", "2.0", "2.1.1"}
    before, after = record.layers["0"]
    np.testing.assert_allclose(before.right, (scores > 0).mean(axis=0))
    np.testing.assert_allclose(before.size, np.abs(scores).mean(axis=0), rtol=1e-6)
    assert not before.flipped.any()
    assert after.flipped[0, 0] == 1 and not after.flipped[1].any()
    assert after.right[0, 0] == pytest.approx(1 - before.right[0, 0])
    assert after.size[0, 0] == pytest.approx(2 * before.size[0, 0])
    assert [len(levels) for levels in record.layers.values()] == [2, 2, 2]


def test_a_record_refuses_no_samples_and_no_trees():
    made, x = model()
    with pytest.raises(ValueError, match=r"x must hold at least one sample .* got none"):
        nn.LevelRecord(made, x[:0])
    with pytest.raises(ValueError, match="model must hold an FFF or FlatFFF layer, got a GELU"):
        nn.LevelRecord(nn.GELU(), x)
