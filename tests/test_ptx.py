"""The code of the GPU's kernels, compiled for an H100; no GPU is needed."""

import importlib
import importlib.util
import itertools
import re
from types import SimpleNamespace
from typing import ClassVar

import numba
import pytest

import fffnb
from fffnb.ops import (
    bag_cuda,
    balance_cuda,
    flat_cuda,
    keys_cuda,
    leaf_cuda,
    leaf_soft_cuda,
    soft_cuda,
    tree_cuda,
)
from fffnb.ops.device import Kind

if numba.config.ENABLE_CUDASIM:
    pytest.skip("the simulator compiles nothing", allow_module_level=True)
if importlib.util.find_spec("numba_cuda") is None:
    pytest.skip("needs numba-cuda", allow_module_level=True)
if importlib.util.find_spec("nvidia") is None:
    pytest.skip("needs NVVM, the compiler of numba-cuda[cu13]", allow_module_level=True)

cache = importlib.import_module("fffnb.cuda.cache")
launch = importlib.import_module("fffnb.cuda.launch")
tree = importlib.import_module("fffnb.cuda.tree")
tree_steps = importlib.import_module("fffnb.cuda.tree_steps")
steps = importlib.import_module("fffnb.cuda.steps")

TREE = {"leap", "walk", "scout", "mix", "slopes", "step_chunks", "step_parts"}
SOFT = {"share_out", "collect", "sum_chunks"}
LEAF = {"descend", "meet", "mix", "sum_leaves"}
BALANCE = {"count_turns", "weigh_turns", "move_bias"}
HOT = TREE | LEAF | SOFT | BALANCE | {"choose", "choose_pairs", "product"}
CAPABILITY = (9, 0)

#: Of a block, as every GPU has it.
SHARED_BYTES = 49_152


class Dtype(str):
    @property
    def name(self):
        return str(self)


class Array:
    """A device array without memory."""

    def __init__(self, shape, dtype):
        self.shape, self.dtype = shape, Dtype(dtype)

    def __setitem__(self, at, value):
        pass


class Nowhere(Kind):
    """Arrays of which only the shapes and dtypes are real."""

    name, type = "nowhere", Array

    def contiguous(self, array):
        return True

    def address(self, array):
        return array

    def device(self, array):
        return 0

    def stream(self, device):
        return 0

    def empty(self, shape, dtype, like):
        return Array(shape, dtype)


class Noted:
    """The array form of a kernel, which notes the kernel instead of running it."""

    started: ClassVar = []

    def __init__(self, kernel):
        self.kernel = kernel

    def __getitem__(self, configuration):
        return lambda *arguments: self.started.append(self.kernel)


@pytest.fixture(scope="module", autouse=True)
def no_gpu():
    with pytest.MonkeyPatch.context() as patch:
        here = SimpleNamespace(compute_capability=CAPABILITY)
        patch.setattr("numba.cuda.dispatcher.get_current_device", lambda: here)
        yield


@pytest.fixture
def started(monkeypatch, forget_kernels):
    """The kernels that calls start, by name, none of which runs."""
    monkeypatch.setattr(launch, "SIMULATED", True)
    monkeypatch.setattr(launch.Kernel, "simulated", property(Noted))
    monkeypatch.setattr(Noted, "started", [])
    forget_kernels()
    yield Noted.started
    forget_kernels()


SGD = {"lr": 0.1, "momentum": 0.0, "weight_decay": 0.01, "nesterov": 0.0}
RULES = {
    "sgd": ("sgd", SGD, ()),
    "momentum": ("sgd", {**SGD, "momentum": 0.9}, ("momentum",)),
    "adamw": (
        "adamw",
        {"lr": 0.1, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "weight_decay": 0.1},
        ("mean", "variance"),
    ),
}


def rule_for(name, shape, dtype):
    kind, numbers, moments = RULES[name]
    state = {moment: Array(shape, dtype) for moment in moments}
    state["steps"] = Array((shape[0] * shape[1],), "int64")
    return fffnb.UpdateRule(kind, numbers, state)


def call(n_in, n_out, depth, batch, dtype, rule=None, sparse=False):
    """Call forward and, by a rule or without, backward."""
    kind, real = Nowhere(), "float64" if dtype == "float64" else "float32"
    x, grad_y = Array((batch, n_in), dtype), Array((batch, n_out), dtype)
    nodes = Array((1, 2**depth - 1, n_in + n_out), dtype)
    bias = Array(nodes.shape[:2], real)
    options = bias, "gelu", n_out, None
    _, trace = tree_cuda.forward(kind, x, nodes, *options, return_trace=True)
    tree_cuda.forward(kind, x, nodes, *options, return_trace=False)
    if rule is None:
        tree_cuda.backward(kind, grad_y, x, nodes, trace, None, sparse)
    else:
        given = rule_for(rule, nodes.shape, dtype), bias, rule_for(rule, bias.shape, dtype)
        tree_cuda.backward_update(kind, grad_y, x, nodes, trace, *given, None)


def call_flat(n_in, n_out, depth, batch, dtype, rows="nodes"):
    """Call forward and backward of the flat form."""
    kind, real = Nowhere(), "float64" if dtype == "float64" else "float32"
    x, grad_y = Array((batch, n_in), dtype), Array((batch, n_out), dtype)
    planes, bias = Array((1, depth, n_in), dtype), Array((1, depth), real)
    y_vectors = Array((1, fffnb.nodes.count_flat_rows(depth, rows), n_out), dtype)
    options = bias, "gelu", None
    _, trace = flat_cuda.forward(kind, x, planes, y_vectors, *options, return_trace=True)
    flat_cuda.backward(kind, grad_y, x, planes, y_vectors, trace, trace.scores, sparse=False)


def call_keys(n_in, n_out, n_keys, k, batch, dtype):
    """Call forward and backward of product keys."""
    kind = Nowhere()
    x, grad_y = Array((batch, n_in), dtype), Array((batch, n_out), dtype)
    keys, y_vectors = Array((2, 2, n_keys, n_in // 2), dtype), Array((n_keys**2, n_out), dtype)
    options = k, "gelu", None
    _, trace = keys_cuda.forward(kind, x, keys, y_vectors, *options, return_trace=True)
    keys_cuda.backward(kind, grad_y, x, keys, y_vectors, trace, sparse=True)


def call_positive(n_in, n_out, n_nodes, batch, dtype):
    """Call forward and backward of a bag of all positive nodes."""
    x, grad_y = Array((batch, n_in), dtype), Array((batch, n_out), dtype)
    nodes, options = Array((1, n_nodes, n_in + n_out), dtype), (None, None, "gelu", None, None)
    _, trace = bag_cuda.forward(Nowhere(), x, nodes, *options, return_trace=True)
    bag_cuda.backward(Nowhere(), grad_y, x, nodes, trace, sparse=False)


def call_soft(n_in, n_out, depth, batch, dtype):
    """Call forward and backward of soft training."""
    x, grad_y = Array((batch, n_in), dtype), Array((batch, n_out), dtype)
    nodes = Array((1, 2**depth - 1, n_in + n_out), dtype)
    bias, options = Array(nodes.shape[:2], dtype), (1.0, "sigmoid", 0.1, 0)
    given = Nowhere(), x, nodes
    _, trace = soft_cuda.forward(*given, *options, bias, "gelu", None, return_trace=True)
    soft_cuda.backward(given[0], grad_y, *given[1:], trace, trace.scores)


def call_leaf(n_in, n_out, depth, width, batch, dtype):
    """Call forward and backward of the leaf form, hard and soft."""
    x, grad_y = Array((batch, n_in), dtype), Array((batch, n_out), dtype)
    shapes = (1, 2**depth - 1, n_in), (1, 2**depth, width, n_in + n_out)
    layer = [Array(shape, dtype) for shape in shapes]
    biases = shapes[0][:2], shapes[1][:3], (1, 2**depth, n_out)
    bias = fffnb.LeafBias(*(Array(shape, dtype) for shape in biases))
    given = Nowhere(), x, *layer
    _, trace = leaf_cuda.forward(*given, bias, "gelu", None, return_trace=True)
    leaf_cuda.backward(given[0], grad_y, *given[1:], trace, sparse=True)
    options = 1.0, "smooth_step", 0.0, None, bias, "gelu"
    _, trace = leaf_soft_cuda.forward(*given, *options, return_trace=True)
    leaf_soft_cuda.backward(given[0], grad_y, *given[1:], trace, bias, None)


def call_balance(depth, batch, dtype):
    """Call the loss of a tree's trace, and move its bias."""
    shape = 1, 2**depth - 1, 9
    trace = fffnb.Trace(
        Array((batch, 1, depth), dtype), Array((batch, 1), "int32"), "gelu", True, shape, 4
    )
    origin = balance_cuda.Origin("nodes", shape, depth, depth - 1)
    balance_cuda.loss(Nowhere(), trace, origin, 1.0)
    balance_cuda.move_bias(Nowhere(), Array(shape[:2], dtype), trace, origin, 0.1)


compiled = {}


def ptx(kernel):
    """Return the code of a kernel, which is compiled once for all tests."""
    key = cache.key_of(kernel.body, kernel.types(), "")
    if key not in compiled:
        compiled[key] = kernel.ptx(CAPABILITY)
    return compiled[key]


def name_of(kernel):
    return kernel.body.__qualname__.partition(".")[0]


def stray(kernel, code):
    """Return what is wrong with the code of a kernel."""
    found = []
    shared = sum(int(size) for size in re.findall(r"\.shared .*\[(\d+)\];", code))
    if shared > SHARED_BYTES:
        found.append(f"{shared} bytes of shared memory")
    if name_of(kernel) in HOT:
        found += set(re.findall(r"(?:ld|st)\.local|__local_depot|\bcall\b", code))
    return found


#: Vector loads of bfloat16.
BF16 = r"v4\.[bu]32"

CASES = {
    "few samples": ((768, 768, 12, 128, "float32"), r"v4\.f32"),
    "few samples, rows": ((768, 768, 12, 128, "float32", None, True), r"v4\.f32"),
    "many samples, SGD": ((768, 768, 12, 16384, "float32", "sgd"), r"v4\.f32"),
    "many samples, momentum": ((768, 768, 12, 16384, "float32", "momentum"), r"v4\.f32"),
    "many samples, AdamW": ((768, 768, 12, 16384, "float32", "adamw"), r"v4\.f32"),
    "bfloat16": ((768, 768, 12, 16384, "bfloat16"), BF16),
    "float64": ((768, 768, 8, 16384, "float64"), r"v2\.f64"),
    "even width": ((770, 770, 8, 128, "float32"), r"v2\.f32"),
    "odd width": ((767, 769, 8, 128, "float32"), None),
    "odd width, float16": ((767, 769, 8, 128, "float16"), None),
}


@pytest.mark.parametrize("case", CASES)
def test_rows_are_loaded_as_vectors_and_stay_in_registers(case, started):
    arguments, vectors = CASES[case]
    call(*arguments)
    kernels = {kernel: ptx(kernel) for kernel in started}
    names, form = {name_of(kernel) for kernel in kernels}, "leap" if arguments[3] < 1000 else "walk"
    assert names & HOT == TREE - {"leap", "walk", "scout"} | {form}
    for kernel, code in kernels.items():
        assert f"{name_of(kernel)}: {stray(kernel, code)}" == f"{name_of(kernel)}: []"
        moves_rows = name_of(kernel) in HOT - {"step_parts"}  # which sums float32, of bfloat16 too
        loads = re.findall(r"ld\.global\.(v\d\.\w+)", code)
        if vectors is None:
            assert not loads
        elif moves_rows:
            assert loads and all(re.fullmatch(vectors, load) for load in loads), name_of(kernel)


FLAT = {
    "few samples": ((768, 768, 12, 128, "float32"), "walk", r"v4\.f32"),
    "patterns, many samples": ((4096, 64, 12, 16384, "bfloat16", "patterns"), "descend", BF16),
}


@pytest.mark.parametrize("case", FLAT)
def test_the_flat_form_loads_vectors_and_stays_in_registers(case, started):
    arguments, form, vectors = FLAT[case]
    call_flat(*arguments)
    moving = form, "mix", "slopes", "step_chunks"
    kernels = {kernel: ptx(kernel) for kernel in started if name_of(kernel) in moving}
    assert {name_of(kernel) for kernel in kernels} == set(moving)
    for kernel, code in kernels.items():
        assert f"{name_of(kernel)}: {stray(kernel, code)}" == f"{name_of(kernel)}: []"
        loads = re.findall(r"ld\.global\.(v\d\.\w+)", code)
        assert loads and all(re.fullmatch(vectors, load) for load in loads), name_of(kernel)


def test_product_keys_load_vectors_and_stay_in_registers(started):
    call_keys(256, 256, 1024, 16, 4096, "bfloat16")
    moving, choosing = {"product", "mix", "slopes"}, {"choose", "choose_pairs"}
    kernels = {kernel: ptx(kernel) for kernel in started if name_of(kernel) in moving | choosing}
    assert {name_of(kernel) for kernel in kernels} == moving | choosing
    for kernel, code in kernels.items():
        assert f"{name_of(kernel)}: {stray(kernel, code)}" == f"{name_of(kernel)}: []"
        loads = re.findall(r"ld\.global\.(v\d\.\w+)", code)
        if name_of(kernel) in moving:
            assert loads and all(re.fullmatch(r"v4\.[bu]32", load) for load in loads)


@pytest.mark.parametrize(
    ("call_form", "sizes", "names"),
    [
        (call_positive, (768, 768, 4096, 4096, "float32"), {"product"}),
        (call_soft, (784, 500, 8, 128, "float64"), SOFT),
        (call_leaf, (768, 768, 8, 32, 16384, "float32"), LEAF),
        (call_balance, (12, 4096, "float32"), BALANCE),
    ],
)
def test_dense_passes_leaves_and_balance_stay_in_registers(call_form, sizes, names, started):
    call_form(*sizes)
    kernels = {name_of(kernel): kernel for kernel in started}  # the last, which go back
    for name in names:
        code = ptx(kernels[name])
        assert f"{name}: {stray(kernels[name], code)}" == f"{name}: []"
        assert name not in LEAF or "ld.global.v4.f32" in code


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_wide_rows_of_few_samples_are_shared_by_a_cluster(dtype, started, monkeypatch):
    monkeypatch.setattr(tree, "has_clusters", lambda device: True)
    call(8192, 8000, 5, 3, dtype)
    kernel = next(kernel for kernel in started if name_of(kernel) == "leap")
    code = ptx(kernel)
    assert not stray(kernel, code)
    assert re.search(r"\)\s*\.reqnctapercluster 8, 1, 1\s*\{", code)
    for instruction in ("%cluster_ctarank", "mapa.shared::cluster", "barrier.cluster.wait"):
        assert instruction in code


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_product_is_rounded_before_a_team_sums_it(dtype, started):
    """Else each lane has its own sum, and one may go left where the others go right."""
    call(7, 9, 5, 9, dtype)
    for kernel in started:
        if name_of(kernel) in ("leap", "slopes"):
            shuffled = re.search(r"shfl\.sync\.bfly.*?\n.*?(add|fma)", ptx(kernel), re.DOTALL)
            assert shuffled and shuffled[1] == "add"


def test_two_stages_of_a_forward_pass(started, monkeypatch):
    monkeypatch.setattr(tree, "forced", "sweep")
    call(768, 768, 12, 16384, "float32")
    kernels = {name_of(kernel): ptx(kernel) for kernel in started[:3]}
    assert [*kernels] == ["scout", "place", "walk"]
    for name in ("scout", "walk"):
        assert "ld.global.v4.f32" in kernels[name]
        assert not re.search(r"(ld|st)\.local|__local_depot|\bcall\b", kernels[name])


def test_slopes_of_many_samples_of_an_odd_width(started):
    call(767, 769, 8, 16384, "float32")
    kernel = next(kernel for kernel in started if name_of(kernel) == "slopes")
    assert not stray(kernel, ptx(kernel))


def test_chunks_of_every_depth_fit_into_shared_memory():
    kinds = (("float32", 4), ("float32", 1), ("float64", 2), ("bfloat16", 8))
    for (dtype, length), depth in itertools.product(kinds, range(1, 32)):
        layer = tree.Layer(dtype, 8, 8, depth, 0, True, length)
        for most in steps.CHUNKS.values():
            chunk = tree_steps.fitting_chunk(layer, most)
            assert 1 <= chunk <= most
            blocks, threads = tree_steps.chunk_columns(layer, chunk)
            assert blocks * threads * length >= layer.width
            size = 8 if dtype == "float64" else 4
            handed = threads * depth * length * size
            assert handed + chunk * (2 * depth * size + 16) <= 49_152


def test_the_cache_tells_kernels_apart(started, monkeypatch, forget_kernels):
    """A file on disk serves another process that compiles the same, and no other kernel."""

    def keys():
        forget_kernels()
        started.clear()
        call(12, 8, 4, 300, "float32", "sgd")
        call(12, 8, 4, 300, "float64", "adamw")
        call(12, 8, 4, 300, "float32", sparse=True)
        for rows in fffnb.nodes.FLAT_ROWS:
            call_flat(12, 12, 4, 600, "float32", rows)
        kernels = dict.fromkeys(started)
        return {cache.key_of(kernel.body, kernel.types(), "sm_90"): kernel for kernel in kernels}

    first = keys()
    assert len(first) == len(dict.fromkeys(started)) > 15
    assert keys().keys() == first.keys()
    kernel = next(iter(first.values()))
    assert cache.key_of(kernel.body, kernel.types(), "sm_80") not in first
    monkeypatch.setattr(steps, "CHUNKS", {1: 2})
    changed = [name_of(kernel) for key, kernel in keys().items() if key not in first]
    assert set(changed) == {"step_chunks", "step_parts"}


def test_the_cache_returns_what_was_saved_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "new"))
    assert cache.load("key") is None
    cache.save("key", "kernel", b"code\0with zeros")
    assert cache.load("key") == ("kernel", b"code\0with zeros")
    file = tmp_path / "new" / "fffnb-cuda" / "key"
    assert [*file.parent.iterdir()] == [file]
    whole = file.read_bytes()
    for broken in (b"", whole[:-1], whole[:20], whole[:-1] + b"!", whole[1:]):
        file.write_bytes(broken)
        assert cache.load("key") is None
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(file))  # no folder can be made here
    cache.save("key", "kernel", b"code")
    assert cache.load("key") is None


@pytest.mark.parametrize("block", [32, 128, 448, 896, 1024])
def test_a_block_has_no_more_registers_than_there_are(block):
    """Warps go to the four quarters of a multiprocessor in turn, in units of 256 registers."""
    warps_of_a_quarter = -(-block // 32 // 4)
    of_a_warp = -(-launch.registers_of(block) * 32 // 256) * 256
    assert warps_of_a_quarter * of_a_warp <= 65_536 // 4
