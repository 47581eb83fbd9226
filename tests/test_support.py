"""What is said where the GPU half cannot run, and what of it is imported."""

import importlib
import importlib.metadata
import importlib.util
import json
import subprocess
import sys
from types import ModuleType, SimpleNamespace

import numba
import numpy as np
import pytest

import fffnb
from fffnb.cuda import support
from fffnb.ops import device


class NotFound(RuntimeError):
    """As cuda.pathfinder has it."""


@pytest.fixture
def machine(monkeypatch):
    """A machine on which nothing is missing; tests take things away."""
    cuda = importlib.import_module("numba.cuda")
    versions = {"numba-cuda": "0.30.4"}
    toolkit = ModuleType("cuda.pathfinder")
    toolkit.DynamicLibNotFoundError = NotFound
    toolkit.load_nvidia_dynamic_lib = lambda name: None
    here = SimpleNamespace(versions=versions, toolkit=toolkit, capability=(9, 0), error=None)
    monkeypatch.setattr(numba.config, "ENABLE_CUDASIM", 0)
    monkeypatch.setattr(cuda, "implementation", "NVIDIA", raising=False)
    monkeypatch.setattr(cuda, "is_available", lambda: here.error is None)
    monkeypatch.setattr(cuda, "cuda_error", lambda: here.error, raising=False)
    device_ = SimpleNamespace(compute_capability=here.capability)
    monkeypatch.setattr(cuda, "get_current_device", lambda: device_)
    monkeypatch.setattr(np, "row_stack", np.vstack, raising=False)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: versions[name])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setitem(sys.modules, "cuda.pathfinder", toolkit)
    return SimpleNamespace(cuda=cuda, device=device_, **vars(here))


def require():
    support.require.__wrapped__()


def test_nothing_is_missing(machine):
    require()


def test_the_cuda_of_numba_itself_is_refused(machine, monkeypatch):
    for name in ("Built-in", None):
        monkeypatch.setattr(machine.cuda, "implementation", name)
        with pytest.raises(RuntimeError, match=r"not by the numba.cuda inside .*fffnb\[cu13\]"):
            require()
    monkeypatch.delattr(machine.cuda, "implementation")  # as it is in old ones
    with pytest.raises(RuntimeError, match=r"not by the numba\.cuda inside Numba"):
        require()


@pytest.mark.parametrize("version", ["0.30.4", "0.9.1"])
def test_a_numpy_that_is_too_new_is_refused(version, machine, monkeypatch):
    monkeypatch.delattr(np, "row_stack")
    machine.versions["numba-cuda"] = version
    with pytest.raises(RuntimeError, match=rf"{version} fails under NumPy .* install 'numpy<2.5'"):
        require()


@pytest.mark.parametrize("version", ["0.30.5", "0.30.10", "0.31.0", "0.100.0", "1.0.0rc1"])
def test_a_later_numba_cuda_may_know_a_later_numpy(version, machine, monkeypatch):
    monkeypatch.delattr(np, "row_stack")
    machine.versions["numba-cuda"] = version
    require()


@pytest.mark.parametrize("missing", ["cuda", "cuda.core"])
def test_a_machine_without_cuda_core(missing, machine, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else name)
    with pytest.raises(RuntimeError, match="by cuda-core, which is missing; pip install"):
        require()


def test_a_machine_without_a_driver(machine, monkeypatch):
    monkeypatch.setattr(machine.cuda, "is_available", lambda: False)
    monkeypatch.setattr(machine.cuda, "cuda_error", lambda: "no libcuda.so")
    with pytest.raises(RuntimeError, match=r"found no usable GPU: no libcuda\.so"):
        require()
    monkeypatch.setattr(machine.cuda, "cuda_error", lambda: None)
    with pytest.raises(RuntimeError, match="found no usable GPU: no device"):
        require()


def test_a_gpu_that_is_too_old(machine):
    machine.device.compute_capability = (6, 1)
    with pytest.raises(RuntimeError, match=r"compute capability 7.0 or newer, got 6.1"):
        require()


def test_a_toolkit_without_its_compiler(machine):
    def fail(name):
        raise NotFound(f"no {name}")

    machine.toolkit.load_nvidia_dynamic_lib = fail
    with pytest.raises(RuntimeError, match="part of the CUDA toolkit is missing: no nvvm; pip"):
        require()


def python(code):
    """Return what a new process without the simulator prints."""
    code = f"import os; os.environ.pop('NUMBA_ENABLE_CUDASIM', None)\n{code}"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_this_machine_runs_kernels_or_says_what_it_lacks():
    code = """
import numpy as np, fffnb
x, nodes = np.ones((5, 3), np.float32), fffnb.init_nodes(3, 2, depth=4)
for attempt in range(2):
    try:
        fffnb.to_device(nodes)
        print("runs")
    except RuntimeError as error:
        print(str(error).splitlines()[0])
assert fffnb.fff_forward(x, nodes).shape == (5, 2)
"""
    first, second = python(code).splitlines()
    assert first == second
    words = (
        "runs",
        "fffnb runs on GPUs by numba-cuda",
        "fffnb found no usable GPU: ",
        "numba-cuda ",
    )
    assert first.startswith(words)


def test_ops_on_numpy_arrays_import_nothing_of_the_gpu_half():
    code = """
import json, sys
import numpy as np, fffnb
x, nodes = np.ones((5, 3), np.float32), fffnb.init_nodes(3, 2, depth=4)
y, trace = fffnb.fff_forward(x, nodes, return_trace=True)
numbers = {"lr": 0.1, "momentum": 0.0, "weight_decay": 0.0, "nesterov": 0.0}
fffnb.fff_backward_update(y, x, nodes, trace, fffnb.UpdateRule("sgd", numbers, {}))
print(json.dumps(sorted(sys.modules)))
"""
    modules = json.loads(python(code))
    assert "fffnb.cuda" in modules
    assert not [name for name in modules if name.startswith(("fffnb.cuda.", "numba.cuda."))]
    assert not {"torch", "cupy", "numba.cuda", "cuda"} & set(modules)


class Tensor:
    """A tensor of a PyTorch that is made up."""

    def __init__(self, shape, place=0, requires_grad=False):
        self.shape, self.place, self.requires_grad = shape, place, requires_grad
        self.dtype = "torch.float32"

    def is_contiguous(self):
        return True

    def get_device(self):
        return self.place

    def data_ptr(self):
        raise AssertionError("the memory of a tensor was looked for")


@pytest.fixture
def torch(monkeypatch):
    module = ModuleType("torch")
    module.Tensor, module._C = Tensor, SimpleNamespace()
    module.is_grad_enabled = lambda: True
    monkeypatch.setitem(sys.modules, "torch", module)
    caches = [made for made in vars(device).values() if hasattr(made, "cache_clear")]
    for cache in caches:
        cache.cache_clear()
    yield module
    for cache in caches:
        cache.cache_clear()


@pytest.mark.usefixtures("torch")
def test_tensors_on_the_cpu_and_those_that_require_grad_are_refused():
    x, nodes = Tensor((5, 3)), Tensor((1, 15, 5))
    for change, words in (
        (
            {"nodes": Tensor((1, 15, 5), -1)},
            "nodes is a tensor on the CPU: call .*torch.fff.* pass x.numpy",
        ),
        ({"x": Tensor((5, 3), -1)}, "x is a tensor on the CPU: call .*torch.fff.* pass x.numpy"),
        ({"x": Tensor((5, 3), requires_grad=True)}, "x requires grad, .* pass x.detach"),
        ({"nodes": Tensor((1, 15, 5), 0, True)}, "nodes requires grad, .* pass x.detach"),
        ({"x": np.ones((5, 3), np.float32)}, "x must be a torch.Tensor .* got numpy.ndarray"),
    ):
        with pytest.raises(TypeError, match=words):
            fffnb.fff_forward(**{"x": x, "nodes": nodes, **change})
    with pytest.raises(ValueError, match=r"x must be on device 0 like the nodes .* got device 1"):
        fffnb.fff_forward(Tensor((5, 3), 1), nodes)


def test_a_real_tensor_on_the_cpu_is_refused():
    torch = pytest.importorskip("torch")
    x, nodes = np.ones((5, 3), np.float32), fffnb.init_nodes(3, 2, depth=4)
    with pytest.raises(TypeError, match=r"nodes is a tensor on the CPU: .* pass x\.numpy\(\)"):
        fffnb.fff_forward(torch.from_numpy(x), torch.from_numpy(nodes))
    with pytest.raises(TypeError, match=r"x must be a numpy\.ndarray, got torch\.Tensor"):
        fffnb.fff_forward(torch.from_numpy(x), nodes)
    assert fffnb.fff_forward(x, nodes).shape == (5, 2)
