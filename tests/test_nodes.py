"""The node layout: sizes, initialisers, packing."""

import numpy as np
import pytest

import fffnb


@pytest.mark.parametrize("depth", [1, 2, 8, 31])
def test_depth_and_number_of_nodes(depth):
    assert fffnb.count_nodes(depth) == 2**depth - 1
    assert fffnb.depth_of(2**depth - 1) == depth


@pytest.mark.parametrize(("n_in", "depth"), [(1, 1), (2, 1), (3, 1), (4, 2), (784, 9), (1024, 10)])
def test_default_depth(n_in, depth):
    assert fffnb.default_depth(n_in) == depth


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sphere_draws_unit_vectors(dtype):
    nodes = fffnb.init_nodes(30, 20, depth=6, n_trees=2, dtype=dtype)
    assert nodes.shape == (2, 63, 50)
    assert nodes.dtype == dtype
    assert nodes.flags.c_contiguous
    for vectors in fffnb.split_nodes(nodes, 30):
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=2), 1, rtol=1e-5)
        assert abs(vectors.mean()) < 0.01


def test_uniform_draws_within_its_bounds():
    nodes = fffnb.init_nodes(25, 20, depth=9, scheme="uniform")
    x_vectors, y_vectors = fffnb.split_nodes(nodes, 25)
    assert 0.19 < np.abs(x_vectors).max() <= 1 / 5
    assert 0.32 < np.abs(y_vectors).max() <= 1 / 3
    assert abs(nodes.mean()) < 0.01


def test_draws_follow_the_seed():
    one, two = fffnb.init_nodes(4, 3, 3), fffnb.init_nodes(4, 3, 3, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(one, two)
    assert (one != fffnb.init_nodes(4, 3, 3, rng=1)).all()
    assert (fffnb.init_nodes(4, 3, 3, rng=None) != fffnb.init_nodes(4, 3, 3, rng=None)).all()


def test_split_gives_views_and_pack_puts_them_together():
    nodes = fffnb.init_nodes(4, 3, depth=3, n_trees=2)
    x_vectors, y_vectors = fffnb.split_nodes(nodes, 4)
    assert np.shares_memory(x_vectors, nodes)
    assert np.shares_memory(y_vectors, nodes)
    packed = fffnb.pack_nodes(x_vectors, y_vectors)
    np.testing.assert_array_equal(packed, nodes)
    assert packed.flags.c_contiguous
    assert not np.shares_memory(packed, nodes)
    one = fffnb.pack_nodes(x_vectors[1], y_vectors[1])
    np.testing.assert_array_equal(one, nodes[1:])
    swapped = [vectors.astype(vectors.dtype.newbyteorder()) for vectors in (x_vectors, y_vectors)]
    assert fffnb.pack_nodes(*swapped).dtype.isnative


REFUSED = [
    (lambda: fffnb.count_nodes(0), ValueError, "depth must be at least 1, got 0"),
    (lambda: fffnb.count_nodes(32), ValueError, "depth must be at most 31 .* got 32"),
    (lambda: fffnb.count_nodes(2.0), TypeError, "depth must be an int, got float"),
    (lambda: fffnb.count_nodes(True), TypeError, "depth must be an int, got bool"),
    (lambda: fffnb.depth_of(0), ValueError, r"must be 2\*\*depth - 1 .* got 0"),
    (lambda: fffnb.depth_of(8), ValueError, r"must be 2\*\*depth - 1 .* got 8"),
    (lambda: fffnb.depth_of(2**32 - 1), ValueError, r"must be 2\*\*depth - 1"),
    (lambda: fffnb.default_depth(0), ValueError, "n_in must be at least 1, got 0"),
    (lambda: fffnb.init_nodes(0, 1, 1), ValueError, "n_in must be at least 1, got 0"),
    (lambda: fffnb.init_nodes(1, -1, 1), ValueError, "n_out must be at least 1, got -1"),
    (lambda: fffnb.init_nodes(1, 1, 1, 0), ValueError, "n_trees must be at least 1, got 0"),
    (lambda: fffnb.init_nodes(1, 1, 1, dtype=int), TypeError, "dtype must be float32 or float64"),
    (lambda: fffnb.init_nodes(1, 1, 1, scheme="he"), ValueError, "scheme must be .* got 'he'"),
    (
        lambda: fffnb.init_nodes(1024, 1024, 31),
        MemoryError,
        r"would take 17,592,186,036,224 bytes, this machine has",
    ),
    (lambda: fffnb.pack_nodes([1.0], [1.0]), TypeError, "x_vectors must be a numpy.ndarray"),
    (
        lambda: fffnb.pack_nodes(np.ma.ones((3, 2)), np.ones((3, 2))),
        TypeError,
        "x_vectors must be a numpy.ndarray, got MaskedArray",
    ),
    (lambda: fffnb.pack_nodes(np.ones(3), np.ones(3)), ValueError, r"got shape \(3,\)"),
    (
        lambda: fffnb.pack_nodes(np.ones((3, 2)), np.ones((7, 2))),
        ValueError,
        r"y_vectors must have the trees and nodes of x_vectors, \(3,\), got \(7,\)",
    ),
    (
        lambda: fffnb.pack_nodes(np.ones((3, 2)), np.ones((3, 2), "f4")),
        TypeError,
        "y_vectors must have the dtype of x_vectors, float64, got float32",
    ),
    (
        lambda: fffnb.pack_nodes(np.ones((3, 2), int), np.ones((3, 2), int)),
        TypeError,
        "x_vectors must be float32 or float64, got int64",
    ),
    (lambda: fffnb.pack_nodes(np.ones((4, 2)), np.ones((4, 2))), ValueError, "got 4"),
    (lambda: fffnb.pack_nodes(np.ones((3, 0)), np.ones((3, 2))), ValueError, "must not be empty"),
    (lambda: fffnb.split_nodes(np.ones((3, 4)), 2), ValueError, r"got shape \(3, 4\)"),
    (lambda: fffnb.split_nodes(np.ones((1, 3, 4)), 4), ValueError, "n_in = 4 and n_out >= 1"),
    (lambda: fffnb.split_nodes([1.0], 4), TypeError, "nodes must be a numpy.ndarray, got list"),
]


@pytest.mark.parametrize(("call", "error", "words"), REFUSED)
def test_refused(call, error, words):
    with pytest.raises(error, match=words):
        call()
