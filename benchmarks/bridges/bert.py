"""``python -m benchmarks.bridges bert``: the feed-forward block of a BERT, dense, FFF and masked.

- "dense" is the block of BERT-base, 768 → 3,072 → 768 with GELU and biases;
- "fffnb" the FFF layer that takes its place, 12 levels, 4,095 nodes, GELU and biases;
- "masked" the same forest as UltraFastBERT computes it: the scores of all nodes, and a mask.

A step is forward, backward with the gradient of x, and SGD; in "rows" the gradient of the nodes
holds visited rows alone. Then the same for a whole random BERT, with all that surrounds its blocks.
Outputs are checked first; all have the same threads, and take turns: the times are medians.
"""

from __future__ import annotations

import copy
import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import BertConfig, BertModel

from fffnb import nn
from fffnb.bridges import convert
from fffnb.bridges.bert import set_feed_forward, to_ultrafastbert
from fffnb.bridges.torch import SGD
from fffnb.reference import tree as reference

from ..compare.cpu import threads
from ..peers.masked import Masked
from ..suite.problems import CHECKED, LR, assert_close

#: Tokens in a batch, and up to how many of them a step is timed: it takes three times as long.
TOKENS, STEPS_TO = (128, 1024, 16384), 1024

#: BERT-base's widths and UltraFastBERT's tree.
WIDTH, INNER, DEPTH = 768, 3072, 12

#: A BERT with blocks of 256 → 1,024 → 256, a batch for it, and the levels of its trees.
SMALL = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4}
SMALL_BATCH, SMALL_DEPTH = (8, 128), 10

#: Seconds for which one kind of block is called before it is the next one's turn.
TURN = 0.1

Call = Callable[[Any], object]


def draw_layer(width: int, depth: int, seed: int = 0) -> nn.FFF:
    """Return a layer with random biases."""
    layer = nn.FFF(width, width, depth, activation="gelu", bias=True, rng=seed)
    assert layer.bias is not None
    layer.bias[...] = np.random.default_rng(seed).standard_normal(layer.bias.shape) / 4
    return layer


def masked(layer: nn.FFF) -> Masked:
    """Return a layer as UltraFastBERT computes it."""
    module = Masked(layer.n_in, layer.n_out, layer.depth, layer.n_trees)
    module.load_state_dict(to_ultrafastbert(layer))
    return module


def blocks(width: int, inner: int, depth: int) -> dict[str, torch.nn.Module]:
    """Return the three blocks; the last two are checked."""
    layer = draw_layer(width, depth)
    dense = [torch.nn.Linear(width, inner), torch.nn.GELU(), torch.nn.Linear(inner, width)]
    forests = {"fffnb": convert(layer, "torch"), "masked": masked(layer)}
    check_blocks(layer, forests.values())
    return {"dense": torch.nn.Sequential(*dense), **forests}


def check_blocks(layer: nn.FFF, forests: Any) -> None:
    """Raise AssertionError where an output differs from the truth."""
    x = np.random.default_rng(1).standard_normal((CHECKED, layer.n_in), np.float32)
    right = reference.forward(x, layer.nodes, layer.bias, layer.activation)
    clear = ~right.ambiguous(float(np.finfo(np.float32).eps))
    for module in forests:
        assert_close(module(torch.from_numpy(x)).detach().numpy()[clear], right.y[clear])


def berts(changes: Mapping[str, int], depth: int) -> dict[str, torch.nn.Module]:
    """Return the same random BERT with each kind of block; the last two are checked."""
    config = BertConfig(vocab_size=1000, **changes)
    config.intermediate_size = 4 * config.hidden_size
    dense = BertModel(config, add_pooling_layer=False).eval()
    layers = [draw_layer(config.hidden_size, depth, i) for i in range(config.num_hidden_layers)]
    ours, theirs = (set_feed_forward(copy.deepcopy(dense), layers) for _ in range(2))
    for block, layer in zip(theirs.encoder.layer, layers, strict=True):
        block.intermediate = masked(layer)
    ids = torch.randint(1000, (2, 16))
    with torch.inference_mode():  # in float64, where rounding turns no decision
        found, right = (copy.deepcopy(m).double()(ids)[0].numpy() for m in (ours, theirs))
    assert_close(found, right, 1e-9)
    return {"dense": dense, "fffnb": ours, "masked": theirs}


def forward(module: torch.nn.Module) -> Call:
    """Return the call of a module without gradients."""

    def call(x: Tensor) -> None:
        with torch.inference_mode():
            module(x)

    return call


def step(module: torch.nn.Module) -> Call:
    """Return a training step of a module; its weights stay what they are."""
    optimizer = SGD(module.parameters(), lr=LR)

    def call(x: Tensor) -> None:
        optimizer.zero_grad()
        y = module(x.detach().requires_grad_() if x.is_floating_point() else x)
        (y if isinstance(y, Tensor) else y[0]).sum().backward()
        optimizer.step()

    return call


def with_rows(module: torch.nn.Module) -> torch.nn.Module:
    """Return a copy of a module whose FFF layers have gradients of visited rows alone."""
    module = copy.deepcopy(module)
    for part in module.modules():
        if hasattr(part, "gradient"):
            part.gradient = "rows"
    return module


def steps(modules: Mapping[str, torch.nn.Module]) -> dict[str, Call]:
    """Return the training steps of modules, with one of rows."""
    every = {**modules, "rows": with_rows(modules["fffnb"])}
    return {name: step(module) for name, module in every.items()}


def medians(calls: Mapping[str, Call], inputs: Sequence[Any], seconds: float) -> dict[str, float]:
    """Return the medians of calls that take turns for these seconds, three times at least."""
    for call in calls.values():
        call(inputs[0])
    times: dict[str, list[float]] = {name: [] for name in calls}
    start = time.perf_counter()
    for n, x in enumerate(itertools.cycle(inputs)):
        if n >= 3 and time.perf_counter() - start > seconds:
            break
        for name, call in calls.items():
            times[name] += turn(call, x)
    return {name: statistics.median(taken) for name, taken in times.items()}


def turn(call: Call, x: Any) -> list[float]:
    """Return the times of calls, one after the other, that take `TURN` seconds or are one."""
    times: list[float] = []
    while sum(times) < TURN:
        begin = time.perf_counter()
        call(x)
        times.append(time.perf_counter() - begin)
    return times


def show(what: str, times: Mapping[str, float]) -> None:
    """Print the times of one case, and how many times as long as fffnb the others take."""
    ours = min(times["fffnb"], times.get("rows", times["fffnb"]))
    cells = (f"{name} {1e3 * t:9.2f} ms ({t / ours:5.1f}×)" for name, t in times.items())
    print(f"{what:28} " + "  ".join(cells), flush=True)


def show_blocks(tokens: Sequence[int], seconds: float, sizes: tuple[int, int, int]) -> None:
    """Print the times of the three blocks."""
    modules = blocks(*sizes)
    for n in tokens:
        inputs = torch.randn(4, n, sizes[0])
        calls = {name: forward(module) for name, module in modules.items()}
        show(f"block, {n:,} tokens, forward", medians(calls, inputs, seconds))
        if n <= STEPS_TO:
            show(f"block, {n:,} tokens, step", medians(steps(modules), inputs, seconds))


def show_berts(seconds: float, changes: Mapping[str, int], depth: int) -> None:
    """Print the times of whole models."""
    modules = berts(changes, depth)
    inputs = torch.randint(1000, (4, *SMALL_BATCH))
    calls = {name: forward(module) for name, module in modules.items()}
    show("BERT, forward", medians(calls, inputs, seconds))
    show("BERT, step", medians(steps(modules), inputs, seconds))


def main() -> None:
    """Print all times, in about a minute."""
    threads.share()
    torch.manual_seed(0)
    print("medians, and how many times as long as the faster of fffnb and rows")
    show_blocks(TOKENS, 3.0, (WIDTH, INNER, DEPTH))
    show_berts(3.0, SMALL, SMALL_DEPTH)
