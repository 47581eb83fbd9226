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
BYTES = {"float32": 4, "float64": 8, "float16": 2, "bfloat16": 2, "int32": 4, "int64": 8, "bool": 1}

#: The driver's number for it.
OUT_OF_MEMORY = 2


class Facts(NamedTuple):
    """What can be known of a device array without looking at its memory."""

    shape: tuple[int, ...]
    dtype: Any
    contiguous: bool
    device: int
    recorded: bool = False


class Kind:
    """A kind of device arrays: what calls need of its framework."""

    #: How the framework names its arrays, and their type.
    name: str
    type: Any

    #: Whether memory that a captured graph uses must be kept alive here.
    keeps_captured = True

    def facts(self, array: Any) -> Any:
        """Return the facts of an array as a plain tuple, or the type of what is of another kind."""
        if not isinstance(array, self.type):
            return type(array)
        return array.shape, array.dtype, self.contiguous(array), self.device(array)

    def dtype(self, dtype: Any) -> str:
        """Return the name of a dtype."""
        return str(dtype)

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
        torch: Any = sys.modules["torch"]
        self.torch, self.type, self.records = torch, torch.Tensor, torch.is_grad_enabled
        self.raw_stream = getattr(torch._C, "_cuda_getCurrentRawStream", None)  # 30 times as fast

    def facts(self, array: Any) -> Any:
        """Return the facts of an array as a plain tuple, or the type of what is of another kind."""
        if not isinstance(array, self.type):
            return type(array)
        recorded = array.requires_grad and self.records()
        return array.shape, array.dtype, array.is_contiguous(), array.get_device(), recorded

    def dtype(self, dtype: Any) -> str:
        """Return the name of a dtype."""
        return str(dtype).removeprefix("torch.")

    def address(self, array: Any) -> Any:
        """Return where an array starts."""
        return array.data_ptr()

    def device(self, array: Any) -> int:
        """Return the number of the device of an array."""
        return int(array.get_device())

    def stream(self, device: int) -> int:
        """Return the handle of the current stream of a device."""
        if self.raw_stream is not None:
            return int(self.raw_stream(device))
        return int(self.torch.cuda.current_stream(device).cuda_stream)

    def empty(self, shape: tuple[int, ...], dtype: str, like: Any) -> Any:
        """Return a new array on the device of another."""
        return self.torch.empty(shape, dtype=getattr(self.torch, dtype), device=like.device)


class CuPy(Kind):
    """Arrays of CuPy."""

    name = "cupy.ndarray"

    def __init__(self) -> None:
        self.cupy: Any = sys.modules["cupy"]
        self.type = self.cupy.ndarray

    def contiguous(self, array: Any) -> bool:
        """Return whether an array is C-contiguous."""
        return bool(array.flags.c_contiguous)

    def address(self, array: Any) -> Any:
        """Return where an array starts."""
        return array.data.ptr

    def device(self, array: Any) -> int:
        """Return the number of the device of an array."""
        return int(array.data.device_id)

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

    def __init__(self, array_type: type) -> None:
        from numba import cuda as numba_cuda

        self.cuda: Any = numba_cuda
        self.type = array_type
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
        try:
            return self.cuda.device_array(shape, like.dtype if same else np.dtype(dtype))
        except Exception as error:  # of the driver, which does not say how much
            if getattr(error, "code", None) != OUT_OF_MEMORY:
                raise
            free, total = self.cuda.current_context().get_memory_info()
            raise MemoryError(
                f"an array of {BYTES[dtype] * math.prod(shape)} bytes must fit on the device, "
                f"got {free} of {total} bytes free"
            ) from error


@functools.cache
def _kind_of_type(array_type: type) -> Kind | None:
    root = array_type.__module__.partition(".")[0]
    if root == "cupy" and issubclass(array_type, sys.modules["cupy"].ndarray):
        return _cupy()
    if root in ("numba", "numba_cuda") and hasattr(array_type, "copy_to_host"):
        return _numba(array_type)
    torch = sys.modules.get("torch")
    if torch is not None and issubclass(array_type, torch.Tensor):
        return _torch()
    return None


_torch, _cupy, _numba = functools.cache(Torch), functools.cache(CuPy), functools.cache(Numba)


def kind_of(array: object) -> Kind | None:
    """Return the kind of a device array; None for all other objects."""
    array_type = type(array)
    if array_type is np.ndarray:  # most calls
        return None
    kind: Kind | None = _kind_of_type(array_type)  # type: ignore[arg-type]
    return kind


def check_host(name: str, array: object, form: str) -> None:
    """Refuse an array of a device, where a form runs on the CPU alone."""
    kind = kind_of(array)
    if kind is not None:
        raise TypeError(
            f"{name} must be a numpy.ndarray, as {form} on the CPU alone, got a {kind.name}"
        )


class View(NamedTuple):
    """What is known of a device array once it is checked."""

    shape: tuple[int, ...]
    dtype: str


def view(name: str, found: Any, kind: Kind, device: int | None = None) -> View:
    """Return the view of an array with such facts, or say why kernels cannot take it."""
    if isinstance(found, type):
        raise TypeError(
            f"{name} must be a {kind.name} like the nodes or the parameter, "
            f"got {found.__module__}.{found.__qualname__}"
        )
    facts = Facts(*found)
    shape = tuple(facts.shape)
    if facts.device < 0:
        raise TypeError(
            f"{name} is a tensor on the CPU: call fffnb.bridges.torch.fff, which takes trees "
            "there, pass x.numpy(), or move it to a GPU"
        )
    if facts.recorded:
        raise TypeError(
            f"{name} requires grad, which this function does not record: "
            "call fffnb.bridges.torch.fff, which does for trees, or pass x.detach()"
        )
    if not facts.contiguous:
        raise ValueError(
            f"{name} must be C-contiguous on the GPU, got other strides at shape {shape}"
        )
    if device is not None and facts.device != device:
        raise ValueError(
            f"{name} must be on device {device} like the nodes or the parameter, "
            f"got device {facts.device}"
        )
    return View(shape, kind.dtype(facts.dtype))
