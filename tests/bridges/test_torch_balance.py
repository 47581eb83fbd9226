"""The balance loss that PyTorch's modules keep: its value, its gradients, and when there is one."""

import copy
import importlib
from functools import partial

import numpy as np
import pytest

import fffnb
from fffnb import bridges, nn

torch = pytest.importorskip("torch", reason="torch is not installed: fffnb[torch]")
bridge = importlib.import_module("fffnb.bridges.torch")

X = np.random.default_rng(0).standard_normal((9, 5)) + 0.3
GRAD_Y = np.random.default_rng(1).standard_normal((9, 4))

OPTIONS = {"n_trees": 2, "bias": True, "dtype": float}
LAYERS = {
    "dense": (partial(nn.FFF, 5, 4, 3, straight_through=0.7, **OPTIONS), {}),
    "rows": (partial(nn.FFF, 5, 4, 3, **OPTIONS), {"gradient": "rows"}),
    "flat": (partial(nn.FlatFFF, 5, 4, 3, **OPTIONS), {}),
}


@pytest.mark.parametrize("name", LAYERS)
def test_loss_and_gradients_are_those_of_numpy(name):
    make, options = LAYERS[name]
    layer = make()
    layer.score_loss = partial(fffnb.balance_loss, weight=2 * 0.3)
    module = bridges.convert(layer, "torch", balance=0.3, **options)
    x = torch.tensor(X, requires_grad=True)
    (module(x) * torch.tensor(GRAD_Y)).sum().add(2 * bridge.balance_loss(module)).backward()
    _, trace = layer.forward(X)
    assert 2 * module.balance_loss.item() == pytest.approx(layer.score_loss(trace[1])[0])
    grad_x, grads = layer.backward(GRAD_Y, trace)
    np.testing.assert_allclose(x.grad, grad_x, rtol=0, atol=1e-13)
    for word, right in grads.items():
        found = getattr(module, word).grad
        found = found.to_dense() if found.is_sparse else found
        np.testing.assert_allclose(found, right, rtol=0, atol=1e-13)


def test_there_is_a_loss_in_training_mode_alone():
    tree, flat = bridge.FFF(5, 4, 3, balance=0.1), bridge.FlatFFF(5, 4, 3, balance=0.5)
    model, x = torch.nn.ModuleList([tree, flat, bridge.FFF(5, 4, 3)]), torch.tensor(X).float()
    with pytest.raises(RuntimeError, match=r"with a weight of balance that has run in training"):
        bridge.balance_loss(model)
    for layer in model:
        layer(x)
    total = bridge.balance_loss(model)
    assert total == tree.balance_loss + flat.balance_loss and total.dtype == torch.float32
    assert copy.deepcopy(tree).balance_loss is None
    assert "balance=0.1" in repr(tree) and "balance" not in repr(model[2])
    tree(x[:0])
    assert tree.balance_loss == 0
    tree.eval()(x)
    assert tree.balance_loss is None and bridge.balance_loss(model) == flat.balance_loss
    with pytest.raises(ValueError, match=r"balance must be at least 0.0, got -1"):
        bridge.FFF(5, 4, 3, balance=-1)
