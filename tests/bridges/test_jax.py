"""The layer in JAX against the dense reference, and through JAX's transformations."""

import runpy
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="JAX is not installed")

from jax import numpy as jnp  # noqa: E402
from jax.test_util import check_grads  # noqa: E402

import fffnb  # noqa: E402
from fffnb import bridges, nn  # noqa: E402
from fffnb.activations import ACTIVATIONS  # noqa: E402
from fffnb.bridges.jax import FFF, callbacks, fff  # noqa: E402
from fffnb.reference import tree as reference  # noqa: E402

BOUND = {"float32": 2e-6, "float64": 1e-13}
ALL = (0, 1, 2)


@pytest.fixture(scope="module", autouse=True)
def poisoned_results():
    """Fill XLA's results with what cannot pass for one, so that an unwritten element shows."""
    plain = callbacks._on_views
    cached = callbacks.forward, callbacks.forward_traced, callbacks.backward

    def on_views(op):
        callback = plain(op)

        def call(ctx, results, *args):
            if results[0].__dlpack_device__()[0] == callbacks._ON_CPU:
                for array in map(np.asarray, results):
                    array[...] = np.nan if array.dtype.kind == "f" else -1
            return callback(ctx, results, *args)

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(callbacks, "_on_views", on_views)
        for function in cached:
            function.cache_clear()
        yield
    for function in cached:
        function.cache_clear()


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    """Give a dtype that JAX knows meanwhile."""
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", request.param == "float64")
    yield request.param
    jax.config.update("jax_enable_x64", before)


@pytest.fixture
def double():
    """Let JAX know float64."""
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


def problem(batch=7, *, n_in=9, n_out=6, depth=5, n_trees=2, dtype="float32", seed=0):
    """Return x, nodes, bias and grad_y, with no sample that is near to a decision."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((batch, n_in)).astype(dtype)
    nodes = fffnb.init_nodes(n_in, n_out, depth, n_trees, rng=rng, dtype=dtype)
    bias = (0.1 * rng.standard_normal(nodes.shape[:2])).astype(dtype)
    grad_y = rng.standard_normal((batch, n_out)).astype(dtype)
    assert not reference.forward(x, nodes, bias).ambiguous(np.finfo(dtype).eps).any()
    return x, nodes, bias, grad_y


def close(found, right, bound):
    """Tell whether an array is another one up to rounding."""
    assert found.shape == right.shape
    size = max(1, np.abs(right).max(initial=0))
    return np.abs(np.asarray(found) - right).max(initial=0) <= bound * size


def assert_same(found, right):
    """Raise where two pytrees of arrays differ by a bit."""
    jax.tree.map(np.testing.assert_array_equal, found, right)


def loss_of(grad_y, **options):
    """Return a function of x, nodes and bias whose gradients are those that grad_y brings."""
    return lambda *args: (fff(*args, **options) * grad_y).sum()


def equations(jaxpr):
    """Yield all equations of a program."""
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=is_program):
            if is_program(value):
                yield from equations(value)


def is_program(value):
    """Tell whether a parameter of an equation is a program."""
    return hasattr(value, "eqns")


def used(function, *args):
    """Return the names of the primitives of a program, and the largest size of what it computes."""
    program = equations(jax.make_jaxpr(function)(*args).jaxpr)
    found = [equation for equation in program if equation.primitive.name != "device_put"]
    sizes = [out.aval.size for equation in found for out in equation.outvars]
    return {equation.primitive.name for equation in found}, max(sizes)


@pytest.mark.parametrize("wrap", [jax.jit, lambda function: function], ids=["jit", "eager"])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_equals_the_reference(dtype, activation, with_bias, wrap):
    x, nodes, bias, grad_y = problem(dtype=dtype)
    args = (x, nodes, bias) if with_bias else (x, nodes)
    y = wrap(lambda *args: fff(*args, activation=activation))(*args)
    assert y.dtype == dtype
    truth = args if with_bias else (*args, None)
    assert close(y, reference.forward(*truth, activation).y, BOUND[dtype])
    gradient = jax.grad(loss_of(grad_y, activation=activation), ALL[: len(args)])
    expected = reference.backward(grad_y, *truth, activation)[: len(args)]
    for found, right in zip(wrap(gradient)(*args), expected, strict=True):
        assert found.dtype == dtype
        assert close(found, right, BOUND[dtype])


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_equal_finite_differences(double, activation):
    x, nodes, bias, _ = problem(4, n_in=5, n_out=3, depth=3, dtype="float64", seed=3)

    def op(*args):
        return fff(*args, activation=activation)

    check_grads(op, (x, nodes, bias), order=1, modes=["rev"], eps=1e-6, atol=1e-6, rtol=1e-6)


@pytest.fixture
def on_cpu():
    """Compute on the CPU, where there is a GPU too."""
    with jax.default_device(jax.devices("cpu")[0]):
        yield


def test_results_are_the_bits_of_the_numpy_op(form, on_cpu):
    x, nodes, bias, grad_y = problem(130, n_in=63, depth=6)
    y, trace = fffnb.fff_forward(x, nodes, bias=bias, activation="gelu", return_trace=True)
    grads = fffnb.fff_backward(grad_y, x, nodes, trace)
    assert_same(jax.jit(fff, static_argnames="activation")(x, nodes, bias, activation="gelu"), y)
    assert_same(jax.grad(loss_of(grad_y, activation="gelu"), ALL)(x, nodes, bias), tuple(grads))


@pytest.mark.parametrize("lead", [(), (1,), (2, 3), (0,), (2, 0, 3)])
def test_takes_any_leading_axes(lead):
    x, nodes, bias, grad_y = problem(6)
    count = int(np.prod(lead))
    some, upper = x[:count].reshape(*lead, 9), grad_y[:count].reshape(*lead, 6)
    y, grads = jax.jit(jax.value_and_grad(loss_of(upper), ALL))(some, nodes, bias)
    right = reference.forward(x[:count], nodes, bias).y
    assert close(jax.jit(fff)(some, nodes, bias), right.reshape(*lead, 6), 2e-6)
    assert abs(y - (right * grad_y[:count]).sum()) < 1e-5
    expected = reference.backward(grad_y[:count], x[:count], nodes, bias)
    for found, array in zip(grads, expected, strict=True):
        assert close(found.reshape(array.shape), array, 2e-6)


def test_vmap_over_samples_is_one_call():
    x, nodes, bias, _ = problem(12)
    args = x.reshape(3, 4, 9).swapaxes(0, 1), nodes, bias
    mapped = jax.vmap(jax.vmap(fff, (0, None, None)), (1, None, None))
    assert_same(jax.jit(mapped)(*args), fff(x, nodes, bias).reshape(3, 4, 6))
    names, _ = used(mapped, *args)
    assert "fff" in names and "scan" not in names


def test_gradient_of_vmap_is_summed_by_the_kernels():
    x, nodes, bias, grad_y = problem(50)

    def loss(*args):
        return (jax.vmap(fff, (0, None, None))(*args) * grad_y).sum()

    gradient = jax.grad(loss, ALL)
    assert_same(jax.jit(gradient)(x, nodes, bias), jax.grad(loss_of(grad_y), ALL)(x, nodes, bias))
    names, largest = used(gradient, x, nodes, bias)
    assert "scan" not in names and largest == nodes.size


def test_vmap_of_gradient_gives_those_of_each_sample():
    x, nodes, bias, grad_y = problem()

    def loss(x, nodes, bias, grad_y):
        return fff(x, nodes, bias) @ grad_y

    mapped = jax.vmap(jax.grad(loss, ALL), (0, None, None, 0))
    found = jax.jit(mapped)(x, nodes, bias, grad_y)
    for i in range(len(x)):
        expected = reference.backward(grad_y[i : i + 1], x[i : i + 1], nodes, bias)
        assert close(found[0][i], expected[0][0], 2e-6)
        assert close(found[1][i], expected[1], 2e-6)
        assert close(found[2][i], expected[2], 2e-6)


def test_gradient_of_samples_alone_makes_none_of_nodes():
    x, nodes, bias, grad_y = problem()

    def loss(x, grad_y):
        return fff(x, nodes, bias) @ grad_y

    mapped = jax.vmap(jax.grad(loss))
    assert_same(mapped(x, grad_y), jax.grad(loss_of(grad_y))(x, nodes, bias))
    names, largest = used(mapped, x, grad_y)
    assert "scan" not in names and largest < nodes.size


def test_vmap_over_nodes_is_a_loop():
    problems = [problem(seed=seed) for seed in range(3)]
    x = problems[0][0]
    nodes, bias = (np.stack([each[i] for each in problems]) for i in (1, 2))
    found = jax.vmap(fff, (None, 0, 0))(x, nodes, bias)
    for i in range(3):
        assert_same(found[i], fff(x, nodes[i], bias[i]))
        assert_same(jax.vmap(fff, (None, 0))(x, nodes)[i], fff(x, nodes[i]))
    gradient = jax.vmap(jax.grad(lambda nodes, bias: fff(x, nodes, bias).sum()))(nodes, bias)
    one = jax.grad(lambda nodes: fff(x, nodes, bias[2]).sum())(nodes[2])
    assert_same(gradient[2], one)


def test_jacobian_equals_the_reference():
    x, nodes, bias, _ = problem(1)
    jacobian = jax.jacrev(lambda x: fff(x, nodes, bias, activation="tanh"))(x[0])
    for row, grad_y in zip(jacobian, np.eye(6), strict=True):
        expected = reference.backward(grad_y[None], x, nodes, bias, "tanh")[0][0]
        assert close(row, expected, 2e-6)


def test_scan_and_checkpoint():
    args = problem()[:3]

    def step(x, nodes, bias):
        return jnp.tanh(x.at[:, :6].add(fff(x, nodes, bias)))

    def scanned(x, nodes, bias):
        again = jax.checkpoint(step)
        return jax.lax.scan(lambda x, _: (again(x, nodes, bias), None), x, length=3)[0].sum()

    def plain(x, nodes, bias):
        return step(step(step(jnp.array(x), nodes, bias), nodes, bias), nodes, bias).sum()

    found = jax.jit(jax.value_and_grad(scanned, ALL))(*args)
    right = jax.jit(jax.value_and_grad(plain, ALL))(*args)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(right), strict=True):
        assert close(one, np.asarray(other), 2e-6)


def test_threads_may_call_at_once():
    *args, grad_y = problem(1000, n_in=63, n_out=60, depth=8)
    function = jax.jit(jax.grad(loss_of(grad_y, activation="relu"), ALL))
    right = function(*args)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: function(*args), range(16)):
            assert_same(found, right)


def test_a_program_may_hold_many_calls():
    problems = [problem(400, n_in=63, n_out=60, depth=8, seed=seed) for seed in range(4)]

    def loss(args):  # XLA may run these at once
        return sum((fff(*each[:3]) * each[3]).sum() for each in args)

    found = jax.jit(jax.grad(loss))(problems)
    for each, right in zip(found, problems, strict=True):
        assert_same(each[:3], jax.grad(loss_of(right[3]), ALL)(*right[:3]))


def test_gradient_of_biases_alone():
    x, nodes, bias, grad_y = problem()
    found = jax.grad(lambda bias: (fff(x, nodes, bias, activation="relu2") * grad_y).sum())(bias)
    assert close(found, reference.backward(grad_y, x, nodes, bias, "relu2")[2], 2e-6)


def test_arguments_stay_as_they_are():
    args = problem()
    arrays = [jnp.array(array) for array in args]
    jax.jit(jax.grad(loss_of(arrays[3]), ALL))(*arrays[:3])
    assert_same(arrays, list(args))


def test_only_first_derivatives_in_reverse_mode():
    x, nodes, _, _ = problem()
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda x: fff(x, nodes), (x,), (x,))
    with pytest.raises(TypeError, match="fff has first derivatives alone"):
        jax.grad(lambda x: jax.grad(lambda x: fff(x, nodes).sum())(x).sum())(x)


def with_change(place, value):
    """Return x, nodes and bias, one of them changed."""
    args = list(problem()[:3])
    args[place] = value(args[place])
    return args


WRONG = {
    "integers": (with_change(0, lambda x: x.astype(int)), TypeError, "x must be float32 or float"),
    "half": (with_change(1, lambda n: n.astype("float16")), TypeError, "nodes must be float32 or"),
    "2-D nodes": (with_change(1, lambda n: n[0]), ValueError, r"nodes\[None\] makes one tree"),
    "no tree": (with_change(1, lambda n: n[:, 1:]), ValueError, "nodes of shape"),
    "wide": (with_change(0, lambda x: np.tile(x, 2)), ValueError, "x must have fewer columns than"),
    "scalar": (
        with_change(0, lambda x: np.float32(1)),
        ValueError,
        r"x must have shape \(\.\.\., n",
    ),
    "bias": (with_change(2, lambda b: b[0]), ValueError, r"bias must have shape \(2, 31\)"),
    "bias's dtype": (with_change(2, lambda b: b > 0), TypeError, "bias must be float32 or float64"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_arguments_are_refused_while_tracing(what):
    args, error, message = WRONG[what]
    with pytest.raises(error, match=message):
        jax.make_jaxpr(fff)(*args)


def test_what_jax_would_cast_is_refused():
    x, nodes, _, _ = problem()
    with pytest.raises(TypeError, match=r"x must be float32, got float64.*jax_enable_x64"):
        fff(x.astype(float), nodes)
    with pytest.raises(TypeError, match=r"nodes must be float32, got float64.*jax_enable_x64"):
        jax.jit(lambda x: fff(x, nodes.astype(float)))(x)


def test_mixed_dtypes_and_unknown_activations_are_refused(double):
    x, nodes, bias, _ = problem()
    with pytest.raises(TypeError, match="x must have the dtype of nodes, float32, got float64"):
        fff(x.astype(float), nodes)
    with pytest.raises(TypeError, match="bias must have the dtype of nodes, float32, got float64"):
        fff(x, nodes, bias.astype(float))
    with pytest.raises(ValueError, match=r"activation must be one of .*, got 'swish'"):
        jax.jit(lambda x: fff(x, nodes, activation="swish"))(x)


def test_an_error_in_a_callback_is_one_of_jax(monkeypatch):
    x, nodes, _, _ = problem()

    def broken(*args, **options):
        raise MemoryError("no room for scores")

    function = jax.jit(fff)
    with monkeypatch.context() as patch:
        patch.setattr(callbacks, "fff_forward", broken)
        with pytest.raises(jax.errors.JaxRuntimeError, match="no room for scores"):
            jax.block_until_ready(function(x, nodes))
    assert_same(function(x, nodes), fffnb.fff_forward(x, nodes))


def test_an_old_jax_is_named(monkeypatch):
    monkeypatch.delitem(sys.modules, "fffnb.bridges.jax")
    monkeypatch.setitem(sys.modules, "jax.experimental.buffer_callback", None)
    with pytest.raises(ImportError, match=r"jax must be at least 0\.6\.1, got .*fffnb\[jax\]"):
        fffnb.FFF(5, 4, backend="jax")


@pytest.mark.parametrize("bias", [True, False])
def test_layer_is_that_of_numpy(dtype, bias, on_cpu):
    options = {"depth": 4, "n_trees": 3, "activation": "silu", "bias": bias, "dtype": dtype}
    layer, own = fffnb.FFF(9, 6, **options, backend="jax"), nn.FFF(9, 6, **options)
    x = np.random.default_rng(0).standard_normal((2, 5, 9)).astype(dtype)
    assert isinstance(layer, FFF)
    assert_same(jax.jit(lambda layer, x: layer(x))(layer, x), own(x))
    back = bridges.convert(layer, "numpy")
    assert back.config() == own.config()
    assert_same(back.parameters, own.parameters)
    for array in back.parameters.values():  # copies, of which an optimiser may be made
        array += 1
    assert_same(np.asarray(layer.nodes), own.nodes)


def test_layer_travels_through_files(tmp_path):
    layer = fffnb.FFF(9, 6, depth=4, activation="relu", bias=True, backend="jax")
    path = tmp_path / "layer.safetensors"
    nn.save_model(path, bridges.convert(layer, "numpy"))
    again = bridges.convert(nn.load_model(path), "jax")
    assert jax.tree.structure(again) == jax.tree.structure(layer)
    assert_same(again, layer)


def test_layer_is_a_pytree_of_its_parameters():
    layer = fffnb.FFF(9, 6, depth=4, bias=True, activation="gelu", backend="jax")
    leaves, structure = jax.tree.flatten(layer)
    assert [leaf.shape for leaf in leaves] == [(1, 15, 15), (1, 15)]
    assert structure != jax.tree.structure(fffnb.FFF(9, 6, depth=4, bias=True, backend="jax"))
    x = np.ones((3, 9), np.float32)
    grads = jax.jit(jax.grad(lambda layer: layer(x).sum()))(layer)
    expected = reference.backward(np.ones((3, 6)), x, layer.nodes, layer.bias, "gelu")
    assert isinstance(grads, FFF) and grads.activation == "gelu" and grads.n_in == 9
    assert close(grads.nodes, expected[1], 2e-6) and close(grads.bias, expected[2], 2e-6)
    stepped = jax.tree.map(lambda weight, grad: weight - grad, layer, grads)
    assert_same(stepped.nodes, layer.nodes - grads.nodes)


def test_layer_refuses_other_widths_and_dtypes():
    layer = fffnb.FFF(9, 6, depth=4, backend="jax")
    with pytest.raises(ValueError, match=r"x must have 9 columns, got shape \(3, 8\)"):
        jax.jit(layer)(np.ones((3, 8), np.float32))
    with pytest.raises(TypeError, match=r"nodes must be float32, got float64.*jax_enable_x64"):
        fffnb.FFF(9, 6, depth=4, dtype=np.float64, backend="jax")
    with pytest.raises(TypeError, match="device"):
        fffnb.FFF(9, 6, depth=4, backend="jax", device="cpu")


def test_training_example_learns():
    path = Path(__file__).parents[2] / "examples" / "jax_training.py"
    assert runpy.run_path(str(path))["main"]() > 0.94


@pytest.fixture
def gpu():
    """Skip where JAX has no GPU that kernels can run on."""
    if jax.default_backend() != "gpu":
        pytest.skip("JAX sees no GPU")
    pytest.importorskip("cupy", reason="CuPy is not installed")


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gpu_equals_the_reference(gpu, dtype, activation):
    x, nodes, bias, grad_y = problem(130, n_in=64, n_out=48, depth=6, dtype=dtype)
    args = [jnp.array(array) for array in (x, nodes, bias)]
    bound = 10 * BOUND[dtype]
    y = jax.jit(lambda *args: fff(*args, activation=activation))(*args)
    assert close(y, reference.forward(x, nodes, bias, activation).y, bound)
    gradient = jax.jit(jax.grad(loss_of(jnp.array(grad_y), activation=activation), ALL))
    expected = reference.backward(grad_y, x, nodes, bias, activation)
    for found, right in zip(gradient(*args), expected, strict=True):
        assert close(found, right, bound)


def test_gpu_copies_nothing_to_the_host(gpu):
    x, nodes, bias, grad_y = (jnp.array(array) for array in problem(50, n_in=64, n_out=48))
    function = jax.jit(jax.value_and_grad(loss_of(grad_y), ALL))
    function(x, nodes, bias)
    with jax.transfer_guard("disallow"):
        jax.block_until_ready(function(x, nodes, bias))


def test_gpu_keeps_the_order_of_the_stream(gpu):
    x, nodes, _, _ = problem(256, n_in=64, n_out=64, depth=8)

    def chain(x, nodes):
        for _ in range(20):  # each kernel reads what XLA's own has just written
            y = fff(x, nodes)
            x = 8 * y / jnp.linalg.norm(y, axis=1, keepdims=True)
        return x

    found = jax.jit(chain)(jnp.array(x), jnp.array(nodes))
    with jax.default_device(jax.devices("cpu")[0]):
        right = jax.jit(chain)(jnp.array(x), jnp.array(nodes))
    close_rows = np.abs(np.asarray(found) - np.asarray(right)).max(axis=1) < 1e-3
    assert close_rows.mean() > 0.9  # rounding may send a few another way
