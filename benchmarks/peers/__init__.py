"""What fffnb is compared with: plain, short implementations, checked like our own."""

from __future__ import annotations

import importlib.util

#: What the peers are written in, by the module that is imported.
LIBRARIES = {"torch": "PyTorch", "jax": "JAX", "triton": "Triton", "threadpoolctl": "threadpoolctl"}


def installed(module: str) -> bool:
    """Return whether a library of `LIBRARIES` is there."""
    return importlib.util.find_spec(module) is not None


def missing(*modules: str) -> list[str]:
    """Return a sentence for each of these libraries that is not there: how to install it."""
    return [
        f"{LIBRARIES[module]} is not installed: python -m pip install '.[peers]'"
        for module in modules
        if not installed(module)
    ]
