"""What the ops refuse of device arrays, and that the next call works."""

import importlib.util
import sys
import types

import kinds
import numpy as np
import pytest
from problems import Good, refusals, shifted, strided
from test_update import rule_for

import fffnb
from fffnb import cuda
from fffnb.ops import device, running

if kinds.MISSING:
    pytest.skip(kinds.MISSING, allow_module_level=True)

pytestmark = pytest.mark.usefixtures("tiles")

X = np.ones((5, 3), np.float32)
NODES = fffnb.init_nodes(3, 2, depth=4)
BIAS = np.zeros((1, 15), np.float32)
Y = np.ones((5, 2), np.float32)
SGD = rule_for("sgd", NODES, 5)
GOOD = {"x": X, "nodes": NODES, "bias": BIAS}


class Layer(Good):
    """Good arguments of the tree, also of its backward pass."""

    def __init__(self, kind):
        super().__init__(kind, fffnb.fff_forward, GOOD)
        self.grad_y = kind.put(Y)

    def passed(self, **change):
        given = {"grad_y": self.grad_y, "x": self.given["x"], "nodes": self.given["nodes"]}
        return {**given, "trace": self.trace, **change}


@pytest.fixture
def layer(kind):
    return Layer(kind)


FORWARD = {
    **refusals(GOOD, "nodes"),
    "list": (lambda put: {"x": X.tolist()}, TypeError, "x must be a {} .* got builtins.list"),
    "float16 x": (
        lambda put: {"x": put(X, "float16")},
        TypeError,
        "x must have the dtype of nodes, float32, got float16",
    ),
    "float16 bias": (
        lambda put: {
            "x": put(X, "float16"),
            "nodes": put(NODES, "float16"),
            "bias": put(BIAS, "float16"),
        },
        TypeError,
        "bias must be float32 for nodes of float16, got float16",
    ),
    "2-D nodes": (
        lambda put: {"nodes": put(NODES[0])},
        ValueError,
        r"nodes must be 3-D .* got shape \(15, 5\); nodes\[None\]",
    ),
    "4-D nodes": (
        lambda put: {"nodes": put(NODES[None])},
        ValueError,
        r"nodes must be 3-D .* got \(1, 1, 15, 5\)",
    ),
    "no trees": (lambda put: {"nodes": put(NODES[:0])}, ValueError, "nodes must be .* not empty"),
    "14 nodes": (
        lambda put: {"nodes": put(NODES[:, :14])},
        ValueError,
        r"must be 2\*\*depth - 1 .* got 14",
    ),
    "no columns": (lambda put: {"x": put(X[:, :0])}, ValueError, "x must have shape .* n >= 1"),
    "wide x": (
        lambda put: {"x": put(np.ones((5, 5), np.float32))},
        ValueError,
        "x must have fewer columns than nodes, 5 .* got 5",
    ),
    "n_out": (lambda put: {"n_out": 3}, ValueError, "x must have 2 columns for n_out = 3 .* got 3"),
    "n_out str": (lambda put: {"n_out": "2"}, TypeError, "n_out must be an int, got str"),
}


@pytest.mark.parametrize("case", FORWARD)
def test_forward_refuses(case, layer):
    change, *refusal = FORWARD[case]
    layer.refuses(*refusal, lambda: layer.forward(**change(layer.put)))


SCORES = np.zeros((5, 1, 4), np.float32)
HOST_TRACE = fffnb.fff_forward(X, NODES, bias=BIAS, return_trace=True)[1]
BACKWARD = {
    "host grad_y": (lambda at: {"grad_y": Y}, TypeError, "grad_y must be a {} .* numpy.ndarray"),
    "host x": (lambda at: {"x": X}, TypeError, "x must be a {} .* numpy.ndarray"),
    "host nodes": (lambda at: {"nodes": NODES.copy()}, TypeError, "must be a numpy.ndarray, got"),
    "host trace": (
        lambda at: {"trace": HOST_TRACE},
        TypeError,
        "trace.scores must be a {} .* got numpy.ndarray",
    ),
    "host leaves": (
        lambda at: {"trace": at.trace._replace(leaves=HOST_TRACE.leaves)},
        TypeError,
        "trace.leaves must be a {} .* got numpy.ndarray",
    ),
    "no trace": (
        lambda at: {"trace": None},
        TypeError,
        "trace must be the Trace of fff_forward, got NoneType",
    ),
    "float64 grad_y": (
        lambda at: {"grad_y": at.put(Y, "float64")},
        TypeError,
        "grad_y must have the dtype of nodes, float32, got float64",
    ),
    "strided grad_y": (
        lambda at: {"grad_y": strided(at.put, Y)},
        ValueError,
        "grad_y must be C-contiguous on the GPU",
    ),
    "strided scores": (
        lambda at: {"trace": at.trace._replace(scores=strided(at.put, HOST_TRACE.scores))},
        ValueError,
        "trace.scores must be C-contiguous on the GPU",
    ),
    "host grad_scores": (
        lambda at: {"grad_scores": SCORES},
        TypeError,
        "grad_scores must be a {} .* got numpy.ndarray",
    ),
    "float64 grad_scores": (
        lambda at: {"grad_scores": at.put(SCORES, "float64")},
        TypeError,
        "grad_scores must have dtype float32, got float64",
    ),
    "grad_scores shape": (
        lambda at: {"grad_scores": at.put(SCORES[:4])},
        ValueError,
        r"grad_scores must have shape \(5, 1, 4\) .* got \(4, 1, 4\)",
    ),
    "grad_y shape": (
        lambda at: {"grad_y": at.put(Y[:4])},
        ValueError,
        r"grad_y must have shape \(5, 2\) .* got \(4, 2\)",
    ),
    "x shape": (lambda at: {"x": at.put(X[:4])}, ValueError, r"grad_y must have shape \(4, 2\)"),
    "deeper nodes": (
        lambda at: {"nodes": at.put(fffnb.init_nodes(3, 2, 5))},
        ValueError,
        "trace",
    ),
    "more trees": (
        lambda at: {"nodes": at.put(fffnb.init_nodes(3, 2, 4, 2))},
        ValueError,
        "trace",
    ),
    "trace of another n_in": (
        lambda at: {"trace": at.trace._replace(n_in=2)},
        ValueError,
        "trace must come from .* n_in = 3, got",
    ),
    "activation": (
        lambda at: {"trace": at.trace._replace(activation="swish")},
        ValueError,
        "activation must be one of",
    ),
    "leaves shape": (
        lambda at: {"trace": at.trace._replace(leaves=at.put(HOST_TRACE.leaves[:4]))},
        ValueError,
        r"trace.leaves must have shape \(5, 1\)",
    ),
    "scores shape": (
        lambda at: {"trace": at.trace._replace(scores=at.put(HOST_TRACE.scores[..., :3]))},
        ValueError,
        r"trace.scores must have shape \(5, 1, 4\)",
    ),
    "int64 leaves": (
        lambda at: {"trace": at.trace._replace(leaves=at.put(HOST_TRACE.leaves, "int64"))},
        TypeError,
        "trace must hold float32 scores and int32 leaves, got float32, int64",
    ),
    "float64 scores": (
        lambda at: {"trace": at.trace._replace(scores=at.put(HOST_TRACE.scores, "float64"))},
        TypeError,
        "trace must hold float32 scores and int32 leaves, got float64, int32",
    ),
}


@pytest.mark.parametrize("case", BACKWARD)
def test_backward_refuses(case, layer):
    change, *refusal = BACKWARD[case]
    arguments = layer.passed(**change(layer))
    layer.refuses(
        *refusal,
        lambda: fffnb.fff_backward(**arguments),
        lambda: fffnb.fff_backward(**arguments, sparse=True),
        lambda: fffnb.fff_backward_update(**arguments, rule=SGD),
    )


def test_what_is_no_leaf_is_taken_for_one(layer):
    wild = np.array([[-5], [10**9], [16], [3], [0]], np.int32)
    traces = [layer.trace._replace(leaves=layer.put(leaves)) for leaves in (wild, wild & 15)]
    results = [fffnb.fff_backward(**layer.passed(trace=trace)) for trace in traces]
    for found, right in zip(*results, strict=True):
        np.testing.assert_array_equal(layer.kind.get(found), layer.kind.get(right))
    layer.check()


def adamw(put, **change):
    rule = rule_for("adamw", NODES, 5)
    return rule._replace(state={**{k: put(v) for k, v in rule.state.items()}, **change})


RULES = {
    "no rule": (lambda put: "sgd", TypeError, "rule must be an UpdateRule, got str"),
    "kind": (lambda put: SGD._replace(kind="lion"), ValueError, "rule.kind must be 'sgd' or"),
    "numbers": (lambda put: SGD._replace(numbers={"lr": 1.0}), ValueError, "numbers must hold mom"),
    "host state": (
        lambda put: rule_for("momentum", NODES, 5),
        TypeError,
        r"rule.state\['momentum'\] must be a {} .* got numpy.ndarray",
    ),
    "no state": (
        lambda put: rule_for("momentum", NODES, 5)._replace(state={}),
        TypeError,
        r"rule.state\['momentum'\] must be a {} .* got .*NoneType",
    ),
    "mean shape": (
        lambda put: adamw(put, mean=put(NODES[:, :7])),
        ValueError,
        r"rule.state\['mean'\] must have shape \(1, 15, 5\)",
    ),
    "variance dtype": (
        lambda put: adamw(put, variance=put(NODES, "float64")),
        TypeError,
        r"rule.state\['variance'\] must be float32, got float64",
    ),
    "strided variance": (
        lambda put: adamw(put, variance=strided(put, NODES)),
        ValueError,
        r"rule.state\['variance'\] must be C-contiguous",
    ),
    "steps shape": (
        lambda put: adamw(put, steps=put(np.zeros(14, int))),
        ValueError,
        r"rule.state\['steps'\] must have shape \(15,\)",
    ),
    "steps dtype": (
        lambda put: adamw(put, steps=put(np.zeros(15, np.int32))),
        TypeError,
        r"rule.state\['steps'\] must be int64, got int32",
    ),
}


@pytest.mark.parametrize("case", RULES)
def test_update_refuses_rules_that_do_not_fit(case, layer):
    make, *refusal = RULES[case]
    rule = make(layer.put)
    layer.refuses(*refusal, lambda: fffnb.fff_backward_update(**layer.passed(), rule=rule))


def test_a_bias_needs_its_rule_and_its_forward_pass(layer):
    bias_rule = rule_for("sgd", BIAS, 1)
    with pytest.raises(ValueError, match="bias and bias_rule must be given together"):
        fffnb.fff_backward_update(**layer.passed(), rule=SGD, bias=layer.given["bias"])
    _, trace = layer.forward(bias=None, return_trace=True)
    pair = {"rule": SGD, "bias": layer.given["bias"], "bias_rule": bias_rule}
    with pytest.raises(ValueError, match="bias must be None"):
        fffnb.fff_backward_update(**layer.passed(trace=trace), **pair)
    with pytest.raises(TypeError, match=r"bias must be a .* got numpy\.ndarray"):
        fffnb.fff_backward_update(**layer.passed(), **{**pair, "bias": BIAS.copy()})
    layer.check()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sixteen_bit_nodes_are_not_updated_in_place(dtype, kind, layer):
    if dtype not in kind.dtypes:
        pytest.skip(f"a {kind.name} holds no {dtype}")
    x, nodes, grad_y = (kind.put(array, dtype) for array in (X, NODES, Y))
    y, trace = fffnb.fff_forward(x, nodes, return_trace=True)
    before = kind.get(nodes)
    with pytest.raises(TypeError, match=f"nodes must be float32 or float64 .* got {dtype}: keep"):
        fffnb.fff_backward_update(grad_y, x, nodes, trace, SGD)
    gradient = fffnb.fff_backward(grad_y, x, nodes, trace, sparse=True).nodes
    with pytest.raises(TypeError, match=f"parameter must be float32 or float64 .* got {dtype}"):
        fffnb.update_rows(nodes, gradient, SGD)
    np.testing.assert_array_equal(kind.get(nodes), before)
    np.testing.assert_array_equal(kind.get(fffnb.fff_forward(x, nodes)), kind.get(y))
    layer.check()


ROWS = np.array([1, 3])
VALUES = np.ones((2, 2))
UPDATES = {
    "host rows": (lambda put: {"rows": ROWS}, TypeError, "gradient.rows must be a .*numpy.ndarray"),
    "host values": (lambda put: {"values": VALUES}, TypeError, "gradient.values must be a .*numpy"),
    "int32 rows": (
        lambda put: {"rows": put(ROWS, "int32")},
        TypeError,
        "gradient must hold int64 rows and float64 values, got int32 and float64",
    ),
    "float32 values": (
        lambda put: {"values": put(VALUES, "float32")},
        TypeError,
        "gradient must hold int64 rows and float64 values, got int64 and float32",
    ),
    "more values": (
        lambda put: {"values": put(np.ones((3, 2)))},
        ValueError,
        r"gradient must hold rows and as many values, got rows \(2,\), values \(3, 2\)",
    ),
    "wider values": (
        lambda put: {"values": put(np.ones((2, 3)))},
        ValueError,
        r"gradient.values must have rows of \(2,\) like parameter, got \(2, 3\)",
    ),
    "strided values": (
        lambda put: {"values": strided(put, VALUES)},
        ValueError,
        "gradient.values must be C-contiguous",
    ),
}


@pytest.mark.parametrize("case", UPDATES)
def test_update_rows_refuses(case, kind):
    change, error, words = UPDATES[case]
    weights, count = kind.put(np.ones((4, 2))), kind.put(np.array([2]))
    fields = {"rows": kind.put(ROWS), "values": kind.put(VALUES), "bias": None, "count": count}
    good = fffnb.RowGradient(**fields)
    with pytest.raises(error, match=words):
        fffnb.update_rows(weights, fffnb.RowGradient(**{**fields, **change(kind.put)}), SGD)
    with pytest.raises(TypeError, match="gradient must be a RowGradient"):
        fffnb.update_rows(weights, fields["values"], SGD)
    assert (kind.get(weights) == 1).all()
    rule = SGD._replace(numbers={**SGD.numbers, "weight_decay": 0.0})
    fffnb.update_rows(weights, good, rule)
    np.testing.assert_allclose(kind.get(weights)[:, 0], [1, 0.9, 1, 0.9])


@pytest.mark.skipif(not kinds.SIMULATED, reason="a GPU has real ones")
def test_arrays_of_a_kind_that_is_made_up_are_refused(layer, monkeypatch):
    other = type("ndarray", (), {"__module__": "cupy", "shape": X.shape})
    monkeypatch.setitem(sys.modules, "cupy", types.ModuleType("cupy"))
    monkeypatch.setattr(sys.modules["cupy"], "ndarray", other, raising=False)
    for name in ("x", "bias", "out"):
        with pytest.raises(TypeError, match=f"{name} must be a Numba .* got cupy.ndarray"):
            layer.forward(**{name: other()})
    layer.check()


def test_what_was_checked_once_is_checked_again(layer):
    layer.forward(n_out=2)
    with pytest.raises(TypeError, match="n_out must be an int, got float"):
        layer.forward(n_out=2.0)
    layer.check()


def test_a_call_that_fails_leaves_no_trace(layer, monkeypatch):
    """As one that runs out of memory does."""

    def fail(*_):
        raise MemoryError("no memory is left")

    with monkeypatch.context() as patch:
        patch.setattr(getattr(device, type(layer.kind).__name__), "empty", fail)
        for run in (layer.forward, lambda: fffnb.fff_backward(**layer.passed())):
            with pytest.raises(MemoryError, match="no memory is left"):
                run()
    layer.check()


@pytest.mark.skipif(kinds.SIMULATED, reason="the simulator takes memory of the host")
def test_too_large_a_result_is_refused_with_its_bytes(kind):
    x, nodes = np.ones((2**20, 1), np.float32), np.ones((1, 1, 1 + 2**18), np.float32)
    x, nodes = kind.put(x), kind.put(nodes)
    with pytest.raises((MemoryError, RuntimeError), match=r"1[,.\d]+ (bytes|GiB)"):
        fffnb.fff_forward(x, nodes)
    assert kind.get(fffnb.fff_forward(x[:2], nodes)).all()


def test_the_device_is_left_even_when_memory_runs_out_again(layer, monkeypatch):
    def fail(*_):
        raise MemoryError("no memory is left")

    left = []
    with monkeypatch.context() as patch:
        patch.setattr(running.Running, "keep", fail)
        patch.setattr(cuda.launch, "enter", lambda device: "the one before")
        patch.setattr(cuda.launch, "leave", left.append)
        with pytest.raises(MemoryError, match="no memory is left"):
            layer.forward()
    assert left == ["the one before"]
    layer.check()


def test_to_device_copies_any_array(kind):
    array = np.arange(24, dtype=">f4").reshape(4, 6)[:, ::2]
    array.flags.writeable = False
    found = fffnb.to_device(array)
    name = "numba"
    if not kinds.SIMULATED and importlib.util.find_spec("cupy"):
        name = "cupy"
    made = kinds.CLASSES[name]()
    assert isinstance(found, made.type)
    assert made.get(found).dtype == np.dtype("=f4")
    np.testing.assert_array_equal(made.get(found), array)
    for other in (array.tolist(), found):
        with pytest.raises(TypeError, match=r"array must be a numpy\.ndarray, got"):
            fffnb.to_device(other)


native = pytest.mark.skipif(kinds.SIMULATED, reason="needs a GPU")


@native
@pytest.mark.parametrize("name", kinds.NAMES)
def test_arrays_of_another_kind_are_refused(name, layer):
    other = kinds.CLASSES[name]()
    if other.name == layer.kind.name:
        pytest.skip("the same kind")
    with pytest.raises(TypeError, match=f"x must be a {layer.kind.name} .* got {name}"):
        layer.forward(x=other.put(X))
    with pytest.raises(TypeError, match=f"x must be a {other.name} .* got"):
        layer.forward(nodes=other.put(NODES))
    layer.check()


@native
def test_out_must_not_overlap_an_input(layer):
    room = layer.put(np.ones(100, np.float32))
    x, nodes = layer.put(X), room[:75].reshape((1, 15, 5))
    with pytest.raises(ValueError, match="out must not overlap nodes"):
        layer.forward(nodes=nodes, out=room[70:80].reshape((5, 2)))
    layer.forward(nodes=nodes, x=x, out=room[75:85].reshape((5, 2)))
    with pytest.raises(ValueError, match="out must not overlap x"):
        layer.forward(x=room[:15].reshape((5, 3)), out=room[14:24].reshape((5, 2)))
    with pytest.raises(ValueError, match="out must not overlap bias"):
        layer.forward(bias=room[9:24].reshape((1, 15)), out=room[:10].reshape((5, 2)))
    layer.check()


def trained(kind, put, put_state):
    """Return the results of all ops on arrays that were put somewhere."""
    rng = np.random.default_rng(0)
    x, grad_y = rng.standard_normal((2, 9, 16)).astype(np.float32)
    nodes = fffnb.init_nodes(16, 16, depth=3, rng=0)
    rule = rule_for("adamw", nodes, 32)
    rule = rule._replace(state={key: put_state(array) for key, array in rule.state.items()})
    mine, my_x, my_grad_y, out = put(nodes), put(x), put(grad_y), put(np.empty_like(grad_y))
    _, trace = fffnb.fff_forward(my_x, mine, out=out, return_trace=True)
    grads = fffnb.fff_backward(my_grad_y, my_x, mine, trace)
    fffnb.fff_backward_update(my_grad_y, my_x, mine, trace, rule)
    sparse = fffnb.fff_backward(my_grad_y, my_x, mine, trace, sparse=True)
    fffnb.update_rows(mine, sparse.nodes, rule)
    results = out, grads.x, grads.nodes, mine, *rule.state.values()
    return [kind.get(array) for array in results]


# Loads of several numbers at once would go wrong there, and the GPU with them.
@native
@pytest.mark.parametrize("moved", ["arguments", "state"])
@pytest.mark.parametrize("offset", [1, 2])
def test_arrays_may_start_anywhere(offset, moved, kind):
    puts = {"arguments": kind.put, "state": kind.put}
    expected = trained(kind, *puts.values())
    puts[moved] = shifted(kind, offset)
    for found, right in zip(trained(kind, *puts.values()), expected, strict=True):
        np.testing.assert_allclose(found, right, rtol=0, atol=1e-4)


@native
def test_a_tensor_on_the_cpu_or_that_requires_grad_is_refused(layer):
    if layer.kind.name != "torch.Tensor":
        pytest.skip("of PyTorch")
    with pytest.raises(
        TypeError, match=r"x is a tensor on the CPU: call fffnb\.bridges\.torch\.fff"
    ):
        layer.forward(x=layer.kind.torch.from_numpy(X))
    x = layer.put(X).requires_grad_()
    with pytest.raises(TypeError, match=r"x requires grad, .*bridges\.torch\.fff.* x\.detach\(\)"):
        layer.forward(x=x)
    with layer.kind.torch.no_grad():
        np.testing.assert_array_equal(layer.kind.get(layer.forward(x=x)), layer.expected)
    np.testing.assert_array_equal(layer.kind.get(layer.forward(x=x.detach())), layer.expected)


@native
def test_arrays_on_another_device_are_refused(layer):
    if layer.kind.name != "torch.Tensor" or layer.kind.torch.cuda.device_count() < 2:
        pytest.skip("needs PyTorch and two GPUs")
    with pytest.raises(ValueError, match=r"x must be on device 0 like the nodes .* got device 1"):
        layer.forward(x=layer.given["x"].to("cuda:1"))
    moved = {name: array.to("cuda:1") for name, array in layer.given.items()}
    y = layer.forward(**moved)
    assert y.device.index == 1
    np.testing.assert_array_equal(layer.kind.get(y), layer.expected)
    layer.check()
