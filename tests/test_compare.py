"""The peers of `benchmarks.compare` are right, and its tables and file say what they should."""

import argparse
import importlib
import itertools
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import fffnb
from fffnb import nn

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT))

cases = importlib.import_module("benchmarks.compare.cases")
claims = importlib.import_module("benchmarks.compare.claims")
cpu = importlib.import_module("benchmarks.compare.cpu")
dense = importlib.import_module("benchmarks.compare.cpu.dense")
form_cases = importlib.import_module("benchmarks.compare.forms.cases")
forms = importlib.import_module("benchmarks.compare.forms.cpu")
layer = importlib.import_module("benchmarks.compare.cpu.layer")
peers = importlib.import_module("benchmarks.peers")
record = importlib.import_module("benchmarks.compare.record")
timing = importlib.import_module("benchmarks.compare.cpu.timing")
trees = importlib.import_module("benchmarks.compare.cpu.trees")
numpy_forms = importlib.import_module("benchmarks.peers.numpy_forms")
numpy_dense = importlib.import_module("benchmarks.peers.dense")

TINY = cases.Case(7, 5, 4, 9, "tiny", 3)


@pytest.fixture(scope="module")
def tiny():
    return layer.draw(TINY)


@pytest.fixture
def alone(monkeypatch):
    """Let no library of a peer be found."""
    for module in peers.LIBRARIES:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setenv("PJRT_NPROC", "1")  # and put it back afterwards


def peer(name):
    """Return the tree of this name, or skip."""
    found = {each.name: each for each in trees.peers()}
    if name not in found:
        pytest.skip("; ".join(peers.missing("torch", "jax")))
    return found[name]


@pytest.mark.parametrize("name", [name for name in cpu.TREES if name != "compiled"])
class TestTree:
    def test_agrees_with_fffnb(self, name, tiny):
        _, make, send = peer(name)
        trees.check_forward(make(tiny.nodes, TINY.n_in), send, tiny)
        x, grad_y = tiny.inputs[0], tiny.grad_y
        trees.check_gradients(make(tiny.nodes, TINY.n_in), send, x, grad_y, tiny.nodes)

    def test_is_refused_when_it_is_wrong(self, name, tiny):
        _, make, send = peer(name)
        wrong = make(np.ascontiguousarray(tiny.nodes[:, ::-1]), TINY.n_in)
        with pytest.raises(AssertionError, match="exceeds"):
            trees.check_forward(wrong, send, tiny)

    def test_step_follows_the_gradient(self, name, tiny):
        _, make, send = peer(name)
        x, grad_y = tiny.inputs[0], 1e4 * tiny.grad_y  # the learning rate is 1e-6
        tree = make(tiny.nodes, TINY.n_in)
        tree.step(send(x), send(grad_y))
        _, trace = fffnb.fff_forward(x, tiny.nodes, return_trace=True)
        nodes = tiny.nodes - 1e-6 * fffnb.fff_backward(grad_y, x, tiny.nodes, trace).nodes
        trees.check_forward(tree, send, tiny._replace(nodes=nodes))
        with pytest.raises(AssertionError, match="exceeds"):
            trees.check_forward(tree, send, tiny)


SMALL = {
    "tree": lambda: nn.FFF(6, 5, 3),
    "flat": lambda: nn.FlatFFF(6, 5, 3),
    "bag": lambda: nn.BagFFF(6, 5, 20, k=3),
    "keys": lambda: nn.ProductKeyFFF(6, 5, 4, k=3),
    "leaf": lambda: form_cases.HardLeafFFF(6, 5, 2, 3),
    "leaf_soft": lambda: nn.LeafFFF(6, 5, 2, 3),
    "tree_soft": lambda: nn.SoftFFF(nn.FFF(6, 5, 3)),
}


@pytest.mark.parametrize("name", [name for name in forms.CASES if "64" not in name])
class TestForm:
    @pytest.fixture
    def case(self, name, monkeypatch):
        monkeypatch.setattr(timing, "ENOUGH", 0.0)
        monkeypatch.setenv("PJRT_NPROC", "1")  # and put it back afterwards
        case = forms.CASES[name]
        options = {"k": 3} if case.options else {}
        return case._replace(make=SMALL[case.plain], batch=9, options=options)

    def test_agrees_with_its_peers(self, name, case, monkeypatch):
        columns = {"forward", "numpy"}
        if peers.installed("torch"):
            columns |= {"torch", "step", "torch_step"} if case.steps else {"torch"}
        monkeypatch.setitem(forms.CASES, name, case)
        (result,) = forms.compare([name], "here")["forms"]
        assert set(result["seconds"]) == columns

    @pytest.mark.parametrize("wrong", ["ours", "theirs"])
    def test_is_refused_when_it_is_wrong(self, name, case, wrong, monkeypatch):
        if wrong == "ours":
            case = case._replace(truth=lambda x, layer: np.ones((len(x), 5)))
        else:
            monkeypatch.setattr(numpy_forms, case.plain, lambda x, *_, **__: np.ones((9, 5)))
        with pytest.raises(AssertionError, match="exceeds"):
            forms.measure(case)


def test_gradients_of_forms_are_compared():
    found, rows = np.ones((3, 2)), np.array([0, 2])
    torch = pytest.importorskip("torch", reason="; ".join(peers.missing("torch")))
    right = torch.tensor([[1.0, 1.0], [0.0, 0.0], [1.0, 1.0]])
    gradient = fffnb.RowGradient(rows, found[:2], None, None)
    for wanted in (right, right.to_sparse(1)):
        forms.assert_gradient(gradient, wanted)
        with pytest.raises(AssertionError):
            forms.assert_gradient(replace(gradient, rows=rows + 1), wanted)
        with pytest.raises(AssertionError):
            forms.assert_gradient(replace(gradient, values=2 * found[:2]), wanted)
    with pytest.raises(AssertionError):
        forms.assert_gradient(found, right)


@pytest.fixture
def gpu_forms(monkeypatch):
    """Give the module that compares forms on a GPU, where NumPy's arrays are those of the GPU."""
    pytest.importorskip("torch", reason="; ".join(peers.missing("torch")))
    module = importlib.import_module("benchmarks.compare.forms.gpu")
    monkeypatch.setattr(module, "send", np.asarray)
    monkeypatch.setattr(module, "event_seconds", lambda call, inputs: 1.0)
    monkeypatch.setattr(module, "CLEAR", 0.5)
    return module


def small(name):
    """Return a case of the GPU and its layer, both small."""
    case = form_cases.GPU_CASES[name]
    options = {"k": 3} if "k" in case.options else {}
    layer = nn.FlatFFF(6, 5, 3, rows="patterns") if "patterns" in name else SMALL[case.plain]()
    return case._replace(batch=40, options=options), layer


@pytest.mark.parametrize("name", [name for name in form_cases.GPU_CASES if "64" not in name])
def test_forms_on_a_gpu_are_checked(name, gpu_forms, monkeypatch):
    case, layer = small(name)
    assert set(gpu_forms.measure(case, layer)) == set(gpu_forms.COLUMNS)
    with pytest.raises(AssertionError, match="exceeds"):
        gpu_forms.measure(case._replace(truth=lambda x, layer: np.ones((len(x), 5))), layer)
    ways = gpu_forms.torch_forms.WAYS[case.plain]
    for i in range(len(ways)):
        wrong = [*ways]
        wrong[i] = lambda *given, right=ways[i], **options: 1.001 * right(*given, **options)
        monkeypatch.setitem(gpu_forms.torch_forms.WAYS, case.plain, wrong)
        with pytest.raises(AssertionError, match="exceeds"):
            gpu_forms.measure(case, layer)


def test_wrong_gradients_of_forms_on_a_gpu_are_seen(gpu_forms, monkeypatch):
    case, layer = small("tree, depth 12, 768 → 768")
    backward = nn.FFF._backward

    def wrong(*given, **options):
        gradients = backward(*given, **options)
        gradients.nodes.values[0] += 1e-3
        return gradients

    monkeypatch.setattr(nn.FFF, "_backward", staticmethod(wrong))
    with pytest.raises(AssertionError, match="exceeds"):
        gpu_forms.measure(case, layer)


def test_samples_near_a_decision_are_put_aside(gpu_forms):
    case, layer = small("tree, depth 12, 768 → 768")
    drawn, root = np.random.default_rng(0).standard_normal((40, 6)), layer.nodes[0, 0, :6]
    drawn[3] -= drawn[3] @ root / (root @ root) * root
    x, grad_y = map(gpu_forms.torch.from_numpy, (drawn.copy(), np.ones((40, 5))))
    gpu_forms.settle(x, gpu_forms.plain_forms(case, layer)[0], grad_y)
    moved = (x.numpy() != drawn).any(axis=1)
    assert moved[3]
    assert moved.sum() < 4


def test_a_bag_of_positive_scores_is_that_of_fffnb(gpu_forms):
    x, layer = gpu_forms.torch.randn(9, 6), nn.BagFFF(6, 5, 20, k=None)
    y = gpu_forms.torch_forms.bag(x, gpu_forms.torch.from_numpy(layer.nodes), k=None)
    np.testing.assert_allclose(y.numpy(), layer(x.numpy()), rtol=0, atol=1e-5)


def test_clear_paths_are_clear_to_the_reference(tiny):
    x = tiny.inputs[0].copy()
    x[3] = 0
    _, trace = fffnb.fff_forward(x, tiny.nodes, return_trace=True)
    clear = trees.clear_paths(x, tiny.nodes, trace)
    assert not clear[3]
    assert clear.sum() == len(x) - 1
    assert trees.clear_samples(x, tiny.nodes)[clear].all()


def test_dense_gradients_are_finite_differences():
    network = numpy_dense.Dense(4, 6, 3)
    network.weights = [weight.astype(float) for weight in network.weights]
    rng = np.random.default_rng(0)
    x, grad_y = rng.standard_normal((5, 4)), rng.standard_normal((5, 3))
    grad_x, grads = network.gradients(x, grad_y)
    for array, grad in zip((x, *network.weights), (grad_x, *grads), strict=True):
        for index in np.ndindex(array.shape):
            value, ends = array[index], []
            for moved in (value + 1e-6, value - 1e-6):
                array[index] = moved
                ends.append((grad_y * network.forward(x)).sum())
            array[index] = value
            assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(grad[index], abs=1e-6)


def test_dense_layers_of_both_libraries_agree(tiny, monkeypatch):
    pytest.importorskip("torch", reason="; ".join(peers.missing("torch")))
    dense.torch_dense(tiny, 7, 16, 5)
    monkeypatch.setattr(numpy_dense.Dense, "forward", lambda network, x: x @ np.ones((7, 5)))
    with pytest.raises(AssertionError, match="exceeds"):
        dense.torch_dense(tiny, 7, 16, 5)


def test_too_large_dense_layers_are_not_timed(tiny, monkeypatch):
    monkeypatch.setattr(dense, "timed", lambda call, turn: 1.0)
    shapes = [(7, 16, 5)]
    n_weights = 16 * (7 + 5)
    monkeypatch.setattr(dense, "MOST_OPERATIONS", 2 * TINY.batch * n_weights)
    assert dense.fastest_seconds(tiny, dense.step, numpy_dense.Dense, shapes, passes=1) == 1
    assert dense.fastest_seconds(tiny, dense.step, numpy_dense.Dense, shapes, passes=3) is None
    monkeypatch.setattr(dense, "MOST_BYTES", 4 * n_weights - 1)
    assert dense.fastest_seconds(tiny, dense.forward, numpy_dense.Dense, shapes) is None


def test_a_slow_first_call_is_the_only_one(monkeypatch):
    calls = []
    monkeypatch.setattr(timing, "ENOUGH", 0.0)
    timing.timed(calls.append, itertools.count())
    assert calls == [0, 1, 2, 3]
    monkeypatch.setattr(timing, "SLOW", 0.0)
    calls.clear()
    assert timing.timed(calls.append, itertools.count()) > 0
    assert calls == [0]


def test_labels_pick_cases():
    parser = argparse.ArgumentParser()
    chosen = cases.picked(parser, "second paper", cpu.CASES)
    assert chosen
    assert all(case.label == "second paper" for case in chosen)
    assert len({case.batch for case in chosen}) == len(chosen)


def test_only_names_what_there_is(capsys):
    with pytest.raises(SystemExit):
        cases.picked(argparse.ArgumentParser(), "nothing", cpu.CASES)
    error = capsys.readouterr().err
    assert "128→64, 7, 1 layer benchmark" in error
    assert "got 'nothing'" in error


@pytest.mark.usefixtures("alone")
def test_missing_libraries_are_named_once_and_their_columns_empty(capsys):
    figures = cpu.compare([TINY], "here", compiled=False)
    printed = capsys.readouterr().out
    for library in ("PyTorch", "JAX", "threadpoolctl"):
        sentence = f"{library} is not installed: python -m pip install '.[peers]'"
        assert printed.count(sentence) == 1
    (case,) = figures["cases"]
    assert not {"gather", "bmm", "jax", "nn.Linear", "torch_ff"} & set(case["seconds"])
    timed = {"forward", "numba", "numba_step", "linear", "ff", "ff_step", "ff_published"}
    assert all(case["seconds"][name] > 0 for name in timed)
    row = next(line for line in printed.splitlines() if line.startswith(TINY.name)).split()
    assert row[6:12].count("–") == 4, row  # gather, bmm, compiled, jax
    assert case["label"] == row[3] == "tiny"


def test_claims_are_restated_by_the_fastest_dense_layer():
    case = cases.ULTRAFASTBERT
    seconds = {"forward": 0.5, "ff": 30.0, "torch_ff": 20.0, "ff_compiled": None}
    whole, narrow = claims.restated([{**case._asdict(), "seconds": seconds}])
    assert whole["against"] == "dense FF of 4,095"
    assert whole["measured"] == 40
    assert whole["limit"] == 4095 / 12
    assert narrow["against"] == "dense FF of 3,072"
    assert narrow["measured"] is None


def test_a_file_is_whole_or_not_there(tmp_path):
    path = tmp_path / "figures.json"
    record.write(path, {"batch": 1})
    with pytest.raises(TypeError):
        record.write(path, {"batch": object()})
    assert json.loads(path.read_text()) == {"batch": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_gpu_has_a_generic_name(monkeypatch):
    torch = pytest.importorskip("torch", reason="; ".join(peers.missing("torch")))
    gpu = importlib.import_module("benchmarks.compare.gpu")
    names = {"NVIDIA H100 80GB HBM3": "h100", "NVIDIA A100-SXM4-80GB": "a100", "Tesla T4": "t4"}
    for device, name in names.items():
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=device: device)
        assert gpu.generic_name() == name


def test_the_shortest_time_of_all_passes_is_kept():
    pytest.importorskip("torch", reason="; ".join(peers.missing("torch")))
    gpu = importlib.import_module("benchmarks.compare.gpu")
    passes = iter(({"a": 3.0, "b": None}, {"a": 1.0, "c": 5.0}, {"a": 2.0, "b": None, "c": 4.0}))
    measure = gpu.in_passes(lambda case: {"case": case, "seconds": next(passes)})
    assert measure(TINY) == {"case": TINY, "seconds": {"a": 1.0, "b": None, "c": 4.0}}
    assert not list(passes)


@pytest.mark.parametrize("file", ["/no/folder/file.json", "."])
def test_a_file_in_no_folder_is_refused(file):
    command = [sys.executable, "-m", "benchmarks.compare", "cpu", "--json", file]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert f"--json must name a file in a folder that exists, got {file}" in run.stderr


def test_the_command_prints_tables_and_keeps_the_figures(tmp_path):
    path = tmp_path / "figures.json"
    command = [sys.executable, "-m", "benchmarks.compare", "cpu", "--only", "128→64"]
    run = subprocess.run(
        [*command, "--json", str(path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout.count("128→64, 7, 1             layer benchmark") == 8
    figures = json.loads(path.read_text())
    machine = figures["machine"]
    assert machine["name"] == cpu.generic_name()
    assert machine["versions"]["numpy"] == np.__version__
    assert machine["sgemm"] > 1e9
    assert machine["read"] > 1e8
    assert machine["threads"] >= 1
    (case,) = figures["cases"]
    assert case["label"] == "layer benchmark"
    measured = {name: seconds for name, seconds in case["seconds"].items() if seconds is not None}
    assert {"forward", "backward", "step", "flat", "flat_step"} <= set(measured)
    assert {"numba", "linear", "ff", "ff_step"} <= set(measured)
    assert all(seconds > 0 for seconds in measured.values())
