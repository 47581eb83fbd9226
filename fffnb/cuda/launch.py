"""Compiling and starting CUDA kernels: the only place that configures and launches.

A kernel body names its arrays by flat index, so that one body serves two forms: pointers, compiled
ahead of the call and started by the driver with next to no work on the host, and arrays, which the
simulator takes (and `numba.cuda` on hardware, for inspection).
"""

from __future__ import annotations

import ctypes
import functools
import sys
import threading
from collections.abc import Callable
from typing import Any, Protocol

from numba import cuda, types

from . import cache
from .simt import REAL, WARP
from .simt import SIMULATED as SIMULATED

#: Types of stored numbers, as kernels see them: 16-bit floats are converted by hand.
STORED = {
    "float32": types.float32,
    "float64": types.float64,
    "float16": types.uint16,
    "bfloat16": types.uint16,
}

#: Registers of a multiprocessor, each quarter of which takes a quarter of a block's warps.
REGISTERS = 65_536
QUARTERS = 4

#: Passes of each kind, and launches of each kernel, that are kept ready.
KEPT = 1024

_cuda: Any = cuda


class Kernel:
    """A kernel body and the kinds of its arguments.

    A signature names for each argument what it is: "int" and "float", which come last, are scalars
    of 64 bits, every other word an array: of "stored" numbers, of "real" ones to compute with, of
    bool, int32 or int64. All launches of a kernel have blocks of the same size. Blocks form
    clusters of so many.
    """

    def __init__(
        self, body: Callable[..., None], kind: str, signature: tuple[str, ...], cluster: int = 1
    ) -> None:
        self.body = body
        self.cluster = cluster
        self.kind = kind
        self.signature = signature
        self._loaded: dict[int, Any] = {}
        self._handles: dict[int, ctypes.c_void_p] = {}
        self._bound: dict[tuple[int, tuple[int, ...], int], Callable[..., None]] = {}

    def types(self) -> tuple[Any, ...]:
        """Return the types of the pointer form."""
        known = {
            "int": types.int64,
            "float": types.float64,
            "stored": STORED[self.kind],
            "real": REAL[self.kind],
            "bool": types.uint8,
            "int32": types.int32,
            "int64": types.int64,
        }
        scalars = ("int", "float")
        pointer: Any = types.CPointer
        return tuple(
            known[word] if word in scalars else pointer(known[word]) for word in self.signature
        )

    def ptx(self, capability: tuple[int, int]) -> str:
        """Return the code of the pointer form for a compute capability."""
        options: dict[str, Any] = {"device": False, "abi": "numba", "output": "ptx"}
        code, _ = _cuda.compile(self.body, self.types(), cc=capability, **options)
        if self.cluster == 1:
            return str(code)
        head, brace, rest = str(code).partition("\n{")  # of the entry, which is the last to come
        return f"{head}\n.reqnctapercluster {self.cluster}, 1, 1{brace}{rest}"

    @functools.cached_property
    def simulated(self) -> Any:
        """The array form."""
        return _cuda.jit(self.body)

    def bind(self, device: int, grid: tuple[int, ...], block: int) -> Callable[..., None]:
        """Return start(stream, *arguments) of so many threads on a device.

        A stream is given by its handle, an array by its address (flat in the simulator).
        """
        place = device, grid, block
        if place not in self._bound:
            if len(self._bound) == KEPT:
                self._bound.clear()
            self._bound[place] = self._bind(*place)
        return self._bound[place]

    def _bind(self, device: int, grid: tuple[int, ...], block: int) -> Callable[..., None]:
        if SIMULATED:
            return lambda stream, *arguments: self.simulated[grid, block](*arguments)
        n_integers = len(self.signature) - self.signature.count("float")
        launch, sizes = driver().cuLaunchKernel, [ctypes.c_uint(n) for n in (*grid, block, 1, 1, 0)]

        def start(stream: int, *arguments: Any) -> None:
            handle = self._handles.get(device) or self._load(device, block, stream)
            room = _room
            if len(arguments) == n_integers:
                room.values[:n_integers] = arguments
            else:
                room.values[:n_integers] = arguments[:n_integers]
                room.floats[n_integers : len(arguments)] = arguments[n_integers:]
            status = launch(handle, *sizes, stream, room.places, None)
            if status != 0:
                raise RuntimeError(f"the CUDA driver refused a launch with error {status}")

        return start

    def _load(self, device: int, block: int, stream: int) -> Any:
        """Compile for a device, which is current, and return the driver's handle."""
        if is_capturing(stream):
            raise RuntimeError(
                "the stream is capturing a graph, and this kernel is not compiled yet: "
                "call the function once before the capture"
            )
        from cuda.core import ObjectCode

        capability = capability_of(device)
        registers = registers_of(block)
        target = f"sm_{capability[0]}{capability[1]}, {registers} registers"
        key = cache.key_of(self.body, self.types(), target)
        name, code = cache.load(key) or self._compile(key, capability, registers)
        self._loaded[device] = ObjectCode.from_cubin(code).get_kernel(name)
        self._handles[device] = ctypes.c_void_p(int(self._loaded[device].handle))
        return self._handles[device]

    def _compile(self, key: str, capability: tuple[int, int], registers: int) -> tuple[str, bytes]:
        """Return the name and the machine code of the pointer form, and keep them."""
        from cuda.core import Program, ProgramOptions

        ptx = self.ptx(capability)
        name = next(line.split("(")[0].split()[-1] for line in ptx.splitlines() if ".entry" in line)
        options = ProgramOptions(
            arch=f"sm_{capability[0]}{capability[1]}", max_register_count=registers
        )
        code = bytes(Program(ptx, "ptx", options).compile("cubin").code)
        cache.save(key, name, code)
        return name, code


class Call(Protocol):
    """Where the kernels of a call run, and where their scratch comes from."""

    @property
    def stream(self) -> int:
        """The handle of the stream."""

    def take(self, size: int, dtype: str) -> Any:
        """Return the address of memory for `size` numbers."""


class _Room(threading.local):
    """Where a thread puts the arguments of a launch, which the driver copies, and its device."""

    def __init__(self) -> None:
        self.values: Any = (ctypes.c_int64 * 32)()
        self.floats: Any = (ctypes.c_double * 32).from_buffer(self.values)
        first, size = ctypes.addressof(self.values), ctypes.sizeof(ctypes.c_int64)
        places = (ctypes.c_void_p * 32)(*range(first, first + 32 * size, size))
        self.keep, self.places = places, ctypes.c_void_p(ctypes.addressof(places))
        number = ctypes.c_int()
        self.device = number, ctypes.byref(number)


_room = _Room()


def registers_of(block: int) -> int:
    """Return how many registers a thread may have, so that a block fits on a multiprocessor."""
    warps = -(-block // (QUARTERS * WARP)) * QUARTERS
    return min(255, REGISTERS // (warps * WARP) // 8 * 8)


@functools.cache
def driver() -> Any:
    """Return the driver's library."""
    library = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    pointer, size = ctypes.c_void_p, ctypes.c_uint
    library.cuLaunchKernel.argtypes = [pointer, *[size] * 7, pointer, pointer, pointer]
    return library


@functools.cache
def capability_of(device: int) -> tuple[int, int]:
    """Return the compute capability of a device."""
    from cuda.core import Device

    major, minor = Device(device).compute_capability
    return int(major), int(minor)


@functools.cache
def memory_of(device: int) -> int:
    """Return how many bytes of memory a device has."""
    if SIMULATED:
        return sys.maxsize
    handle, size = ctypes.c_int(), ctypes.c_size_t()
    driver().cuDeviceGet(ctypes.byref(handle), device)
    driver().cuDeviceTotalMem_v2(ctypes.byref(size), handle)
    return size.value


def has_clusters(device: int) -> bool:
    """Return whether blocks of a device form clusters, which share their memory."""
    return not SIMULATED and capability_of(device) >= (9, 0)


def is_capturing(stream: int) -> bool:
    """Return whether a stream records a graph."""
    if SIMULATED:
        return False
    state = ctypes.c_int()
    driver().cuStreamIsCapturing(ctypes.c_void_p(stream), ctypes.byref(state))
    return state.value != 0


def zero(stream: int, address: Any, size: int) -> None:
    """Fill `size` bytes with zeros."""
    if SIMULATED:
        address[:] = 0
    else:
        driver().cuMemsetD8Async(
            ctypes.c_uint64(address), 0, ctypes.c_size_t(size), ctypes.c_void_p(stream)
        )


def enter(device: int) -> Any:
    """Make a device current in this thread; return what was before, None if it was the same."""
    if SIMULATED:
        return None
    number, place = _room.device
    if driver().cuCtxGetDevice(place) == 0 and number.value == device:
        return None
    from cuda.core import Device

    before = ctypes.c_void_p()
    driver().cuCtxGetCurrent(ctypes.byref(before))
    Device(device).set_current()
    return before


def leave(before: Any) -> None:
    """Go back to what `enter` found."""
    if before is not None:
        driver().cuCtxSetCurrent(before)
