"""Kernels for the CPU; `jit` compiles and starts them, one module per model calls them.

The modules that need Numba are imported on their first use, so that importing fffnb costs little.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import bag, flat, jit, keys, leaf, leaf_soft, soft, straight, tree, update

__all__ = ["bag", "flat", "jit", "keys", "leaf", "leaf_soft", "soft", "straight", "tree", "update"]


def __getattr__(name: str) -> ModuleType:
    """Import a module of kernels."""
    if name in __all__:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
