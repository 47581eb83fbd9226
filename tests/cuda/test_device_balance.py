"""Balance by traces on a GPU against balance by the same traces on the CPU."""

import kinds
import numpy as np
import pytest
from test_flat import problem
from test_score_gradient import empty, traced

import fffnb
from fffnb.nodes import FLAT_ROWS

if kinds.MISSING:
    pytest.skip(kinds.MISSING, allow_module_level=True)

pytestmark = pytest.mark.usefixtures("tiles")

#: Of the loss, and of the gradient beside its largest number.
BOUND = {"float32": 1e-5, "float64": 1e-13}

# n_in, n_out, depth, n_trees, batch
CASES = {
    "small": [(5, 2, 2, 1, 1), (3, 2, 5, 3, 21)],
    "default": [(5, 2, 2, 1, 1), (3, 2, 7, 3, 1300), (64, 8, 12, 1, 9000)],
}


def traces(case, dtype):
    """Yield traces of all forms, each with a bias."""
    yield traced(case, dtype)[2::2]
    for rows in FLAT_ROWS:
        x, *layer, bias, _ = problem(*case, dtype, seed=5, rows=rows)
        yield bias, fffnb.flat_forward(x, *layer, bias=bias, return_trace=True)[1]


def put(kind, trace):
    """Return a trace of the same passage on the device."""
    return trace._replace(scores=kind.put(trace.scores), leaves=kind.put(trace.leaves))


@pytest.mark.parametrize("dtype", BOUND)
def test_equals_the_cpu(dtype, kind, tiles):
    for case in CASES[tiles]:
        for bias, trace in traces(case, dtype):
            loss, slopes = fffnb.balance_loss(trace, weight=3)
            found, rises = fffnb.balance_loss(put(kind, trace), weight=3)
            assert isinstance(found, kind.type) and isinstance(rises, kind.type)
            assert tuple(found.shape) == ()
            assert kind.get(found) == pytest.approx(loss, rel=BOUND[dtype])
            assert kind.get(rises).dtype == slopes.dtype
            bound = BOUND[dtype] * np.abs(slopes).max()
            np.testing.assert_allclose(kind.get(rises), slopes, atol=bound)
            moved = kind.put(bias)
            fffnb.balance_bias(moved, put(kind, trace), rate=0.3)
            before = bias.copy()
            fffnb.balance_bias(bias, trace, rate=0.3)
            assert (bias != before).any()
            np.testing.assert_array_equal(kind.get(moved), bias)


def test_threads_in_another_order_give_the_same_bits(kind, monkeypatch):
    """Also of leaves that are out of range, which no kernel follows out of the tree."""
    _, trace = next(traces((3, 2, 4, 2, 11), "float32"))
    there = put(kind, trace._replace(leaves=trace.leaves + 16))
    first = [kind.get(array) for array in fffnb.balance_loss(there)]
    if kinds.SIMULATED:
        monkeypatch.setattr("simulator.backwards", True)
    for found, wanted in zip(fffnb.balance_loss(there), first, strict=True):
        np.testing.assert_array_equal(kind.get(found), wanted)
    assert first[0] == pytest.approx(fffnb.balance_loss(trace)[0], rel=1e-5)


def test_what_does_not_fit_is_refused(kind):
    bias, host = next(traces((3, 2, 3, 1, 5), "float32"))
    trace = put(kind, host)
    shallow = trace._replace(nodes_shape=(1, 1, 5), scores=kind.put(host.scores[..., :1].copy()))
    for wrong, error, words in (
        (trace._replace(leaves=host.leaves), TypeError, "trace.leaves must be a .* got numpy"),
        (trace._replace(leaves=trace.scores), TypeError, "trace must hold float32 scores and int"),
        (trace._replace(nodes_shape=(1, 15, 5)), ValueError, r"scores must have shape \(5, 1, 4\)"),
        (put(kind, empty(host)), ValueError, r"at least one sample, got .* \(0, 1, 3\)"),
        (shallow, ValueError, "trace must come from trees of at least two levels, got one"),
    ):
        for call in (fffnb.balance_loss, lambda trace: fffnb.balance_bias(kind.put(bias), trace)):
            with pytest.raises(error, match=words):
                call(wrong)
    with pytest.raises(ValueError, match="from a forward pass with a bias, got one without"):
        fffnb.balance_bias(kind.put(bias), trace._replace(has_bias=False))
    with pytest.raises(TypeError, match=r"bias must be a .* got numpy.ndarray"):
        fffnb.balance_bias(bias, trace)
    with pytest.raises(ValueError, match=r"bias must have shape \(1, 7\)"):
        fffnb.balance_bias(kind.put(bias[:, :3].copy()), trace)
