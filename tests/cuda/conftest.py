"""Fixtures of the tests that run kernels for GPUs, in the simulator or on one."""

import ctypes
import functools

import kinds
import numpy as np
import pytest

from fffnb import cuda
from fffnb.ops import device, running

if kinds.SIMULATED:
    import simulator

    simulator.install()

#: What scratch holds, four bytes at a time: NaN, or integers far below zero.
POISON = {"float32": 0xFFFFFFFF, "float64": 0xFFFFFFFF, "int32": 0x80000000, "int64": 0x80000000}


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: takes a GPU with much memory, and its time")


@pytest.fixture(scope="session", params=kinds.NAMES)
def kind(request):
    """One kind of device arrays."""
    return kinds.CLASSES[request.param]()


@pytest.fixture(params=["small"] if kinds.SIMULATED else ["small", "default"])
def tiles(request, forget_kernels):
    """Tiles so small that small arrays cross all their borders, or as they are on a GPU."""
    if request.param != tiles_in_use[0]:
        forget_kernels()  # imports all modules, before the constants that they import are patched
        tiles_in_use[0] = request.param
        tiles_patch.undo()
        if request.param == "small":
            make_tiles_small(tiles_patch)
    return request.param


tiles_in_use, tiles_patch = ["default"], pytest.MonkeyPatch()


def pytest_collection_modifyitems(config, items):
    """Run all tests with small tiles last: others need other kernels.

    The simulator takes long: there float64, whose bounds are close, speaks for float32, bfloat16
    for float16, and two rules of optimisers for all four beside the CPU.
    """
    if kinds.SIMULATED:
        left_out = [item for item in items if repeats(item)]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]

    def small(item):
        return hasattr(item, "callspec") and item.callspec.params.get("tiles") == "small"

    items.sort(key=small)


def repeats(item):
    """Return whether a test shows in the simulator what another one has shown."""
    options = item.callspec.params if hasattr(item, "callspec") else {}
    name = item.name.partition("[")[0]
    if name == "test_fused_update_is_that_of_the_cpu":  # other tests have them beside backward
        return options["name"] in ("momentum", "nesterov")
    dtypes = dict.fromkeys(("equals_the_reference", "equals_the_cpu"), "float32")
    dtypes["good_as_their_rounding"] = "float16"
    wanted = [dtype for ending, dtype in dtypes.items() if name.endswith(ending)]
    return options.get("dtype") in wanted


def make_tiles_small(patch):
    from fffnb.cuda.layer import FEWEST

    for name in ("order.SMALL", "rows.SHARE", "tree_steps.PARTS", "tree_steps.FEW_PARTS"):
        patch.setattr(f"fffnb.cuda.{name}", 2)
    for name in ("order.LARGE", "order.GROUP", "update.BLOCK", "tree_mix.SHARE", "tree.PLACED"):
        patch.setattr(f"fffnb.cuda.{name}", 4)
    for name in ("steps.RUN_BLOCK", "steps.LIST_BLOCK", "steps.BLOCK", "bag.BLOCK", "keys.BLOCK"):
        patch.setattr(f"fffnb.cuda.{name}", 4)
    for name in ("BLOCK", "LIST_BLOCK"):
        patch.setattr(f"fffnb.cuda.bag_positive.{name}", 4)
    for name in ("group.SCORED", "group.TEAMS", "sum.SUMMED", "sum.SHARES", "sum.AHEAD"):
        patch.setattr(f"fffnb.cuda.leaf_{name}", 2)
    patch.setattr("fffnb.cuda.leaf.BLOCK", 2)
    patch.setattr("fffnb.cuda.balance.BLOCK", 4)
    patch.setattr("fffnb.cuda.balance.OWN", 6)
    patch.setattr("fffnb.cuda.leaf.GROUPS", {1: 1, 3: 2, 6: 4})
    patch.setattr("fffnb.cuda.dense.CHUNK", 3)
    patch.setattr("fffnb.cuda.dense.LEAST", 2)
    patch.setattr("fffnb.cuda.dense.BLOCK", 4)
    patch.setattr("fffnb.cuda.tree.SMALL_SHARE", cuda.tree.SHARE)  # as for large batches
    patch.setattr("fffnb.cuda.order.MANY", 12)
    patch.setattr("fffnb.cuda.order.TURNS", 2)
    patch.setattr("fffnb.cuda.order.MERGED", 3)
    patch.setattr("fffnb.cuda.tree_steps.BLOCK", FEWEST)
    patch.setattr("fffnb.cuda.steps.CHUNKS", {1: 1, 4: 2, 16: 3})
    tiles = cuda.flat.Tile(1, 4, 1, 1), cuda.flat.Tile(2, 2, 4, 2), cuda.flat.Tile(4, 1, 2, 1)
    patch.setattr("fffnb.cuda.flat.TILES", dict(zip((1, 3, 6), tiles, strict=True)))
    patch.setattr("fffnb.cuda.product.TILES", ((4, 64), (2, 64)))
    patch.setattr("fffnb.cuda.product.ENOUGH", 3)
    patch.setattr("fffnb.cuda.tree.MIX_GROUPS", {1: 1, 3: 2, 6: 4})
    patch.setattr("fffnb.cuda.tree.SLOPE_GROUPS", {1: 1, 3: 2, 6: 4})


@pytest.fixture(params=["leap", "walk", "sweep"])
def path(request, monkeypatch):
    """Force one form of the tree's forward pass."""
    monkeypatch.setattr("fffnb.cuda.tree.forced", request.param)
    return request.param


@pytest.fixture(autouse=True)
def poisoned_device_buffers(kind, monkeypatch):
    """Fill all new arrays with what cannot pass for a result, and all scratch."""
    ops = getattr(device, type(kind).__name__)
    monkeypatch.setattr(ops, "empty", poisoned(ops.empty, kind))
    if not kinds.SIMULATED:
        monkeypatch.setattr(running.Running, "take", poisoned_scratch(running.Running.take))


def poisoned(empty, kind):
    def poison(self, shape, dtype, like):
        return kind.empty(functools.partial(empty, self), shape, dtype, like)

    return poison


def poisoned_scratch(take):
    def poison(self, size, dtype):
        address = take(self, size, dtype)
        n_words, stream = size * np.dtype(dtype).itemsize // 4, ctypes.c_void_p(self.stream)
        if n_words > 0 and not cuda.launch.SIMULATED:
            place, pattern = ctypes.c_uint64(address), ctypes.c_uint(POISON[dtype])
            fill = cuda.launch.driver().cuMemsetD32Async
            assert fill(place, pattern, ctypes.c_size_t(n_words), stream) == 0
        return address

    return poison
