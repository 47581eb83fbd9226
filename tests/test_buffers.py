"""Memory of large arrays: on cache lines, used again, never while anyone still looks at it."""

import subprocess
import sys
import threading

import numpy as np
import pytest

from fffnb import buffers


@pytest.fixture(autouse=True)
def nothing_waits(monkeypatch, poisoned_buffers):
    """Start with no memory that waits, and with the plain allocator."""
    monkeypatch.undo()
    buffers.pool.waiting.clear()
    yield
    buffers.pool.waiting.clear()


@pytest.mark.parametrize("size", [0, 1, 1000, 10_000, 1_000_000])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32"])
def test_shape_dtype_and_alignment(size, dtype):
    array = buffers.empty((size, 3), dtype)
    assert (array.shape, array.dtype) == ((size, 3), np.dtype(dtype))
    assert type(array) is np.ndarray
    assert array.flags.c_contiguous and array.flags.writeable
    if array.nbytes >= buffers.ALIGNED_FROM:
        assert array.ctypes.data % buffers.LINE == 0
    array[...] = 7
    assert (array == 7).all()


def test_memory_is_used_again_when_the_last_view_is_gone():
    array = buffers.empty((500, 1000), np.float32)
    array[...] = 1
    place, view = array.ctypes.data, array[3:].T
    del array
    other = buffers.empty((500, 1000), np.float32)
    other[...] = 2
    assert other.ctypes.data != place
    assert (view == 1).all()
    del view
    assert buffers.empty((400, 1000), np.float32).ctypes.data == place


def test_memory_that_is_far_too_large_is_left_alone():
    buffers.empty(10_000_000, np.float32)
    assert len(buffers.pool.waiting) == 1
    array = buffers.empty(1_000_000, np.float32)
    assert len(buffers.pool.waiting) == 1
    assert array.nbytes == 4_000_000


def test_memory_that_waits_is_bounded(monkeypatch):
    monkeypatch.setattr(buffers.pool, "most", 10_000_000)
    arrays = [buffers.empty(1_000_000, np.float32) for _ in range(5)]
    del arrays
    assert sum(memory.bytes.size for memory in buffers.pool.waiting) <= 10_000_000
    assert len(buffers.pool.waiting) == 2
    buffers.empty(3_000_000, np.float32)  # larger than all that may wait
    assert len(buffers.pool.waiting) == 2


def test_threads_never_share_memory():
    wrong = []

    def work(mark):
        for _ in range(200):
            array = buffers.empty(300_000, np.float32)
            array[::1000] = mark
            if (array[::1000] != mark).any():
                wrong.append(mark)

    threads = [threading.Thread(target=work, args=(mark,)) for mark in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_an_array_may_outlive_the_module():
    code = "from fffnb import buffers; buffers.np.linalg.kept = buffers.empty(400_000, 'f4')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
