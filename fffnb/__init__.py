"""Fast FeedForward networks on CPU and GPU, from NumPy.

A Fast FeedForward (FFF) layer puts its neurons in a binary tree and visits one root-to-leaf path:
``depth`` neurons instead of ``2**depth - 1``, in the forward and in the backward pass.

`fff_forward`, `fff_backward` and `fff_backward_update` are the layer; `init_nodes`, `pack_nodes`
and `split_nodes` make its nodes. Other forms have ops of the same pattern: ``flat_``, where one
hyperplane a level chooses the path; ``bag_``, where a sample chooses among all nodes; ``keys_``,
product keys, which do so for a million nodes. `fffnb.nn` is a small trainer, `fffnb.data` reads
data sets. `FFF` is the layer for any of several libraries, which `fffnb.bridges` knows.
"""

from __future__ import annotations

import importlib
from typing import Any

from .init import init_bag, init_flat, init_keys, init_leaf, init_nodes
from .leaves import LeafBias
from .nodes import count_nodes, default_depth, depth_of, pack_nodes, split_nodes
from .ops.bag import bag_backward, bag_forward
from .ops.bag_trace import BagTrace
from .ops.balance import balance_bias, balance_loss
from .ops.flat import flat_backward, flat_backward_update, flat_forward
from .ops.flat_trace import FlatGradients, FlatTrace
from .ops.hardening import hardening_loss
from .ops.keys import keys_backward, keys_forward
from .ops.keys_trace import KeysGradients, KeysTrace
from .ops.leaf import leaf_backward, leaf_forward
from .ops.leaf_soft import leaf_backward_soft, leaf_forward_soft
from .ops.leaf_trace import LeafGradients, LeafSoftTrace, LeafTrace
from .ops.orthogonality import orthogonality_loss
from .ops.rules import RowGradient, UpdateRule
from .ops.soft import fff_backward_soft, fff_forward_soft
from .ops.soft_trace import SoftTrace
from .ops.straight import straight_through
from .ops.trace import Gradients, Trace
from .ops.transfer import to_device
from .ops.tree import fff_backward, fff_backward_update, fff_forward
from .ops.update import update_rows
from .ops.usage import Usage, usage

__version__ = "0.1.0"

__all__ = [
    "FFF",
    "BagTrace",
    "FlatGradients",
    "FlatTrace",
    "Gradients",
    "KeysGradients",
    "KeysTrace",
    "LeafBias",
    "LeafGradients",
    "LeafSoftTrace",
    "LeafTrace",
    "RowGradient",
    "SoftTrace",
    "Trace",
    "UpdateRule",
    "Usage",
    "bag_backward",
    "bag_forward",
    "balance_bias",
    "balance_loss",
    "bridges",
    "count_nodes",
    "data",
    "default_depth",
    "depth_of",
    "fff_backward",
    "fff_backward_soft",
    "fff_backward_update",
    "fff_forward",
    "fff_forward_soft",
    "flat_backward",
    "flat_backward_update",
    "flat_forward",
    "hardening_loss",
    "init_bag",
    "init_flat",
    "init_keys",
    "init_leaf",
    "init_nodes",
    "keys_backward",
    "keys_forward",
    "leaf_backward",
    "leaf_backward_soft",
    "leaf_forward",
    "leaf_forward_soft",
    "nn",
    "orthogonality_loss",
    "pack_nodes",
    "split_nodes",
    "straight_through",
    "to_device",
    "update_rows",
    "usage",
]


def __getattr__(name: str) -> Any:
    """Import the trainer, the data sets and the bridges on their first use: they cost scipy."""
    if name in ("bridges", "data", "nn"):
        return importlib.import_module(f".{name}", __name__)
    if name == "FFF":
        return importlib.import_module(".bridges", __name__).FFF
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
