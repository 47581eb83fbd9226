"""PyTorch's layer and function: values, gradients, autocast, state, and wrong input."""

import copy
import importlib
import pickle

import numpy as np
import pytest

import fffnb
from fffnb import bridges, nn
from fffnb.activations import ACTIVATIONS
from fffnb.reference import tree as reference

torch = pytest.importorskip("torch", reason="torch is not installed: fffnb[torch]")
bridge = importlib.import_module("fffnb.bridges.torch")

N_IN, N_OUT, DEPTH = 5, 4, 3


def problem(dtype=np.float64, *, n_trees=2, lead=(7,), seed=0):
    """Return x, nodes, bias and grad_y; x stays away from where a path turns."""
    rng = np.random.default_rng(seed)
    nodes = fffnb.init_nodes(N_IN, N_OUT, DEPTH, n_trees, rng=rng, dtype=dtype)
    bias = (0.1 * rng.standard_normal(nodes.shape[:2])).astype(dtype)
    x = rng.standard_normal((64, N_IN)).astype(dtype)
    run = reference.forward(x, nodes, bias)
    clear = (np.abs(run.scores) > 1e-3).all(axis=(0, 2))
    x = x[clear][: int(np.prod(lead))].reshape(*lead, N_IN)
    return x, nodes, bias, rng.standard_normal((*lead, N_OUT)).astype(dtype)


def tensors(*arrays, grad=True):
    return [torch.tensor(array, requires_grad=grad) for array in arrays]


def dense(gradient):
    return gradient.to_dense() if gradient.is_sparse else gradient


@pytest.mark.parametrize("gradient", ["dense", "rows"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("with_bias", [True, False])
def test_values_and_gradients_are_those_of_the_reference(gradient, activation, with_bias):
    x, nodes, bias, grad_y = problem()
    bias = bias if with_bias else None
    leaves = tensors(x, nodes, *([bias] if with_bias else []))
    y = bridge.fff(*leaves, activation=activation, gradient=gradient)
    y.backward(torch.tensor(grad_y))
    np.testing.assert_allclose(
        y.detach(), reference.forward(x, nodes, bias, activation).y, rtol=0, atol=1e-12
    )
    expected = reference.backward(grad_y, x, nodes, bias, activation)
    for leaf, right in zip(leaves, expected, strict=False):
        np.testing.assert_allclose(dense(leaf.grad), right, rtol=0, atol=1e-12)
    assert all(leaf.grad.is_sparse == (gradient == "rows") for leaf in leaves[1:])


@pytest.mark.parametrize("gradient", ["dense", "rows"])
@pytest.mark.parametrize("lead", [(), (1,), (2, 3), (0,), (2, 0, 3)])
def test_x_may_have_any_leading_axes(gradient, lead):
    x, nodes, bias, grad_y = problem(lead=lead)
    leaves = tensors(x, nodes, bias)
    y = bridge.fff(*leaves, gradient=gradient)
    assert y.shape == (*lead, N_OUT)
    y.backward(torch.tensor(grad_y))
    flat = x.reshape(-1, N_IN), nodes, bias
    right = reference.backward(grad_y.reshape(-1, N_OUT), *flat)
    np.testing.assert_allclose(
        y.detach().reshape(-1, N_OUT), reference.forward(*flat).y, rtol=0, atol=1e-12
    )
    assert leaves[0].grad.shape == x.shape
    for leaf, wanted in zip(leaves, right, strict=True):
        np.testing.assert_allclose(dense(leaf.grad).reshape(wanted.shape), wanted, atol=1e-12)


@pytest.mark.parametrize("gradient", ["dense", "rows"])
def test_x_and_its_gradient_may_be_strided_and_inputs_stay(gradient):
    x, nodes, bias, _ = problem()
    wide = torch.tensor(np.repeat(x, 2, axis=1).T.copy())
    strided = wide.T[:, ::2].requires_grad_()
    assert not strided.is_contiguous()
    parameters = tensors(nodes, bias)
    y = bridge.fff(strided, *parameters, gradient=gradient)
    (grad_x,) = torch.autograd.grad(y.sum(), strided)  # a gradient of strides 0
    right = reference.backward(np.ones((7, N_OUT)), x, nodes, bias)[0]
    np.testing.assert_allclose(grad_x, right, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(wide, np.repeat(x, 2, axis=1).T)
    for parameter, array in zip(parameters, (nodes, bias), strict=True):
        np.testing.assert_array_equal(parameter.detach(), array)


def test_gradcheck():
    x, nodes, bias, _ = problem(lead=(2, 2))
    for activation in ("identity", "gelu"):
        assert torch.autograd.gradcheck(
            lambda *parts, act=activation: bridge.fff(*parts, activation=act),
            tensors(x, nodes, bias),
        )


@pytest.mark.parametrize("gradient", ["dense", "rows"])
def test_gradients_of_gradients_are_refused(gradient):
    x, nodes, _, _ = problem()
    leaves = tensors(x, nodes)
    y = bridge.fff(*leaves, gradient=gradient)
    (grad_x,) = torch.autograd.grad((y**2).sum(), leaves[:1], create_graph=True)
    with pytest.raises(RuntimeError, match=r"gradients of gradients|differentiate twice"):
        grad_x.sum().backward()


def test_the_trace_has_no_gradient():
    x, nodes, _, _ = problem()
    y, scores, leaves, _ = torch.ops.fffnb.forward(*tensors(x, nodes), None, "identity")
    assert y.requires_grad and not scores.requires_grad and not leaves.requires_grad
    assert scores.shape == (7, 2, DEPTH) and leaves.dtype == torch.int32


def test_nothing_is_recorded_without_grad():
    x, nodes, _, _ = problem()
    with torch.no_grad():
        assert not bridge.fff(*tensors(x, nodes)).requires_grad


def test_vmap_over_samples_is_right_or_refused():
    x, nodes, _, _ = problem()
    x, nodes = tensors(x, nodes, grad=False)
    try:
        y = torch.vmap(lambda sample: bridge.fff(sample, nodes))(x)
    except RuntimeError as error:
        assert "vmap" in str(error) or "atching rule" in str(error)
    else:
        torch.testing.assert_close(y, bridge.fff(x, nodes))


# The layer


def make(**options):
    options = {"n_trees": 2, "activation": "gelu", "bias": True, **options}
    return fffnb.FFF(N_IN, N_OUT, DEPTH, backend="torch", rng=3, **options)


def test_a_gradient_of_samples_alone_makes_none_of_nodes(monkeypatch):
    operators = importlib.import_module("fffnb.bridges.torch.operators")
    sparse = []

    def backward(*arguments, **options):
        sparse.append(options["sparse"])
        return fffnb.fff_backward(*arguments, **options)

    monkeypatch.setattr(operators, "fff_backward", backward)
    layer, x = make(dtype=np.float64), tensors(problem(np.float64)[0])[0].requires_grad_()
    layer(x).sum().backward()
    whole, x.grad = x.grad, None
    layer.requires_grad_(False)(x).sum().backward()
    assert sparse == [False, True] and torch.equal(x.grad, whole)


def test_a_layer_starts_as_numpys():
    same = nn.FFF(N_IN, N_OUT, DEPTH, n_trees=2, activation="gelu", bias=True, rng=3)
    own = bridge.FFF(N_IN, N_OUT, DEPTH, n_trees=2, activation="gelu", bias=True, rng=3)
    for layer in (make(), own):
        assert isinstance(layer, bridge.FFF) and dict(layer.named_parameters()).keys() == {
            "nodes",
            "bias",
        }
        for name, array in same.parameters.items():
            np.testing.assert_array_equal(getattr(layer, name).detach(), array)
    x = problem(np.float32)[0]
    np.testing.assert_array_equal(own(torch.tensor(x)).detach(), same(x))
    assert make(bias=False).bias is None and own.nodes.requires_grad


def test_parameters_move_to_numpy_and_back_as_copies():
    layer = make(dtype=np.float64)
    array, converted = layer.to_numpy(), bridges.convert(layer, "numpy")
    again = bridge.FFF.from_numpy(array, gradient="rows")
    assert array.config() == again.to_numpy().config() and again.gradient == "rows"
    expected = layer.nodes.detach().clone()
    with torch.no_grad():
        layer.nodes.zero_()
    for found in (array, converted):
        np.testing.assert_array_equal(found.nodes, expected)
    array.nodes[...] = 1
    assert torch.equal(again.nodes, expected) and not layer.nodes.any()


def test_state_pickle_and_deepcopy_round_trips():
    layer, x = make(), torch.tensor(problem(np.float32)[0])
    other = make(bias=True)
    with torch.no_grad():
        other.nodes.zero_()
    other.load_state_dict(layer.state_dict())
    for twin in (other, pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer)):
        assert repr(twin) == repr(layer) and torch.equal(twin(x), layer(x))
        assert twin.nodes.data_ptr() != layer.nodes.data_ptr()
    with pytest.raises(RuntimeError, match="size mismatch"):
        bridge.FFF(N_IN, N_OUT, DEPTH + 1, n_trees=2, bias=True).load_state_dict(layer.state_dict())


def test_a_layer_says_what_it_is():
    assert repr(make(gradient="rows")) == (
        "FFF(n_in=5, n_out=4, depth=3, n_trees=2, activation='gelu', bias=True, gradient='rows')"
    )


def test_a_layer_without_memory_has_shapes():
    y = make(device="meta")(torch.empty(2, 3, N_IN, device="meta"))
    assert y.shape == (2, 3, N_OUT) and y.device.type == "meta"


@pytest.mark.parametrize("gradient", ["dense", "rows"])
def test_decisions_train_straight_through(gradient):
    x, _, bias, grad_y = problem()
    same = nn.FFF(5, 4, DEPTH, n_trees=2, bias=True, straight_through=0.7, dtype=np.float64)
    same.bias[...] = bias
    layer = bridges.convert(same, "torch", gradient=gradient)
    assert "straight_through=0.7" in repr(layer)
    assert bridges.convert(layer, "numpy").config() == same.config()
    leaf, plain = (torch.tensor(x, requires_grad=True) for _ in range(2))
    layer(leaf).backward(torch.tensor(grad_y))
    grad_x, grads = same.backward(grad_y, same.forward(x)[1])
    np.testing.assert_array_equal(leaf.grad, grad_x)
    for name, wanted in grads.items():
        np.testing.assert_array_equal(dense(getattr(layer, name).grad), wanted)
    bridge.fff(plain, layer.nodes, layer.bias).backward(torch.tensor(grad_y))
    assert not torch.equal(plain.grad, leaf.grad)
    if gradient == "rows":
        layer.zero_grad()
        optimizer = bridge.SGD(layer.parameters(), lr=1.0, in_backward=True)
        before = layer.nodes.detach().clone()
        layer(leaf).backward(torch.tensor(grad_y))
        torch.testing.assert_close(before - layer.nodes, torch.tensor(grads["nodes"]))
        optimizer.step()


# Autocast


@pytest.mark.parametrize("gradient", ["dense", "rows"])
def test_autocast_on_the_cpu_runs_in_float32(gradient, monkeypatch):
    layer = make(gradient=gradient)
    x = torch.tensor(problem(np.float32)[0]).bfloat16().requires_grad_()
    with pytest.raises(TypeError, match=r"dtype of nodes, torch\.float32, got torch\.bfloat16"):
        layer(x)
    cast = torch.Tensor.to

    def to(tensor, *arguments, **options):
        assert tensor.shape != layer.nodes.shape, "the nodes are cast"
        return cast(tensor, *arguments, **options)

    monkeypatch.setattr(torch.Tensor, "to", to)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.float32
    y.sum().backward()
    assert x.grad.dtype == torch.bfloat16 and layer.nodes.grad.dtype == torch.float32
    assert torch.equal(y, layer(x.float()))


# Wrong input


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        ({"x": np.ones((2, N_IN), np.float32)}, TypeError, r"x must be a torch\.Tensor, got numpy"),
        ({"nodes": [1.0]}, TypeError, r"nodes must be a torch\.Tensor, got builtins\.list"),
        ({"x": "long"}, TypeError, r"x must hold floats, got torch\.int64"),
        ({"bias": "long"}, TypeError, r"bias must hold floats, got torch\.int64"),
        (
            {"x": "half"},
            TypeError,
            r"x must have the dtype of nodes, torch\.float32, got .*half|16",
        ),
        ({"x": "double"}, TypeError, r"dtype of nodes, torch\.float32, got torch\.float64"),
        ({"x": "meta"}, RuntimeError, "x must be on cpu like nodes, got meta"),
        ({"bias": "meta"}, RuntimeError, "bias must be on cpu like nodes, got meta"),
        ({"activation": "swish"}, ValueError, "activation must be one of .*, got 'swish'"),
        ({"straight_through": 0.0}, ValueError, "temperature must be a finite number above 0"),
        ({"gradient": "sparse"}, ValueError, "gradient must be 'dense' or 'rows', got 'sparse'"),
        ({"n_out": N_OUT + 1}, ValueError, r"x must have 4 columns for n_out = 5"),
    ],
)
def test_wrong_arguments_are_refused(change, error, sentence):
    x, nodes, bias, _ = tensors(*problem(np.float32), grad=False)
    arguments = {"x": x, "nodes": nodes, "bias": bias}
    for name, value in change.items():
        if isinstance(value, str) and name in arguments:
            value = arguments[name].to(value if value == "meta" else getattr(torch, value))
        arguments[name] = value
    with pytest.raises(error, match=sentence):
        bridge.fff(**arguments)


def test_wrong_shapes_are_refused():
    x, nodes, bias, _ = tensors(*problem(np.float32), grad=False)
    for wrong, sentence in [
        ((x[:, :-1], nodes, bias), "n_out"),
        ((x[0, 0], nodes, bias), r"x must have shape \(\.\.\., n_in\)"),
        ((x, nodes[0], bias), r"nodes\[None\]"),
        ((x, nodes[:, :-1], bias), r"2\*\*depth - 1"),
        ((x, nodes, bias[:1]), "bias must have shape"),
        ((x, nodes.transpose(1, 2).contiguous().transpose(1, 2), bias), "C-contiguous"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            bridge.fff(*wrong, n_out=N_OUT)


def test_sixteen_bits_are_refused_on_the_cpu():
    x, nodes, _, _ = tensors(*problem(np.float32), grad=False)
    for dtype in (torch.float16, torch.bfloat16):
        with pytest.raises(TypeError, match="nodes must be float32 or float64 on the CPU"):
            bridge.fff(x.to(dtype), nodes.to(dtype))


def test_an_unknown_gradient_is_refused_when_the_layer_is_made():
    with pytest.raises(ValueError, match="gradient must be 'dense' or 'rows', got 'lazy'"):
        make(gradient="lazy")


def test_ops_name_the_bridge_where_they_take_no_tensor():
    x, nodes, _, _ = tensors(*problem(np.float32), grad=False)
    with pytest.raises(TypeError, match=r"on the CPU: call fffnb\.bridges\.torch\.fff"):
        fffnb.fff_forward(x, nodes)


# Hardware

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="this PyTorch has no GPU")


@cuda
@pytest.mark.parametrize("gradient", ["dense", "rows"])
def test_a_gpu_gives_what_the_cpu_gives(gradient):
    x, nodes, bias, grad_y = problem()
    leaves = [part.cuda().detach().requires_grad_() for part in tensors(x, nodes, bias)]
    y = bridge.fff(*leaves, activation="gelu", gradient=gradient)
    y.backward(torch.tensor(grad_y).cuda())
    right = reference.forward(x, nodes, bias, "gelu").y
    np.testing.assert_allclose(y.detach().cpu(), right, rtol=0, atol=1e-11)
    expected = reference.backward(grad_y, x, nodes, bias, "gelu")
    for leaf, wanted in zip(leaves, expected, strict=True):
        np.testing.assert_allclose(dense(leaf.grad).cpu(), wanted, rtol=0, atol=1e-11)


@cuda
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_autocast_on_a_gpu_keeps_float32_nodes(dtype):
    layer = make(device="cuda")
    x = torch.tensor(problem(np.float32)[0], device="cuda").to(getattr(torch, dtype))
    with torch.autocast("cuda", getattr(torch, dtype)):
        y = layer(x.requires_grad_())
    y.sum().backward()
    assert y.dtype == layer.nodes.grad.dtype == torch.float32 and x.grad.dtype == x.dtype
    assert torch.equal(y, layer(x.float()))


@cuda
def test_mixed_devices_are_refused():
    layer = make(device="cuda")
    with pytest.raises(RuntimeError, match="x must be on cuda:0 like nodes, got cpu"):
        layer(torch.ones(2, N_IN))


@cuda
def test_a_cuda_graph_replays_a_training_step():
    layer, x = make(device="cuda"), torch.randn(64, N_IN, device="cuda")
    eager = copy.deepcopy(layer)

    def step(layer):
        layer.zero_grad(set_to_none=False)
        layer(x).square().sum().backward()
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter -= 1e-2 * parameter.grad

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step(layer)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step(layer)
    for _ in range(2):
        graph.replay()
    for _ in range(5):
        step(eager)
    assert torch.equal(layer.nodes, eager.nodes)
