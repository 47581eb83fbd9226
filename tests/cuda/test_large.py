"""Arrays of more than 2**31 numbers."""

import kinds
import pytest

import fffnb
from fffnb.ops import running

if kinds.MISSING or kinds.SIMULATED:
    pytest.skip(kinds.MISSING or "the simulator is too slow", allow_module_level=True)

pytestmark = [
    pytest.mark.usefixtures("tiles"),
    pytest.mark.parametrize("tiles", ["default"], indirect=True),
]

NUMBERS = {"lr": 0.1, "momentum": 0.0, "weight_decay": 0.01, "nesterov": 0.0}
SGD = fffnb.UpdateRule("sgd", NUMBERS, {})


@pytest.fixture
def kind():
    return kinds.Torch()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_more_than_31_bits_of_elements(dtype, kind):
    torch = kind.torch
    n, depth, batch = 1028, 20, 64
    n_nodes = 2**depth - 1
    size = n_nodes * 2 * n * (4 if dtype == "float32" else 2)
    assert n_nodes * 2 * n > 2**31
    running._rooms.of.clear()
    torch.cuda.empty_cache()
    if torch.cuda.mem_get_info()[0] < 2.5 * size:
        pytest.skip(f"needs {2.5 * size / 2**30:.0f} GiB of free GPU memory")
    kept, torch_dtype = torch.Generator("cuda").manual_seed(0), getattr(torch, dtype)
    nodes = torch.empty(1, n_nodes, 2 * n, device="cuda", dtype=torch_dtype)
    nodes.normal_(0, n**-0.5, generator=kept)
    x, grad_y = (
        torch.empty(batch, n, device="cuda", dtype=torch_dtype).normal_(generator=kept)
        for _ in range(2)
    )
    # A large bias sends all samples to the last nodes of each level, then they go their own way.
    bias = torch.zeros(1, n_nodes, device="cuda")
    for level in range(depth - 8):
        bias[0, 2 ** (level + 1) - 2] = 1000
    options = {"bias": bias, "activation": "tanh", "return_trace": True}
    y, trace = fffnb.fff_forward(x, nodes, **options)
    path = paths(torch, trace, depth)
    assert (path[:, -1] * 2 * n > 2**31).all() and len(path[:, -1].unique()) > 10
    check_large(torch, dtype, nodes, x, grad_y, y, trace, path)


def paths(torch, trace, depth):
    """Return the nodes that each sample visits."""
    leaves = trace.leaves[:, 0].long()
    return (leaves[:, None] + 2**depth >> (depth - torch.arange(depth, device="cuda"))) - 1


def check_large(torch, dtype, nodes, x, grad_y, y, trace, path):
    """Compare all results on the visited rows with float64 ones."""
    n, bound = x.shape[1], 1e-5 if dtype == "float32" else 2.0**-8
    rows, scores = nodes[0][path].double(), trace.scores[:, 0].double()
    before = nodes[0][path.unique()].clone()
    dots = torch.einsum("bn,bdn->bd", x.double(), rows[..., :n])
    free = slice(-8, None)  # the bias is in the scores of the others
    close(scores[:, free], dots[:, free], 1e-5)
    assert ((scores > 0)[:, :-1] == (path[:, 1:] == 2 * path[:, :-1] + 2)).all()
    coefs = scores.tanh()
    close(y.double(), torch.einsum("bd,bdn->bn", coefs, rows[..., n:]), bound)
    slopes = torch.einsum("bn,bdn->bd", grad_y.double(), rows[..., n:]) * (1 - coefs**2)
    grad_x = torch.einsum("bd,bdn->bn", slopes, rows[..., :n])
    visited, which = path.unique(return_inverse=True)
    expected = torch.zeros(len(visited), 2 * n, device="cuda", dtype=torch.float64)
    parts = slopes[..., None] * x.double()[:, None], coefs[..., None] * grad_y.double()[:, None]
    expected.index_add_(0, which.flatten(), torch.cat(parts, 2).flatten(0, 1))
    dense = fffnb.fff_backward(grad_y, x, nodes, trace)
    close(dense.x.double(), grad_x, bound)
    close(dense.nodes[0][visited].double(), expected, bound)
    del dense
    sparse = fffnb.fff_backward(grad_y, x, nodes, trace, sparse=True).nodes
    count = int(sparse.count)
    assert (sparse.rows[:count] == visited).all()
    close(sparse.values[:count].double(), expected, bound)
    if dtype == "float32":
        fffnb.fff_backward_update(grad_y, x, nodes, trace, SGD)
        stepped = before.double() - 0.1 * (expected + 0.01 * before.double())
        close(nodes[0][visited].double(), stepped, bound)


def close(found, right, bound):
    """Check the root mean square of an error against that of the result."""
    assert (found - right).square().mean().sqrt() <= bound * right.square().mean().sqrt()
