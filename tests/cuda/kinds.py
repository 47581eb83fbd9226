"""Kinds of device arrays: how tests make them and look into them."""

import importlib
import warnings

import numba
import numpy as np
import pytest

from fffnb import cuda

SIMULATED = bool(numba.config.ENABLE_CUDASIM)


def _missing():
    try:
        cuda.support.require()
    except RuntimeError as error:
        return f"{error}; NUMBA_ENABLE_CUDASIM=1 simulates one"
    return None


#: Why no kernel can run here; None where they can.
MISSING = _missing()

NAMES = ("numba",) if SIMULATED else ("numba", "torch", "cupy")


def round_to(array, dtype):
    """Return an array rounded to a dtype, which NumPy may not have."""
    if dtype != "bfloat16":
        return array.astype(dtype)
    bits = array.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def framework(name):
    """Return a framework, which may warn while it is imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name)


def poison(dtype):
    """Return what cannot pass for a result."""
    if dtype == "bool":
        return True
    return np.nan if "float" in dtype else np.iinfo(dtype).min // 2


class StoredBfloat16(str):
    name = "bfloat16"


class Numba:
    name = "Numba device array"
    dtypes = ("float32", "float64", "float16", *(("bfloat16",) if SIMULATED else ()))

    def __init__(self):
        self.cuda = importlib.import_module("numba.cuda")
        self.type = type(self.cuda.device_array(1))

    def put(self, array, dtype=None):
        if dtype == "bfloat16":
            return self.as_bfloat16((round_to(array, dtype).view(np.uint32) >> 16).astype("u2"))
        return self.cuda.to_device(np.array(array, dtype, order="C"))

    def as_bfloat16(self, bits):
        """Return an array of the simulator that says it holds what NumPy has not."""
        array = self.cuda.to_device(bits)
        array.dtype = StoredBfloat16("bfloat16")
        return array

    def get(self, array):
        host = array.copy_to_host()
        if array.dtype.name == "bfloat16":
            return (host.astype(np.uint32) << 16).view(np.float32)
        return host

    def empty(self, empty, shape, dtype, like):
        """Return what `empty` gives, filled with `poison`."""
        if dtype == "bfloat16":
            return self.as_bfloat16(np.full(shape, 0xFFFF, np.uint16))
        array = empty(shape, dtype, like)
        if array.size > 0:
            array.copy_to_device(np.full(shape, poison(dtype), dtype))
        return array


class Torch:
    name = "torch.Tensor"
    dtypes = ("float32", "float64", "float16", "bfloat16")

    def __init__(self):
        self.torch = framework("torch")
        if not self.torch.cuda.is_available():
            pytest.skip("this PyTorch has no GPU")
        self.type = self.torch.Tensor

    def put(self, array, dtype=None):
        tensor = self.torch.from_numpy(np.array(array, order="C")).to("cuda")
        return tensor.to(getattr(self.torch, dtype)) if dtype else tensor

    def get(self, array):
        small = array.dtype == self.torch.bfloat16
        return (array.float() if small else array).cpu().numpy()

    def empty(self, empty, shape, dtype, like):
        return empty(shape, dtype, like).fill_(poison(dtype))


class CuPy:
    name = "cupy.ndarray"
    dtypes = ("float32", "float64", "float16")

    def __init__(self):
        self.cupy = framework("cupy")
        self.type = self.cupy.ndarray

    def put(self, array, dtype=None):
        return self.cupy.array(array, dtype, order="C")

    def get(self, array):
        return array.get()

    def empty(self, empty, shape, dtype, like):
        array = empty(shape, dtype, like)
        array.fill(poison(dtype))
        return array


CLASSES = {"numba": Numba, "torch": Torch, "cupy": CuPy}
