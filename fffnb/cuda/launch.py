"""Compiling and starting CUDA kernels: the only place that configures and launches.

A kernel body names its arrays by flat index, so that one body serves two forms: pointers, compiled
ahead of the call and started by the driver with next to no work on the host, and arrays, which the
simulator takes (and `numba.cuda` on hardware, for inspection).
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any

from numba import cuda, types

from .simt import REAL
from .simt import SIMULATED as SIMULATED

#: Types of stored numbers, as kernels see them: 16-bit floats are converted by hand.
STORED = {
    "float32": types.float32,
    "float64": types.float64,
    "float16": types.uint16,
    "bfloat16": types.uint16,
}


_cuda: Any = cuda


class Kernel:
    """A kernel body and the kinds of its arguments.

    A signature names for each argument what it is: "int" and "float", which come last, are scalars
    of 64 bits, every other word an array: of "stored" numbers, of "real" ones to compute with, or
    of int32 or int64.
    """

    def __init__(self, body: Callable[..., None], kind: str, signature: tuple[str, ...]) -> None:
        self.body = body
        self.kind = kind
        self.signature = signature
        self._loaded: dict[int, Callable[..., None]] = {}

    def types(self) -> tuple[Any, ...]:
        """Return the types of the pointer form."""
        known = {
            "int": types.int64,
            "float": types.float64,
            "stored": STORED[self.kind],
            "real": REAL[self.kind],
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
        return str(code)

    @functools.cached_property
    def simulated(self) -> Any:
        """The array form."""
        return _cuda.jit(self.body)

    def __call__(self, stream: int, grid: tuple[int, ...], block: int, *arguments: Any) -> None:
        """Start on a stream, given as its handle; arrays are addresses (flat in the simulator)."""
        if SIMULATED:
            self.simulated[grid, block](*arguments)
            return
        device = current_device()
        start = self._loaded.get(device)
        if start is None:
            start = self._loaded[device] = self._load(stream)
        start(stream, grid, block, arguments)

    def _load(self, stream: int) -> Callable[..., None]:
        if is_capturing(stream):
            raise RuntimeError(
                "the stream is capturing a graph, and this kernel is not compiled yet: "
                "call the function once before the capture"
            )
        from cuda.core import Device, Program, ProgramOptions

        major, minor = Device().compute_capability
        ptx = self.ptx((major, minor))
        name = next(line.split("(")[0].split()[-1] for line in ptx.splitlines() if ".entry" in line)
        program = Program(ptx, "ptx", ProgramOptions(arch=f"sm_{major}{minor}"))
        kernel = program.compile("cubin").get_kernel(name)
        return _starter(kernel, len(self.signature), self.signature.count("float"))


class _Room(threading.local):
    """Where a thread puts the arguments of a launch; the driver copies them."""

    def __init__(self) -> None:
        self.values: Any = (ctypes.c_int64 * 32)()
        self.floats: Any = (ctypes.c_double * 32).from_buffer(self.values)
        first, size = ctypes.addressof(self.values), ctypes.sizeof(ctypes.c_int64)
        self.places = (ctypes.c_void_p * 32)(*range(first, first + 32 * size, size))


_room = _Room()


@functools.cache
def driver() -> Any:
    """Return the driver's library."""
    library = ctypes.CDLL("nvcuda.dll" if ctypes.sizeof(ctypes.c_wchar) == 2 else "libcuda.so.1")
    library.cuLaunchKernel.argtypes = [
        ctypes.c_void_p,
        *[ctypes.c_uint] * 7,
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_void_p,
    ]
    return library


def _starter(kernel: Any, n_arguments: int, n_floats: int) -> Callable[..., None]:
    """Return start(stream, grid, block, arguments), the kernel bound to this device."""
    launch, handle, n_integers = driver().cuLaunchKernel, int(kernel.handle), n_arguments - n_floats

    def start(
        stream: int,
        grid: tuple[int, ...],
        block: int,
        arguments: tuple[Any, ...],
        keep: Any = kernel,
    ) -> None:
        room = _room
        room.values[:n_integers] = arguments[:n_integers]
        if n_floats:
            room.floats[n_integers:n_arguments] = arguments[n_integers:]
        status = launch(handle, *grid, block, 1, 1, 0, stream, room.places, None)
        if status != 0:
            raise RuntimeError(f"the CUDA driver refused a launch with error {status}")

    return start


def current_device() -> int:
    """Return the number of the device that is current in this thread."""
    number = ctypes.c_int()
    status = driver().cuCtxGetDevice(ctypes.byref(number))
    if status != 0:
        raise RuntimeError(f"no CUDA device is current in this thread, error {status}")
    return number.value


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


@contextlib.contextmanager
def on_device(device: int) -> Iterator[None]:
    """Make a device current in this thread for a while."""
    if SIMULATED or _current(device):
        yield
        return
    from cuda.core import Device

    before = ctypes.c_void_p()
    driver().cuCtxGetCurrent(ctypes.byref(before))
    Device(device).set_current()
    try:
        yield
    finally:
        driver().cuCtxSetCurrent(before)


def _current(device: int) -> bool:
    number = ctypes.c_int()
    return driver().cuCtxGetDevice(ctypes.byref(number)) == 0 and number.value == device
