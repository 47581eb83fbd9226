# mypy: ignore-errors
"""The forward pass of one tree in plain Triton, as a good engineer writes it in an hour."""

import torch
import triton
import triton.language as tl


@triton.jit
def walk(
    x,
    nodes,
    y,
    n_in: tl.constexpr,
    n_out: tl.constexpr,
    depth: tl.constexpr,
    block_in: tl.constexpr,
    block_out: tl.constexpr,
):
    """Send the sample of this program down the tree, x and y in registers."""
    sample = tl.program_id(0).to(tl.int64)
    columns_in, columns_out = tl.arange(0, block_in), tl.arange(0, block_out)
    values = tl.load(x + sample * n_in + columns_in, mask=columns_in < n_in, other=0.0)
    mixed = tl.zeros((block_out,), tl.float32)
    node = tl.full((), 0, tl.int64)
    for _ in range(depth):
        row = nodes + node * (n_in + n_out)
        x_vector = tl.load(row + columns_in, mask=columns_in < n_in, other=0.0)
        y_vector = tl.load(row + n_in + columns_out, mask=columns_out < n_out, other=0.0)
        score = tl.sum(values * x_vector)
        mixed += score * y_vector
        node = 2 * node + 1 + (score > 0).to(tl.int64)
    tl.store(y + sample * n_out + columns_out, mixed, mask=columns_out < n_out)


def forward(x: torch.Tensor, nodes: torch.Tensor) -> torch.Tensor:
    """Return y (batch, n_out): one program of 4 warps for each sample, float32."""
    batch, n_in = x.shape
    n_out, depth = nodes.shape[2] - n_in, nodes.shape[1].bit_length()
    y = torch.empty((batch, n_out), device=x.device)
    blocks = triton.next_power_of_2(n_in), triton.next_power_of_2(n_out)
    walk[(batch,)](x, nodes, y, n_in, n_out, depth, *blocks, num_warps=4)
    return y
