"""The benchmarks that asv runs: few enough, and of kernels whose results are right."""

import importlib
import math
import pkgutil
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import fffnb
from fffnb import cpu
from fffnb.reference import tree as reference

ROOT = Path(__file__).parents[1]
SMALL = "width=128, depth=8"


@pytest.fixture(scope="module")
def suite():
    """Give the modules of the suite by their names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT)
        patch.setenv("NUMBA_CACHE_DIR", "")  # the suite chooses one where there is none
        package = importlib.import_module("benchmarks.suite")
        names = [module.name for module in pkgutil.iter_modules(package.__path__)]
        yield {name: importlib.import_module(f"benchmarks.suite.{name}") for name in names}


@pytest.fixture(autouse=True)
def forget_problems(suite):
    """Build and check every problem anew."""
    yield
    for module in suite.values():
        forget(module)


def forget(module):
    """Build what a module holds anew."""
    for made in vars(module).values():
        if hasattr(made, "cache_clear"):
            made.cache_clear()


def benchmarks(module):
    """Return what asv finds in a module, by name: the call, and its lists of parameters."""
    pattern = re.compile("(time|timeraw|track|peakmem|mem)_")
    found = {}
    for name, made in vars(module).items():
        if isinstance(made, type):
            for key in filter(pattern.match, dir(made)):
                found[f"{name}.{key}"] = getattr(made(), key), made.params
        elif pattern.match(name):
            found[name] = made, getattr(made, "params", ())
    return found


def test_the_suite_has_at_most_150_cases(suite):
    cases = {
        f"{topic}.{name}": math.prod(map(len, params))
        for topic, module in suite.items()
        for name, (_, params) in benchmarks(module).items()
    }
    assert len(cases) > 20, cases
    assert sum(cases.values()) <= 150, cases


def test_depth_20_is_timed_once_by_op(suite):
    deep = [
        f"{topic}.{name}"
        for topic, module in suite.items()
        for name, (_, params) in benchmarks(module).items()
        if params and "width=128, depth=20" in params[0]
    ]
    assert deep == [
        "backward.Backward.time_rows",
        "backward.Update.time_update",
        "forward.Forward.time_forward",
        "update.Deep.time_sgd",
    ]


CALLS = [
    ("balance", "Balance.time_loss"),
    ("balance", "Balance.time_backward"),
    ("forward", "Forward.time_forward"),
    ("backward", "Backward.time_rows"),
    ("backward", "Update.time_update"),
    ("backward", "Dense.time_dense"),
    ("flat", "FlatForward.time_forward"),
    ("flat", "FlatPatterns.time_forward"),
    ("flat", "FlatBackward.time_rows"),
    ("flat", "FlatBackward.time_update"),
    ("step", "Rows.time_rows"),
    ("step", "Step.time_fused"),
    ("update", "Update.time_sgd"),
    ("update", "Moments.time_momentum"),
    ("update", "Moments.time_adamw"),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("topic", "name"), CALLS)
def test_right_kernels_are_timed(suite, topic, name, dtype, monkeypatch):
    small = suite["problems"].CASES[SMALL]._replace(dtype=dtype, n_trees=3)
    monkeypatch.setitem(suite["problems"].CASES, SMALL, small)
    benchmarks(suite[topic])[name][0](SMALL)


@pytest.mark.parametrize("name", ["time_forward", "time_backward", "time_straight"])
def test_right_soft_kernels_are_timed(suite, name, monkeypatch):
    small = suite["problems"].CASES[SMALL]._replace(n_trees=3)
    monkeypatch.setitem(suite["problems"].CASES, SMALL, small)
    benchmarks(suite["soft"])[f"Soft.{name}"][0](SMALL)


def spoilt(kernel, *, argument):
    """Return a kernel that leaves one wrong row in an argument; None stands for its result."""

    def wrong(*arguments, **options):
        result = kernel(*arguments, **options)
        first = result[0] if isinstance(result, tuple) else result
        written = first if argument is None else arguments[argument]
        written.reshape(-1, written.shape[-1])[0] += 1e-3
        return result

    return wrong


WRONG = {  # the kernel, the argument that it writes, if any, and who must notice
    "forward": (6, ["Forward.time_forward"]),
    "backward": (
        5,
        ["Backward.time_rows", "Update.time_update", "Dense.time_dense"],
    ),
    "gather": (
        None,
        ["Backward.time_rows", "Dense.time_dense", "Rows.time_rows", "FlatBackward.time_rows"],
    ),
    "update": (3, ["Update.time_update", "Step.time_fused", "FlatBackward.time_update"]),
    "update_rows": (
        0,
        [
            *("Rows.time_rows", "Update.time_sgd", "Moments.time_momentum", "Moments.time_adamw"),
            "FlatBackward.time_update",
        ],
    ),
}


@pytest.mark.parametrize(
    ("kernel", "topic", "name"),
    [(kernel, *call) for kernel in WRONG for call in CALLS if call[1] in WRONG[kernel][1]],
)
def test_a_wrong_kernel_is_not_timed(suite, kernel, topic, name, monkeypatch):
    wrong = spoilt(getattr(cpu.tree, kernel), argument=WRONG[kernel][0])
    monkeypatch.setattr(cpu.tree, kernel, wrong)
    with pytest.raises(AssertionError, match="exceeds"):
        benchmarks(suite[topic])[name][0](SMALL)


def test_a_wrong_flat_form_is_not_timed(suite, monkeypatch):
    for kernel, argument, name in (
        ("forward", 7, "FlatForward.time_forward"),
        ("forward", 7, "FlatPatterns.time_forward"),
        ("backward", 6, "FlatBackward.time_rows"),
        ("gather_planes", None, "FlatBackward.time_rows"),
        ("gather_y_vectors", None, "FlatBackward.time_rows"),
    ):
        with monkeypatch.context() as patch, pytest.raises(AssertionError, match="exceeds"):
            patch.setattr(cpu.flat, kernel, spoilt(getattr(cpu.flat, kernel), argument=argument))
            benchmarks(suite["flat"])[name][0](SMALL)


def test_a_wrong_bag_is_not_timed(suite, monkeypatch):
    bag = suite["bag"]
    small = bag.Sizes(64, 64, depth=1)
    monkeypatch.setattr(bag, "BAGS", {"8": bag.Bag(16, 8, small), "": bag.Bag(16, None, small)})
    monkeypatch.setattr(bag, "KEYS", {"": bag.Keys(8, 3, small)})
    calls = benchmarks(bag)
    for case, name in (("8", "BagForward.time_forward"), ("", "KeysForward.time_forward")):
        calls[name][0](case)
        with monkeypatch.context() as patch, pytest.raises(AssertionError, match="exceeds"):
            patch.setattr(cpu.bag, "mix", spoilt(cpu.bag.mix, argument=4))
            forget(bag)
            calls[name][0](case)
    for case in ("8", ""):
        calls["BagBackward.time_rows"][0](case)
        with monkeypatch.context() as patch, pytest.raises(AssertionError, match="exceeds"):
            patch.setattr(cpu.bag, "gather", spoilt(cpu.bag.gather, argument=5))
            forget(bag)
            calls["BagBackward.time_rows"][0](case)


def test_a_wrong_leaf_form_is_not_timed(suite, monkeypatch):
    small = suite["leaf"].Sizes(9, 7, 2, 3, batch=80)
    monkeypatch.setitem(suite["leaf"].CASES, "small", small)
    calls = benchmarks(suite["leaf"])
    for module, kernel, argument, name in (
        (cpu.leaf, "forward", 7, "Leaf.time_inference"),
        (cpu.leaf_soft, "forward", 9, "Leaf.time_training"),
        (cpu.leaf_soft, "backward", 11, "Leaf.time_training"),
    ):
        calls[name][0]("small")
        with monkeypatch.context() as patch, pytest.raises(AssertionError, match="exceeds"):
            patch.setattr(module, kernel, spoilt(getattr(module, kernel), argument=argument))
            suite["leaf"].inference.cache_clear()
            suite["leaf"].training.cache_clear()
            calls[name][0]("small")
        suite["leaf"].training.cache_clear()


def test_a_wrong_path_is_seen(suite):
    x, nodes, _, trace = suite["problems"].problem(suite["problems"].CASES[SMALL])
    suite["truth"].Truth(x, nodes, trace.leaves)
    leaves = trace.leaves.copy()
    leaves[5] ^= 1 << 3
    with pytest.raises(AssertionError, match="1 of 128 samples took a wrong path"):
        suite["truth"].Truth(x, nodes, leaves)


@pytest.mark.parametrize(("n_in", "n_out", "depth", "n_trees"), [(5, 3, 1, 1), (7, 4, 6, 3)])
def test_the_truth_is_that_of_the_reference(suite, n_in, n_out, depth, n_trees):
    rng = np.random.default_rng(0)
    x, grad_y = rng.standard_normal((40, n_in)), rng.standard_normal((40, n_out))
    nodes = fffnb.init_nodes(n_in, n_out, depth, n_trees, dtype=np.float64)
    right = reference.forward(x, nodes)
    truth = suite["truth"].Truth(x, nodes, right.leaves)
    grad_x, grad_nodes, _ = reference.backward(grad_y, x, nodes)
    found = np.zeros((nodes.shape[0] * nodes.shape[1], n_in + n_out))
    found_x, found[truth.rows] = truth.gradients(grad_y)
    np.testing.assert_allclose(truth.y, right.y, rtol=0, atol=1e-13)
    np.testing.assert_allclose(found_x, grad_x, rtol=0, atol=1e-13)
    np.testing.assert_allclose(found, grad_nodes.reshape(found.shape), rtol=0, atol=1e-13)


@pytest.fixture
def gpu(suite, monkeypatch):
    """Give the module of the GPU, NumPy in the place of CuPy."""
    stream = SimpleNamespace(synchronize=lambda: None)
    cuda = SimpleNamespace(get_current_stream=lambda: stream)
    numpy = SimpleNamespace(asarray=np.array, asnumpy=np.asarray, cuda=cuda)
    monkeypatch.setattr(suite["gpu"], "find_cupy", lambda: numpy)
    bag, leaf = suite["bag"], suite["leaf"]
    sizes = bag.Sizes(64, 64, depth=1)
    monkeypatch.setitem(suite["gpu"].BAGS, SMALL, bag.Bag(16, 8, sizes))
    monkeypatch.setitem(bag.KEYS, SMALL, bag.Keys(8, 3, sizes))
    monkeypatch.setitem(leaf.CASES, SMALL, leaf.Sizes(9, 7, 2, 3, batch=80))
    return suite["gpu"]


GPU_CALLS = {  # the kernel, the argument that it writes, if any
    "Layer.time_forward": ("tree", "forward", 6),
    "Layer.time_backward_rows": ("tree", "gather", None),
    "Layer.time_step_fused": ("tree", "update", 3),
    "Flat.time_forward": ("flat", "forward", 7),
    "Flat.time_backward_rows": ("flat", "gather_planes", None),
    "Flat.time_patterns": ("flat", "forward", 7),
    "Bag.time_forward": ("bag", "mix", 4),
    "Bag.time_backward_rows": ("bag", "gather", 5),
    "Keys.time_forward": ("bag", "mix", 4),
    "Leaf.time_inference": ("leaf", "forward", 7),
    "Leaf.time_training": ("leaf_soft", "backward", 11),
    "Soft.time_forward": ("soft", "forward", 7),
    "Soft.time_backward": ("soft", "backward", 8),
}


@pytest.mark.parametrize("name", GPU_CALLS)
def test_gpu_benchmarks_check_what_they_time(suite, gpu, name, monkeypatch):
    assert set(benchmarks(gpu)) == set(GPU_CALLS)
    call, _ = benchmarks(gpu)[name]
    call(SMALL)
    for module in suite.values():
        forget(module)
    form, kernel, argument = GPU_CALLS[name]
    module = getattr(cpu, form)
    monkeypatch.setattr(module, kernel, spoilt(getattr(module, kernel), argument=argument))
    with pytest.raises(AssertionError, match="exceeds"):
        call(SMALL)


def test_memory_is_that_of_the_call(suite):
    held = []
    peak = suite["memory"].peak_added(lambda: held.append(np.ones(1_000_000, np.uint8)))
    assert 1_000_000 <= peak < 1_010_000
    assert suite["memory"].peak_added(lambda: None) < 10_000


def test_facts_and_training_are_numbers(suite):
    for topic in ("facts", "training"):
        if topic == "training":
            pytest.importorskip("sklearn")
        for name, (call, _) in benchmarks(suite[topic]).items():
            assert math.isfinite(call()), name
    assert suite["training"].track_accuracy() > 0.8
