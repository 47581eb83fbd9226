"""A gradient of scores, added in the backward pass of the tree and of the flat form."""

from functools import partial

import numpy as np
import pytest
from test_flat import LAYOUTS
from test_flat import problem as flat_problem
from test_tree import BOUND, problem, rms

import fffnb
from fffnb.reference import flat, tree

SGD = {"lr": 0.1, "momentum": 0.0, "weight_decay": 0.0, "nesterov": 0.0}


def traced(case, dtype="float64"):
    """Return the arguments of a forward pass of clear samples, grad_y, the trace and the truth."""
    *sizes, batch = case
    x, nodes, bias, grad_y = problem(*sizes, batch, dtype, seed=7)
    clear = ~tree.forward(x, nodes, bias).ambiguous(np.finfo(dtype).eps)
    x, grad_y = x[clear], grad_y[clear]
    options = {"bias": bias, "activation": "gelu", "return_trace": True}
    return x, nodes, bias, grad_y, fffnb.fff_forward(x, nodes, **options)[1]


def on_paths(values, mask):
    """Return values (batch, n_trees, depth) as an array (n_trees, batch, n_nodes)."""
    dense = np.zeros(mask.shape)
    dense[mask] = values.transpose(1, 0, 2).reshape(-1)  # nodes ascend along a path
    return dense


def empty(trace):
    """Return a trace without samples."""
    return trace._replace(scores=trace.scores[:0], leaves=trace.leaves[:0])


def assert_gradient(objective, array, gradient, step=1e-6):
    """Compare a gradient with central differences."""
    for at in np.ndindex(array.shape):
        before = array[at]
        array[at] = before + step
        high = objective()
        array[at] = before - step
        low = objective()
        array[at] = before
        assert gradient[at] == pytest.approx((high - low) / (2 * step), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("dtype", BOUND)
def test_an_added_gradient_equals_the_reference(dtype):
    for case in ((63, 57, 6, 3, 130), (3, 100, 3, 1, 7), (9, 1, 1, 2, 1)):
        x, nodes, bias, grad_y, trace = traced(case, dtype)
        added = np.random.default_rng(8).standard_normal(trace.scores.shape).astype(dtype)
        grads = fffnb.fff_backward(grad_y, x, nodes, trace, grad_scores=added)
        mask = tree.forward(x, nodes, bias).mask
        arguments = grad_y, x, nodes, bias, "gelu"
        expected = tree.backward(*arguments, added=on_paths(added, mask))
        sizes = tree.backward(*arguments, added=on_paths(added, mask), absolute=True)
        for found, right, size in zip(grads, expected, sizes, strict=True):
            assert found.dtype == dtype
            assert rms(found - right) <= BOUND[dtype] * rms(size), case
        sparse = fffnb.fff_backward(grad_y, x, nodes, trace, grad_scores=added, sparse=True)
        np.testing.assert_array_equal(sparse.x, grads.x)
        whole = grads.nodes.reshape(-1, nodes.shape[2])
        np.testing.assert_array_equal(sparse.nodes.values, whole[sparse.nodes.rows])
        rule, before = fffnb.UpdateRule("sgd", SGD, {}), nodes.copy()
        steps = {"bias": bias, "bias_rule": rule, "grad_scores": added}
        np.testing.assert_array_equal(
            fffnb.fff_backward_update(grad_y, x, nodes, trace, rule, **steps), grads.x
        )
        np.testing.assert_allclose(nodes, before - 0.1 * grads.nodes, rtol=1e-5, atol=1e-6)


def test_serial_and_parallel_add_to_the_same_bits(monkeypatch):
    x, nodes, _, grad_y, trace = traced((9, 7, 6, 3, 130), "float32")
    added = np.random.default_rng(0).standard_normal(trace.scores.shape).astype("float32")
    found = []
    for form in ("serial", "parallel"):
        monkeypatch.setattr("fffnb.cpu.jit.forced", form)
        grads = fffnb.fff_backward(grad_y, x, nodes, trace, grad_scores=added)
        found.append([gradient.tobytes() for gradient in grads])
    assert found[0] == found[1]


def test_an_added_gradient_equals_finite_differences():
    x, nodes, bias, grad_y, trace = traced((5, 4, 3, 2, 6))
    weights = np.random.default_rng(9).standard_normal(trace.scores.shape)
    grads = fffnb.fff_backward(grad_y, x, nodes, trace, grad_scores=weights)

    def objective():
        options = {"bias": bias, "activation": "gelu", "return_trace": True}
        y, again = fffnb.fff_forward(x, nodes, **options)
        return float((y * grad_y).sum() + (again.scores * weights).sum())

    for array, gradient in zip((x, nodes, bias), grads, strict=True):
        assert_gradient(objective, array, gradient)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_and_leading_axes_of_an_added_gradient(layout):
    x, nodes, _, grad_y, _ = traced((9, 7, 4, 2, 12), "float32")
    x, grad_y = x[:12].reshape(3, 4, 9), grad_y[:12].reshape(3, 4, 7)
    _, trace = fffnb.fff_forward(x, nodes, return_trace=True)
    added = np.random.default_rng(1).standard_normal(trace.scores.shape).astype("float32")
    expected = fffnb.fff_backward(grad_y, x, nodes, trace, grad_scores=added)
    changed = LAYOUTS[layout](added)
    found = fffnb.fff_backward(grad_y, x, nodes, trace, grad_scores=changed)
    for one, two in zip(found[:2], expected[:2], strict=True):
        np.testing.assert_array_equal(one, two)
    none = fffnb.fff_backward(grad_y[:0], x[:0], nodes, empty(trace), grad_scores=added[:0])
    assert none.x.shape == (0, 4, 9) and not none.nodes.any()


def test_an_added_gradient_that_does_not_fit_is_refused():
    x, nodes, _, grad_y, trace = traced((3, 2, 3, 1, 5))
    rule = fffnb.UpdateRule("sgd", SGD, {})

    def refused(added, error, words):
        before = nodes.copy()
        for call in (fffnb.fff_backward, partial(fffnb.fff_backward_update, rule=rule)):
            with pytest.raises(error, match=words):
                call(grad_y, x, nodes, trace, grad_scores=added)
        np.testing.assert_array_equal(nodes, before)

    scores = trace.scores
    refused(scores.tolist(), TypeError, "grad_scores must be a numpy.ndarray, got builtins.list")
    refused(scores.astype("f4"), TypeError, "grad_scores must have the dtype of nodes, float64")
    refused(scores[:4], ValueError, r"grad_scores must have shape \(5, 1, 3\) .* got \(4, 1, 3\)")


@pytest.mark.parametrize(("dtype", "rows"), [("float32", "nodes"), ("float64", "patterns")])
def test_an_added_gradient_of_the_flat_form_equals_the_reference(dtype, rows):
    x, *layer, bias, grad_y = flat_problem(9, 7, 4, 2, 40, dtype, seed=7, rows=rows)
    clear = ~flat.forward(x, *layer, bias).ambiguous(np.finfo(dtype).eps)
    x, grad_y = x[clear], grad_y[clear]
    options = {"bias": bias, "activation": "gelu"}
    _, trace = fffnb.flat_forward(x, *layer, **options, return_trace=True)
    added = np.random.default_rng(8).standard_normal(trace.scores.shape).astype(dtype)
    grads = fffnb.flat_backward(grad_y, x, *layer, trace, grad_scores=added)
    dense = on_paths(added, flat.forward(x, *layer, bias).mask)
    expected = flat.backward(grad_y, x, *layer, **options, added=dense)
    sizes = flat.backward(grad_y, x, *layer, **options, added=dense, absolute=True)
    for found, right, size in zip(grads, expected, sizes, strict=True):
        assert rms(found - right) <= BOUND[dtype] * rms(size)
    rule, before = fffnb.UpdateRule("sgd", SGD, {}), [array.copy() for array in (*layer, bias)]
    grad_x = fffnb.flat_backward_update(
        *(grad_y, x, *layer, trace, rule, rule),
        **{"bias": bias, "bias_rule": rule, "grad_scores": added},
    )
    np.testing.assert_array_equal(grad_x, grads.x)
    for array, was, gradient in zip((*layer, bias), before, grads[1:], strict=True):
        np.testing.assert_allclose(array, was - 0.1 * gradient, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="grad_scores must have shape"):
        fffnb.flat_backward(grad_y, x, *layer, trace, grad_scores=added[1:])
    with pytest.raises(TypeError, match="grad_scores must have the dtype of planes"):
        fffnb.flat_backward(grad_y, x, *layer, trace, grad_scores=added.astype("f2"))


def test_an_empty_batch_of_the_flat_form_steps_nothing():
    x, *layer, _, grad_y = flat_problem(3, 2, 3, 1, 0, "float32")
    before = [array.copy() for array in layer]
    _, trace = fffnb.flat_forward(x, *layer, return_trace=True)
    rule = fffnb.UpdateRule("sgd", {**SGD, "weight_decay": 0.1}, {})
    assert fffnb.flat_backward_update(grad_y, x, *layer, trace, rule, rule).shape == (0, 3)
    for array, was in zip(layer, before, strict=True):
        np.testing.assert_array_equal(array, was)
