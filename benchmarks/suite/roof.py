"""What the machine could do, and what a dense layer does: fractions and ratios, without a unit.

The roof is the larger of two times, both of rates that are measured beside the call: that of the
arithmetic at the rate of a matrix product, and that of the bytes, each read or written once, at the
bandwidth of an array of as many bytes. The dense layer has a neuron for each node of the tree.
"""

from __future__ import annotations

from functools import partial

from benchmarks.machine import median_seconds, read_bandwidth, sgemm_rate
from benchmarks.peers.dense import Dense

from .forward import forward
from .problems import CASES, Sizes, problem
from .truth import Truth


def roof_seconds(sizes: Sizes) -> float:
    """Return the least time of a forward pass: a dot product and a sum at every node of a path."""
    x, nodes, _, trace = problem(sizes)
    width = sizes.n_in + sizes.n_out
    n_rows = len(Truth(x, nodes, trace.leaves).rows)
    operations = 2 * sizes.batch * sizes.depth * sizes.n_trees * width
    n_bytes = 4 * width * (n_rows + sizes.batch)
    return max(operations / sgemm_rate(), n_bytes / read_bandwidth(n_bytes))


class Roof:
    """The fraction of the roof that the forward pass reaches in batches longer than a call."""

    params = (("batch=1024", "batch=8192"),)
    param_names = ("case",)
    unit = "of the roof"

    def track_forward(self, case: str) -> float:
        """Return that of the forward pass."""
        seconds = median_seconds(forward(CASES[case]))
        return roof_seconds(CASES[case]) / seconds


class SpeedUp:
    """The time of the dense layer over ours; of widths n_nodes and n_nodes + 1 the faster.

    The batch repeats, so the rows of its paths are in a cache, as the dense layer's weights are
    where they fit: at batch 1 that is worth more than reading fewer of them.
    """

    params = (("batch=1", "base"),)
    param_names = ("case",)
    unit = "times"

    def track_forward(self, case: str) -> float:
        """Return that of the forward pass."""
        n_in, n_out, depth, *_ = CASES[case]
        x, *_ = problem(CASES[case])
        ours = median_seconds(forward(CASES[case]))
        layers = (Dense(n_in, 2**depth - aligned, n_out).forward for aligned in (1, 0))
        return min(median_seconds(partial(layer, x), least=3) for layer in layers) / ours
