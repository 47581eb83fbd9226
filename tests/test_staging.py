"""Batches arrive whole, however late copies and kernels run."""

import fake_cupy
import numpy as np
import pytest

from fffnb.nn.staging import Staged

RNG = np.random.default_rng(0)
SAMPLES = {
    "rows": RNG.standard_normal((50, 3)).astype(np.float32),
    "labels": RNG.integers(9, size=50),
    "strided": RNG.standard_normal((3, 100)).T[::2],
    "other byte order": np.arange(100.0).reshape(50, 2).astype(">f8"),
}


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("name", SAMPLES)
def test_each_batch_is_read_as_it_was_picked(name, seed, monkeypatch):
    machine, samples = fake_cupy.Machine(seed), SAMPLES[name]
    machine.install(monkeypatch)
    order = np.random.default_rng(seed).permutation(50)
    picks = [order[start : start + 8] for start in range(0, 50, 8)]
    staged, read = Staged(samples, 8), []
    for pick in picks:
        batch = staged[pick]
        assert (batch.shape, batch.dtype.isnative) == ((len(pick), *samples.shape[1:]), True)
        for _ in range(2):  # a forward and a backward pass
            machine.current.put(lambda batch=batch: read.append(np.array(batch)))
    machine.run_until(lambda: not machine.current.queue)
    for k, pick in enumerate(picks):
        np.testing.assert_array_equal(read[2 * k], samples[pick])
        np.testing.assert_array_equal(read[2 * k + 1], samples[pick])


def test_a_batch_is_copied_while_the_one_before_is_read(monkeypatch):
    machine, gate = fake_cupy.Machine(), []
    machine.install(monkeypatch)
    staged = Staged(SAMPLES["rows"], 8)
    staged[:8]
    machine.current.put(lambda: None, lambda: bool(gate))  # a kernel that takes its time
    staged[8:16]
    machine.run_until(lambda: not staged.copying.queue)
    staged[16:24]  # into the buffer that the kernel still reads
    while machine.step():
        pass
    assert staged.copying.queue
    gate.append(True)
    machine.run_until(lambda: not staged.copying.queue)


def test_slices_pick_samples(monkeypatch):
    machine = fake_cupy.Machine(eager=True)
    machine.install(monkeypatch)
    staged = Staged(SAMPLES["rows"], 1000)
    assert staged.shape == (50, 3)
    np.testing.assert_array_equal(staged[:1], SAMPLES["rows"][:1])
    np.testing.assert_array_equal(staged[40:1024, ...], SAMPLES["rows"][40:])
