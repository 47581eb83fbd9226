"""PyTorch: the FFF layer, its function, and optimisers that step visited rows alone.

CPU tensors are lent to the kernels without copies, CUDA tensors stay on their GPU and stream.
"""

from __future__ import annotations

from .. import missing

try:
    import torch  # noqa: F401
except ModuleNotFoundError as error:
    raise missing("torch", "torch") from error

from .flat import FlatFFF, flat
from .function import fff
from .layer import FFF
from .optim import SGD, AdamW

__all__ = ["FFF", "SGD", "AdamW", "FlatFFF", "fff", "flat"]
