"""PyTorch's layer of the flat form: values, gradients, tracing, conversion, and wrong input."""

import importlib

import numpy as np
import pytest

import fffnb
from fffnb import bridges, nn
from fffnb.reference import flat as reference

torch = pytest.importorskip("torch", reason="torch is not installed: fffnb[torch]")
bridge = importlib.import_module("fffnb.bridges.torch")

N_IN, N_OUT, DEPTH = 5, 4, 3


def problem(rows="nodes"):
    """Return x, planes, y vectors and bias; x stays away from where a path turns."""
    rng = np.random.default_rng(0)
    layer = fffnb.init_flat(N_IN, N_OUT, DEPTH, 2, rows=rows, rng=rng, dtype=np.float64)
    bias = 0.1 * rng.standard_normal((2, DEPTH))
    x = rng.standard_normal((64, N_IN))
    clear = (np.abs(reference.forward(x, *layer, bias).scores) > 1e-3).all(axis=(0, 2))
    return x[clear][:6], *layer, bias


def tensors(*arrays):
    return [torch.tensor(array, requires_grad=True) for array in arrays]


@pytest.mark.parametrize("rows", ["nodes", "patterns"])
def test_values_and_gradients_are_those_of_the_reference(rows):
    arrays = problem(rows)
    leaves = tensors(*arrays)
    y = bridge.flat(*leaves, activation="gelu")
    np.testing.assert_allclose(y.detach(), reference.forward(*arrays, "gelu").y, atol=1e-12)
    y.sum().backward()  # a gradient of strides 0
    right = reference.backward(np.ones(y.shape), *arrays, "gelu")
    for leaf, wanted in zip(leaves, right, strict=True):
        np.testing.assert_allclose(leaf.grad, wanted, rtol=0, atol=1e-12)
    y = bridge.flat(*leaves[:3])  # without a bias
    np.testing.assert_allclose(y.detach(), reference.forward(*arrays[:3]).y, atol=1e-12)
    grads = torch.autograd.grad(y.sum(), leaves[:3], create_graph=True)
    for found, wanted in zip(
        grads, reference.backward(np.ones(y.shape), *arrays[:3]), strict=False
    ):
        np.testing.assert_allclose(found.detach(), wanted, rtol=0, atol=1e-12)
    with pytest.raises(RuntimeError, match="gradients of gradients"):
        grads[0].sum().backward()


def test_the_operators_keep_what_torch_asks_of_them():
    x, planes, y_vectors, bias = tensors(*problem())
    forward = torch.ops.fffnb.flat_forward.default
    torch.library.opcheck(forward, (x, planes, y_vectors, bias, "silu", 0.1))
    torch.library.opcheck(forward, (x.detach()[0], planes, y_vectors, None, "relu", None))


def test_a_layer_is_numpys_and_goes_back_as_a_copy():
    options = {"n_trees": 2, "activation": "gelu", "bias": True, "rows": "patterns", "rng": 3}
    own, same = bridge.FlatFFF(N_IN, N_OUT, DEPTH, **options), nn.FlatFFF(5, 4, 3, **options)
    for layer in (own, bridges.convert(same, "torch")):
        assert repr(layer) == (
            "FlatFFF(n_in=5, n_out=4, depth=3, n_trees=2, activation='gelu', rows='patterns', "
            "bias=True)"
        )
        for name, array in same.parameters.items():
            np.testing.assert_array_equal(getattr(layer, name).detach(), array)
    back = bridges.convert(own, "numpy")
    assert back.config() == same.config()
    back.planes[...] = 0
    assert own.planes.detach().any()
    x = np.ones((2, 3, N_IN), np.float32)
    np.testing.assert_array_equal(own(torch.tensor(x)).detach(), same(x))


def test_wrong_tensors_are_refused():
    x, planes, y_vectors, bias = tensors(*problem())
    for wrong, error, words in [
        (
            (x.detach().numpy(), planes, y_vectors),
            TypeError,
            r"x must be a torch\.Tensor, got numpy",
        ),
        ((x, planes, y_vectors.to("meta")), RuntimeError, "y_vectors must be on cpu like planes"),
        ((x.float(), planes, y_vectors), TypeError, "x must have the dtype of planes, float64"),
        ((x[:, :4], planes, y_vectors), ValueError, "x must have 5 columns like planes, got 4"),
        ((x, planes, y_vectors[:, :6], bias), ValueError, "y_vectors must have shape"),
    ]:
        with pytest.raises(error, match=words):
            bridge.flat(*wrong)
    with pytest.raises(ValueError, match="activation must be one of"):
        bridge.flat(x, planes, y_vectors, activation="swish")
