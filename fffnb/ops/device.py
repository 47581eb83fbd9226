"""Arrays on a GPU: whose they are, where they lie, and what is known of them.

Frameworks are found in `sys.modules`: who holds one of their arrays has imported them.
"""

from __future__ import annotations

import functools
import math
import sys
from typing import Any, NamedTuple

import numpy as np

from .. import cuda

#: Bytes of a number, by the names of all dtypes that kernels know.
BYTES = {"float32": 4, "float64": 8, "float16": 2, "bfloat16": 2, "int32": 4, "int64": 8}


class Kind:
    """A kind of device arrays: what calls need of its framework."""

    #: How the framework names its arrays.
    name: str

    #: Whether memory that a captured graph uses must be kept alive here.
    keeps_captured = True

    def refusal(self, array: Any) -> str | None:
        """Return why an array cannot be taken, if there is a reason."""
        return None

    def dtype(self, array: Any) -> str:
        """Return the name of an array's dtype."""
        return str(array.dtype.name)

    def contiguous(self, array: Any) -> bool:
        """Return whether an array is C-contiguous."""
        raise NotImplementedError

    def address(self, array: Any) -> Any:
        """Return where an array starts; in the simulator, the array flattened."""
        raise NotImplementedError

    def device(self, array: Any) -> int:
        """Return the number of the device of an array."""
        raise NotImplementedError

    def stream(self, device: int) -> int:
        """Return the handle of the current stream of a device."""
        raise NotImplementedError

    def empty(self, shape: tuple[int, ...], dtype: str, like: Any) -> Any:
        """Return a new array on the device of another."""
        raise NotImplementedError


class Torch(Kind):
    """CUDA tensors of PyTorch."""

    name = "torch.Tensor"
    keeps_captured = False  # the graph's own pool holds it

    def __init__(self) -> None:
        self.torch: Any = sys.modules["torch"]
        self.names = {getattr(self.torch, name): name for name in BYTES}

    def refusal(self, array: Any) -> str | None:
        """Return why an array cannot be taken, if there is a reason."""
        if not array.is_cuda:
            return f"is a tensor on {array.device}: pass x.numpy(), or move it to a GPU"
        if array.requires_grad and self.torch.is_grad_enabled():
            return "requires grad, which this function does not record: pass x.detach()"
        return None

    def dtype(self, array: Any) -> str:
        """Return the name of an array's dtype."""
        return self.names.get(array.dtype) or str(array.dtype)

    def contiguous(self, array: Any) -> bool:
        """Return whether an array is C-contiguous."""
        return bool(array.is_contiguous())

    def address(self, array: Any) -> Any:
        """Return where an array starts."""
        return array.data_ptr()

    def device(self, array: Any) -> int:
        """Return the number of the device of an array."""
        return int(array.get_device())

    def stream(self, device: int) -> int:
        """Return the handle of the current stream of a device."""
        try:
            return int(self.torch._C._cuda_getCurrentRawStream(device))  # 30 times as fast
        except AttributeError:
            return int(self.torch.cuda.current_stream(device).cuda_stream)

    def empty(self, shape: tuple[int, ...], dtype: str, like: Any) -> Any:
        """Return a new array on the device of another."""
        return self.torch.empty(shape, dtype=getattr(self.torch, dtype), device=like.device)


class CuPy(Kind):
    """Arrays of CuPy."""

    name = "cupy.ndarray"

    def __init__(self) -> None:
        self.cupy: Any = sys.modules["cupy"]

    def contiguous(self, array: Any) -> bool:
        """Return whether an array is C-contiguous."""
        return bool(array.flags.c_contiguous)

    def address(self, array: Any) -> Any:
        """Return where an array starts."""
        return array.data.ptr

    def device(self, array: Any) -> int:
        """Return the number of the device of an array."""
        return int(array.device.id)

    def stream(self, device: int) -> int:
        """Return the handle of the current stream of a device."""
        return int(self.cupy.cuda.get_current_stream().ptr)

    def empty(self, shape: tuple[int, ...], dtype: str, like: Any) -> Any:
        """Return a new array on the device of another."""
        with like.device:
            return self.cupy.empty(shape, like.dtype if like.dtype.name == dtype else dtype)


class Numba(Kind):
    """Device arrays of numba-cuda, also of its simulator."""

    name = "Numba device array"

    def __init__(self) -> None:
        from numba import cuda as numba_cuda

        self.cuda: Any = numba_cuda
        self.simulated = cuda.launch.SIMULATED

    def contiguous(self, array: Any) -> bool:
        """Return whether an array is C-contiguous."""
        return bool(array.is_c_contiguous())

    def address(self, array: Any) -> Any:
        """Return where an array starts; in the simulator, the array flattened."""
        if self.simulated:
            return array.reshape(array.size)
        return array.device_ctypes_pointer.value or 0

    def device(self, array: Any) -> int:
        """Return the number of the device of an array."""
        return 0 if self.simulated else int(array.gpu_data.context.device.id)

    def stream(self, device: int) -> int:
        """Return the handle of the current stream of a device: Numba has the default one."""
        return 0

    def empty(self, shape: tuple[int, ...], dtype: str, like: Any) -> Any:
        """Return a new array on the device of another."""
        same = like.dtype.name == dtype
        return self.cuda.device_array(shape, like.dtype if same else np.dtype(dtype))


_torch, _cupy, _numba = functools.cache(Torch), functools.cache(CuPy), functools.cache(Numba)


def kind_of(array: object) -> Kind | None:
    """Return the kind of a device array; None for all other objects."""
    kind = type(array)
    if kind is np.ndarray:
        return None
    root = kind.__module__.partition(".")[0]
    if root == "cupy" and isinstance(array, sys.modules["cupy"].ndarray):
        return _cupy()
    if root in ("numba", "numba_cuda") and hasattr(array, "copy_to_host"):
        return _numba()
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(array, getattr(torch, "Tensor", ())):
        return _torch()
    return None


class View(NamedTuple):
    """What is known of a device array once it is checked."""

    shape: tuple[int, ...]
    dtype: str
    address: Any

    @property
    def stop(self) -> Any:
        """Where the array ends."""
        return self.address + BYTES[self.dtype] * math.prod(self.shape)


def view(name: str, array: Any, kind: Kind, device: int | None = None) -> View:
    """Return an array as kernels see it, or say why they cannot take it."""
    if kind_of(array) is not kind:
        came = type(array)
        raise TypeError(
            f"{name} must be a {kind.name} like the nodes or the parameter, "
            f"got {came.__module__}.{came.__qualname__}"
        )
    refusal = kind.refusal(array)
    if refusal:
        raise TypeError(f"{name} {refusal}")
    shape = tuple(array.shape)
    if not kind.contiguous(array):
        raise ValueError(
            f"{name} must be C-contiguous on the GPU, got other strides at shape {shape}"
        )
    if device is not None and kind.device(array) != device:
        raise ValueError(
            f"{name} must be on device {device} like the nodes or the parameter, "
            f"got device {kind.device(array)}"
        )
    return View(shape, kind.dtype(array), kind.address(array))
