"""Kernels for NVIDIA GPUs: `launch` starts them, for the forms and for `steps` of rows.

They need numba-cuda, which `pip install 'fffnb[cu13]'` (or cu12) brings. The modules are imported
on their first use, after `support` has said in words what is missing.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import (
        bag,
        bag_positive,
        balance,
        flat,
        keys,
        launch,
        leaf,
        leaf_soft,
        soft,
        steps,
        straight,
        support,
        tree,
    )

__all__ = ["bag", "bag_positive", "balance", "flat", "keys", "launch", "leaf", "leaf_soft", "soft"]
__all__ += ["steps", "straight", "support", "tree"]


def __getattr__(name: str) -> ModuleType:
    """Import a module of kernels."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name != "support":
        importlib.import_module(".support", __name__).require()
    return importlib.import_module(f".{name}", __name__)
