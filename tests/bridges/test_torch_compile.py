"""PyTorch's operators under its checkers, compilers and exporters."""

import importlib
import warnings

import numpy as np
import pytest

import fffnb

torch = pytest.importorskip("torch", reason="torch is not installed: fffnb[torch]")
bridge = importlib.import_module("fffnb.bridges.torch")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def samples(batch=6, n_in=5):
    return torch.tensor(np.random.default_rng(0).standard_normal((batch, n_in)))


def layer(**options):
    options = {"n_trees": 2, "activation": "gelu", "bias": True, "dtype": np.float64, **options}
    return bridge.FFF(5, 4, 3, **options)


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("batch", [6, 0])
def test_opcheck(with_bias, batch):
    made = layer(bias=with_bias)
    x = samples(batch).requires_grad_()
    arguments = x, made.nodes, made.bias, "gelu"
    torch.library.opcheck(torch.ops.fffnb.forward.default, (*arguments, 0.7, 0.1))
    y, scores, leaves, loss = torch.ops.fffnb.forward(*arguments, None, 0.1)
    parts = [part.detach() for part in (y, x, made.nodes, scores, leaves)]
    torch.library.opcheck(torch.ops.fffnb.backward.default, (*parts, "gelu", with_bias, True))
    last = "gelu", with_bias, False, None if made.bias is None else made.bias.detach(), 0.7, 0.1
    torch.library.opcheck(torch.ops.fffnb.backward.default, (*parts, *last, loss.detach()))


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_a_whole_graph_compiles_with_its_gradients(backend):
    model = torch.nn.Sequential(torch.nn.Linear(5, 5).double(), layer(), torch.nn.GELU())
    x = samples()
    expected = model(x)
    expected.square().sum().backward()
    right = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    y = torch.compile(model, fullgraph=True, backend=backend)(x)
    y.square().sum().backward()
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)
    for parameter, wanted in zip(model.parameters(), right, strict=True):
        torch.testing.assert_close(parameter.grad, wanted, rtol=0, atol=1e-12)


def test_a_graph_may_have_any_batch():
    made = layer()
    compiled = torch.compile(made, fullgraph=True, dynamic=True, backend="aot_eager")
    for batch in (6, 9, 3):
        x = samples(batch)
        torch.testing.assert_close(compiled(x), made(x), rtol=0, atol=1e-12)


def test_autocast_compiles():
    made, x = layer(dtype=np.float32), samples().bfloat16()

    def run(x):
        with torch.autocast("cpu", torch.bfloat16):
            return made(x)

    found = torch.compile(run, fullgraph=True, backend="aot_eager")(x)
    assert found.dtype == torch.float32 and torch.equal(found, run(x))


def test_wrong_input_is_refused_while_tracing():
    compiled = torch.compile(layer(), fullgraph=True, backend="aot_eager")
    with pytest.raises(Exception, match="x must have 5 columns for n_out = 4"):
        compiled(samples(n_in=4))


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # PyTorch hides it, but no error
def test_rows_break_the_graph():
    made, x = layer(gradient="rows"), samples()
    with pytest.raises(Exception, match=r"torch\.compiler\.disable"):
        torch.compile(made, fullgraph=True, backend="aot_eager")(x)
    torch.compile(made, backend="aot_eager")(x).sum().backward()
    assert made.nodes.grad.is_sparse


def test_export_keeps_the_operator_and_the_values():
    made, x = layer().eval(), samples()
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(made, (x,), dynamic_shapes=({0: batch},))
    targets = [str(node.target) for node in program.graph.nodes]
    assert "fffnb.forward.default" in targets
    for size in (6, 9):
        x = samples(size)
        torch.testing.assert_close(program.module()(x), made(x), rtol=0, atol=1e-12)


def test_a_saved_program_loads(tmp_path):
    made, x = layer().eval(), samples()
    path = tmp_path / "layer.pt2"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(made, (x,)), path)
        program = torch.export.load(path)
    assert torch.equal(program.module()(x), made(x))


def test_the_function_compiles_with_nodes_as_arguments():
    nodes = torch.tensor(fffnb.init_nodes(5, 4, 3, dtype=np.float64))
    compiled = torch.compile(bridge.fff, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(samples(), nodes), bridge.fff(samples(), nodes))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this PyTorch has no GPU")
@pytest.mark.filterwarnings("ignore:The CUDA Graph is empty")  # torch.compile's first
def test_a_compiled_layer_runs_in_graphs_of_a_gpu():
    made, x = layer().cuda(), samples().cuda()
    compiled = torch.compile(made, fullgraph=True, mode="reduce-overhead")
    for _ in range(3):
        with torch.no_grad():
            y = compiled(x)
        torch.testing.assert_close(y, made(x), rtol=0, atol=1e-11)
