"""Tensors on their way to ops and back: which are taken, how they are lent."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

DEVICES = ("cpu", "cuda")


def admit(x: Any, **parameters: Any) -> Tensor:
    """Return samples, under autocast in the dtype of the first parameter.

    Refuse what is no tensor of floats, or on another device than the first parameter; a parameter
    may be None.
    """
    first, like = next(iter(parameters.items()))
    for name, tensor in {**parameters, "x": x}.items():
        if tensor is not None:
            _check_tensor(name, tensor, like, first)
    if x.device.type in DEVICES and torch.is_autocast_enabled(x.device.type):
        x = x.to(like.dtype)
    return x


def _check_tensor(name: str, tensor: Any, like: Tensor, of: str) -> None:
    """Refuse what is no tensor of floats beside a parameter, `of` its name."""
    if not isinstance(tensor, Tensor):
        kind = type(tensor)
        raise TypeError(f"{name} must be a torch.Tensor, got {kind.__module__}.{kind.__qualname__}")
    if not tensor.is_floating_point():
        raise TypeError(f"{name} must hold floats, got {tensor.dtype}")
    if tensor.device != like.device:
        raise RuntimeError(f"{name} must be on {like.device} like {of}, got {tensor.device}")


def check_gradient(gradient: str) -> None:
    """Refuse an unknown way in which gradients come."""
    if gradient not in ("dense", "rows"):
        raise ValueError(f"gradient must be 'dense' or 'rows', got {gradient!r}")


def lend(tensor: Tensor | None) -> Any:
    """Return a tensor as ops take it: its memory as NumPy's on the CPU, itself on a GPU."""
    if tensor is None:
        return None
    tensor = tensor.detach()
    return tensor.numpy() if tensor.device.type == "cpu" else tensor


def take(array: Any) -> Tensor:
    """Return what ops return as a tensor, with the same memory."""
    return torch.from_numpy(array) if isinstance(array, np.ndarray) else array


def copied(tensor: Tensor) -> Any:
    """Return a copy of a tensor as a NumPy array."""
    return tensor.detach().cpu().numpy().copy()


def real_of(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of scores and biases beside nodes of a dtype."""
    return torch.float64 if dtype == torch.float64 else torch.float32
