"""PyTorch's processes and threads: data-parallel training, workers of loaders, threads."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import fffnb

torch = pytest.importorskip("torch", reason="torch is not installed: fffnb[torch]")

PATH = os.pathsep.join([str(Path(fffnb.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])

# One process of WORLD: a step of SGD on its share of the batch, whose loss is a mean.
WORKER = """
import os, sys
import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel
from fffnb.bridges.torch import FFF

rank, world, device, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
torch.set_num_threads(1)
where = f"cuda:{rank}" if device == "cuda" else "cpu"
torch.manual_seed(0)
x = torch.randn(16, 5, dtype=torch.float64)[rank::world].to(where)
model = torch.nn.Sequential(
    torch.nn.Linear(5, 6).double(),
    FFF(6, 4, 4, n_trees=2, activation="gelu", bias=True, dtype=np.float64),
).to(where)
if world > 1:
    torch.distributed.init_process_group(
        "nccl" if device == "cuda" else "gloo", init_method=f"file://{folder}/meet",
        rank=rank, world_size=world,
    )
    trained = DistributedDataParallel(model, device_ids=[rank] if device == "cuda" else None)
else:
    trained = model
optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
trained(x).square().mean().backward()
optimizer.step()
torch.save([p.detach().cpu() for p in model.parameters()], f"{folder}/{world}-{rank}.pt")
if world > 1:
    torch.distributed.destroy_process_group()
"""


def start(*arguments):
    environment = {**os.environ, "PYTHONPATH": PATH}
    environment |= {"GLOO_SOCKET_IFNAME": "lo", "NUMBA_NUM_THREADS": "1"}
    command = [sys.executable, "-c", WORKER, *map(str, arguments)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)


def finish(processes):
    try:
        for process in processes:
            _, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors
    finally:
        for process in processes:
            process.kill()


def check_equal_to_one_process(device, folder):
    finish([start(rank, 2, device, folder) for rank in range(2)])
    finish([start(0, 1, device, folder)])
    one, *two = (torch.load(folder / f"{name}.pt") for name in ("1-0", "2-0", "2-1"))
    for parameters in two:
        for found, right in zip(parameters, one, strict=True):
            torch.testing.assert_close(found, right, rtol=0, atol=1e-12)


@pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()),
    reason="this PyTorch has no gloo",
)
def test_two_processes_take_the_step_of_one(tmp_path):
    check_equal_to_one_process("cpu", tmp_path)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_take_the_step_of_one(tmp_path):
    check_equal_to_one_process("cuda", tmp_path)


WORK = """
import torch
from fffnb.bridges.torch import FFF
layer = FFF(128, 128, depth=9)
x = torch.randn(4096, 128)
def work():
    layer.zero_grad()
    y = layer(x)
    y.sum().backward()
    return y.detach().clone(), layer.nodes.grad.clone()
"""


def python(code, **environment):
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": PATH, **environment},
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork is of POSIX systems")
@pytest.mark.parametrize("threading_layer", ["omp", "workqueue"])
@pytest.mark.parametrize("warm", ["both", "torch"])
def test_forked_workers_of_a_loader_compute(threading_layer, warm):
    """The parent has used the threads of both libraries, or of PyTorch alone, when it forks."""
    if warm == "both" and torch.cuda.is_available():
        pytest.skip("where there is a GPU, PyTorch itself refuses a fork after a backward pass")
    first = "expected = work()" if warm == "both" else "(x @ x.T).sum()"
    code = f"""{WORK}
{first}
class Set(torch.utils.data.Dataset):
    def __len__(self): return 4
    def __getitem__(self, k): return work()[1]
grads = list(torch.utils.data.DataLoader(
    Set(), batch_size=None, num_workers=2, multiprocessing_context="fork"))
expected = work()
print(all(torch.equal(grad, expected[1]) for grad in grads))
"""
    assert python(code, NUMBA_THREADING_LAYER=threading_layer) == "True\n"


@pytest.mark.parametrize("threading_layer", ["omp", "workqueue"])
def test_threads_may_call_at_once(threading_layer):
    code = f"""{WORK}
import threading
expected = layer(x).detach()
right = []
def many():
    right.append(all(torch.equal(layer(x).detach(), expected) for _ in range(20)))
threads = [threading.Thread(target=many) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(right)
"""
    assert python(code, NUMBA_THREADING_LAYER=threading_layer) == "[True, True, True, True]\n"


def test_any_number_of_threads_gives_the_same_bits():
    code = f"""{WORK}
import hashlib
torch.manual_seed(0)
x = torch.randn(4096, 128)
print(hashlib.sha256(b"".join(part.numpy().tobytes() for part in work())).hexdigest())
"""
    assert python(code, NUMBA_NUM_THREADS="1") == python(code)
