"""PyTorch: the layers of all forms, their functions, and optimisers that step visited rows alone.

CPU tensors are lent to the kernels without copies, CUDA tensors stay on their GPU and stream.
"""

from __future__ import annotations

from .. import missing

try:
    import torch  # noqa: F401
except ModuleNotFoundError as error:
    raise missing("torch", "torch") from error

from .bag import BagFFF, bag
from .balance import balance_loss
from .flat import FlatFFF, flat
from .function import fff
from .hardening import hardening_loss
from .keys import ProductKeyFFF, keys
from .layer import FFF
from .leaf import LeafFFF, leaf, leaf_soft
from .optim import SGD, AdamW
from .soft import SoftFFF, fff_soft

__all__ = [
    "FFF",
    "SGD",
    "AdamW",
    "BagFFF",
    "FlatFFF",
    "LeafFFF",
    "ProductKeyFFF",
    "SoftFFF",
    "bag",
    "balance_loss",
    "fff",
    "fff_soft",
    "flat",
    "hardening_loss",
    "keys",
    "leaf",
    "leaf_soft",
]
