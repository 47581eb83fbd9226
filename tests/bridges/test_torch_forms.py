"""PyTorch's layers of the other forms: values, gradients, tracing, conversion, and wrong input."""

import copy
import importlib
import pickle

import numpy as np
import pytest

import fffnb
from fffnb import bridges, nn

torch = pytest.importorskip("torch", reason="torch is not installed: fffnb[torch]")
bridge = importlib.import_module("fffnb.bridges.torch")

SOFT = {"temperature": 0.7, "hardening": 0.3}
WIDTHS = {"n_in": 6, "n_out": 4, "n_trees": 2, "activation": "gelu", "rng": 3, "dtype": np.float64}
FFF = nn.FFF(**WIDTHS, depth=3, bias=True)

#: A layer of each form, all with the same widths.
LAYERS = {
    "bag": nn.BagFFF(**WIDTHS, n_nodes=9, k=3, bias=True),
    "bag of positive": nn.BagFFF(**WIDTHS, n_nodes=9, k=None),
    "keys": nn.ProductKeyFFF(**WIDTHS, n_keys=4, k=3),
    "leaf": nn.LeafFFF(**WIDTHS, depth=2, width=3, **SOFT),
    "soft": nn.SoftFFF(FFF, gate="smooth_step", **SOFT),
}
FORMS = pytest.mark.parametrize("name", LAYERS)


def samples(batch=5, dtype=np.float64):
    return np.random.default_rng(1).standard_normal((batch, 6)).astype(dtype)


def run(module, x, parameters):
    """Return the output of a module, and the hardening loss if there is one, for parameters."""
    y = torch.func.functional_call(module, parameters, x)
    loss = getattr(module, "hardening_loss", None)
    return y if loss is None else (y, loss)


@pytest.mark.parametrize(
    ("name", "training"), [*((name, True) for name in LAYERS), ("leaf", False), ("soft", False)]
)
def test_values_are_numpys_and_gradients_those_of_finite_differences(name, training):
    layer = LAYERS[name]
    module = bridges.convert(layer, "torch").train(training)
    soft = training and hasattr(layer, "temperature")
    x = samples()
    y = module(torch.tensor(x))
    np.testing.assert_array_equal(y.detach(), layer.forward(x)[0] if soft else layer(x))
    tensors = {word: tensor.detach().clone() for word, tensor in module.named_parameters()}
    if name == "leaf" and not soft:
        tensors = {word: each for word, each in tensors.items() if not word.startswith("router")}
    leaves = [torch.tensor(x, requires_grad=True), *(t.requires_grad_() for t in tensors.values())]
    assert torch.autograd.gradcheck(
        lambda x, *parts: run(module, x, dict(zip(tensors, parts, strict=True))), leaves
    )
    grads = torch.autograd.grad(module(leaves[0]).sum(), leaves[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="gradients of gradients"):
        grads[0].sum().backward()


@FORMS
def test_x_may_be_strided_empty_or_one_sample(name):
    module = bridges.convert(LAYERS[name], "torch")
    x = torch.tensor(samples(6))
    y = module(x)
    torch.testing.assert_close(module(x.reshape(2, 3, 6)), y.reshape(2, 3, 4))
    torch.testing.assert_close(module(x[0]), y[0])
    strided = x.T.contiguous().T.requires_grad_()
    module(strided).sum().backward()  # a gradient of strides 0
    torch.testing.assert_close(module(strided), y)
    empty = x[:0].clone().requires_grad_()
    module.zero_grad()
    module(empty).sum().backward()
    assert module(empty).shape == (0, 4) and empty.grad.shape == (0, 6)
    assert not any(each.grad.any() for each in module.parameters())


@FORMS
def test_a_layer_goes_there_and_back_as_copies(name):
    layer = LAYERS[name]
    module = bridges.convert(layer, "torch")
    x = torch.tensor(samples())
    y = module(x)
    other = bridges.convert(
        layer.with_parameters(
            {word: np.zeros_like(array) for word, array in layer.parameters.items()}
        ),
        "torch",
    )
    other.load_state_dict(module.state_dict())
    for twin in (other, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert repr(twin) == repr(module) and torch.equal(twin(x), y)
    back = bridges.convert(module, "numpy")
    assert type(back) is type(layer) and back.config() == layer.config()
    for word, array in layer.parameters.items():
        np.testing.assert_array_equal(back.parameters[word], array)
        back.parameters[word][...] = 0
    assert torch.equal(module(x), y)
    for word in ("temperature", "gate", "leak", "hardening"):
        assert getattr(back, word, None) == getattr(module, word, None)


def test_a_layer_says_what_it_is():
    assert repr(bridge.BagFFF(5, 4, 9, k=3, bias=True)) == (
        "BagFFF(n_in=5, n_out=4, n_nodes=9, k=3, n_trees=1, activation='identity', bias=True, "
        "gradient='dense')"
    )
    assert repr(bridge.ProductKeyFFF(6, 4, 3, k=2)) == (
        "ProductKeyFFF(n_in=6, n_out=4, n_keys=3, k=2, n_trees=1, activation='identity', "
        "gradient='dense')"
    )
    assert repr(bridge.LeafFFF(6, 4, 2, 3, leak=0.1)) == (
        "LeafFFF(n_in=6, n_out=4, depth=2, width=3, n_trees=1, activation='relu', bias=True, "
        "temperature=1.0, gate='sigmoid', leak=0.1, hardening=0.0)"
    )
    assert repr(bridge.SoftFFF(bridge.FFF(6, 4, 2), hardening=0.1)).splitlines()[:2] == [
        "SoftFFF(",
        "  temperature=1.0, gate='sigmoid', leak=0.0, hardening=0.1",
    ]


SEED = torch.tensor(7)
OPERATORS = {
    "bag": ("bag", (3, "gelu")),
    "bag of positive": ("bag", (None, None, "gelu")),
    "keys": ("keys", (3, "gelu")),
    "leaf": ("leaf", ("gelu",)),
    "leaf, soft": ("leaf_soft", ("gelu", 0.7, "sigmoid", 0.3, 0.2, SEED)),
    "soft": ("soft", ("gelu", 0.7, "smooth_step", 0.0, 0.0, None)),
}


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_operators_keep_what_torch_asks_of_them(name):
    operator, options = OPERATORS[name]
    arrays = samples(), *LAYERS[name.removesuffix(", soft")].parameters.values()
    tensors = [torch.tensor(array, requires_grad=True) for array in arrays]
    if operator == "leaf":
        tensors[1].requires_grad_(False), tensors[3].requires_grad_(False)
    operator = getattr(torch.ops.fffnb, f"{operator}_forward").default
    torch.library.opcheck(operator, (*tensors, *options))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_whole_graph_compiles_with_its_gradients():
    torch.compiler.reset()
    parts = [
        part
        for name in ("bag", "keys", "leaf", "soft")
        for part in (bridges.convert(LAYERS[name], "torch"), torch.nn.Linear(4, 6).double())
    ]
    parts.append(bridge.FFF(6, 4, 3, balance=0.1, dtype=float))
    model, x = torch.nn.Sequential(*parts), torch.tensor(samples())

    def loss_of(model):
        y = model(x)
        return y.square().sum() + bridge.hardening_loss(model) + bridge.balance_loss(model)

    loss_of(model).backward()
    right = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    torch.compile(loss_of, fullgraph=True, backend="aot_eager")(model).backward()
    for parameter, wanted in zip(model.parameters(), right, strict=True):
        torch.testing.assert_close(parameter.grad, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
@pytest.mark.parametrize("name", ["bag", "bag of positive", "keys"])
def test_gradients_of_rows_take_the_steps_of_numpys_trainer(name, optimizer):
    layer = LAYERS[name].with_parameters(
        {word: array.copy() for word, array in LAYERS[name].parameters.items()}
    )
    module = bridges.convert(layer, "torch", gradient="rows")
    dense, x = bridges.convert(layer, "torch"), torch.tensor(samples(3), requires_grad=True)
    grad_y = torch.tensor(samples(3)[:, :4])
    steps = getattr(bridge, optimizer)(module.parameters(), lr=0.1)
    same = getattr(nn, optimizer)(layer.parameters, lr=0.1)
    for _ in range(2):
        module(x).backward(grad_y)
        grads = layer.backward(grad_y.numpy(), layer.forward(x.detach().numpy())[1], sparse=True)
        steps.step()
        same.step(grads[1])
        for word, array in layer.parameters.items():
            np.testing.assert_allclose(getattr(module, word).detach(), array, rtol=0, atol=1e-13)
        steps.zero_grad()
    dense.load_state_dict(module.state_dict())
    grad_x, x.grad = x.grad, None
    for each in (module, dense):
        for _ in range(2):  # gradients of several backward passes add up
            each(x).backward(grad_y)
    assert getattr(module, list(layer.parameters)[-1]).grad.is_sparse
    assert repr(module).endswith("gradient='rows')") and grad_x.any()
    for one, other in zip(module.parameters(), dense.parameters(), strict=True):
        torch.testing.assert_close(one.grad.to_dense(), other.grad, rtol=0, atol=1e-12)


def test_leaks_follow_from_the_generator_of_torch():
    module = bridge.SoftFFF(bridge.FFF.from_numpy(FFF), leak=0.3)
    x, nodes, bias = samples(), FFF.nodes, FFF.bias
    torch.manual_seed(5)
    seed = int(torch.randint(2**63 - 1, ()))
    right = fffnb.fff_forward_soft(x, nodes, bias=bias, activation="gelu", leak=0.3, rng=seed)
    torch.manual_seed(5)
    np.testing.assert_array_equal(module(torch.tensor(x)).detach(), right)
    assert not torch.equal(module(torch.tensor(x)), torch.tensor(right))


def test_hardening_losses_of_a_model_add_up_with_their_weights():
    x = torch.tensor(samples())
    soft, leaf = (bridges.convert(LAYERS[name], "torch") for name in ("soft", "leaf"))
    model = torch.nn.Sequential(torch.nn.ModuleDict({"soft": soft, "leaf": leaf}))
    with pytest.raises(RuntimeError, match="has run in training mode, got a Sequential without"):
        bridge.hardening_loss(model)
    soft(x), leaf(x)
    expected = 0.3 * sum(
        fffnb.hardening_loss(LAYERS[name].forward(samples())[1][1])[0] for name in ("soft", "leaf")
    )
    assert bridge.hardening_loss(model).item() == pytest.approx(expected, rel=1e-12)
    soft.hardening = 0.0
    soft(x), leaf.eval()(x)
    assert soft.hardening_loss == 0 and leaf.hardening_loss is None


def test_routers_learn_in_training_mode_alone():
    module = bridges.convert(LAYERS["leaf"], "torch")
    x = torch.tensor(samples())
    module(x).sum().backward()
    assert all(each.grad.any() for each in module.parameters())
    module.zero_grad()
    module.eval()(x).sum().backward()
    assert module.routers.grad is None and module.router_bias.grad is None
    assert module.leaves.grad.any() and module.output_bias.grad.any()


def test_autocast_leaves_the_parameters_as_they_are():
    module = bridge.BagFFF(6, 4, 9, k=3)
    x = torch.tensor(samples(dtype=np.float32)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(module(x), module(x.float()))


def test_wrong_arguments_are_refused():
    x = torch.tensor(samples())
    nodes, keys, y_vectors, routers, leaves, *biases = (
        torch.tensor(LAYERS[name].parameters[word])
        for name, words in [
            ("bag", ["nodes"]),
            ("keys", ["keys", "y_vectors"]),
            ("leaf", ["routers", "leaves", "router_bias", "hidden_bias", "output_bias"]),
        ]
        for word in words
    )
    tree = torch.tensor(FFF.nodes)
    for call, error, words in [
        (lambda: bridge.bag(x, nodes, k=10), ValueError, "k must be at most .* 9, got 10"),
        (lambda: bridge.bag(x.numpy(), nodes, k=3), TypeError, "x must be a torch.Tensor"),
        (lambda: bridge.keys(x.float(), keys, y_vectors, k=3), TypeError, "dtype of keys"),
        (lambda: bridge.keys(x, keys, y_vectors[:5], k=3), ValueError, "must be a square"),
        (lambda: bridge.leaf(x, routers, leaves, biases), TypeError, "a LeafBias, got list"),
        (
            lambda: bridge.leaf(x, routers, leaves, fffnb.LeafBias(*biases[:2], None)),
            TypeError,
            r"bias\.output must be",
        ),
        (lambda: bridge.leaf_soft(x, routers, leaves, leak=0.6), ValueError, "leak must be"),
        (lambda: bridge.leaf_soft(x[:, :5], routers, leaves), ValueError, "x must have 6 columns"),
        (lambda: bridge.fff_soft(x, tree, temperature=0), ValueError, "temperature must be"),
        (lambda: bridge.fff_soft(x, tree, hardening=-1), ValueError, "hardening must be"),
        (lambda: bridge.fff_soft(x, tree.to("meta")), RuntimeError, "x must be on meta like nodes"),
        (lambda: bridge.SoftFFF(FFF), TypeError, r"layer must be PyTorch's FFF, got .*fffnb\.nn"),
        (lambda: bridge.bag(x, nodes, k=3, gradient="lazy"), ValueError, "'dense' or 'rows'"),
        (lambda: bridge.LeafFFF.from_numpy(LAYERS["leaf"], gradient="rows"), TypeError, "gradient"),
    ]:
        with pytest.raises(error, match=words):
            call()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this PyTorch has no GPU")
@FORMS
@pytest.mark.parametrize("training", [True, False])
def test_a_gpu_gives_what_the_cpu_gives(name, training):
    module = bridges.convert(LAYERS[name], "torch").train(training)
    there = copy.deepcopy(module).cuda()
    x = torch.tensor(samples(), requires_grad=True)
    other = x.detach().cuda().requires_grad_()
    y, found = module(x), there(other)
    losses = [each.hardening_loss for each in (module, there) if hasattr(each, "hardening_loss")]
    torch.testing.assert_close(found.cpu(), y, rtol=0, atol=1e-11)
    if losses and training:
        torch.testing.assert_close(losses[1].cpu(), losses[0], rtol=0, atol=1e-11)
        y, found = y + losses[0], found + losses[1]
    y.square().sum().backward()
    found.square().sum().backward()
    torch.testing.assert_close(other.grad.cpu(), x.grad, rtol=0, atol=1e-10)
    for one, twin in zip(module.parameters(), there.parameters(), strict=True):
        assert (one.grad is None) == (twin.grad is None)
        if one.grad is not None:
            torch.testing.assert_close(twin.grad.cpu(), one.grad, rtol=0, atol=1e-10)
