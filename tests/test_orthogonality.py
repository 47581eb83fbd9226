"""The orthogonality loss against its reference, and what it refuses."""

import numpy as np
import pytest
from test_flat import LAYOUTS
from test_score_gradient import assert_gradient
from test_tree import BOUND, rms

import fffnb
from fffnb.reference import orthogonality as reference


@pytest.mark.parametrize("shape", [(1, 7, 8), (2, 3, 3), (3, 7, 2), (1, 1, 4)])
def test_orthogonality_loss_equals_its_reference_and_finite_differences(shape):
    vectors = np.random.default_rng(3).standard_normal(shape)
    loss, gradient = fffnb.orthogonality_loss(vectors)
    assert_gradient(lambda: reference.loss(vectors)[0], vectors, gradient)
    for dtype in BOUND:
        vectors = vectors.astype(dtype)
        loss, gradient = fffnb.orthogonality_loss(vectors)
        expected, right = reference.loss(vectors)
        size, sizes = reference.loss(vectors, absolute=True)
        assert gradient.dtype == dtype
        assert abs(loss - expected) <= BOUND[dtype] * size
        assert rms(gradient - right) <= BOUND[dtype] * rms(sizes)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_orthogonality_loss_takes_any_layout_and_one_tree(layout):
    vectors = np.random.default_rng(4).standard_normal((2, 7, 5))
    loss, gradient = fffnb.orthogonality_loss(vectors)
    found = fffnb.orthogonality_loss(LAYOUTS[layout](vectors))
    assert found[0] == pytest.approx(loss)
    np.testing.assert_allclose(found[1], gradient)
    alone = [fffnb.orthogonality_loss(one) for one in vectors]
    assert sum(one[0] for one in alone) == pytest.approx(loss)
    np.testing.assert_allclose([one[1] for one in alone], gradient)
    assert fffnb.orthogonality_loss(np.eye(4))[0] == 0


def test_orthogonality_loss_refuses_what_is_no_set_of_vectors():
    for wrong, error, words in (
        ([[1.0]], TypeError, "vectors must be a numpy.ndarray, got builtins.list"),
        (np.ones((2, 2), int), TypeError, "vectors must be float32 or float64, got int64"),
        (np.ones(3), ValueError, r"vectors must be .* and not empty, got \(3,\)"),
        (np.ones((0, 3)), ValueError, r"vectors must be .* and not empty, got \(0, 3\)"),
    ):
        with pytest.raises(error, match=words):
            fffnb.orthogonality_loss(wrong)
