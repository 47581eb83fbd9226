"""Streams and graphs of the frameworks that have them."""

import kinds
import numpy as np


class TorchStreams:
    """Streams and graphs of PyTorch."""

    name = "torch"

    def __init__(self):
        self.kind = kinds.Torch()
        self.torch = self.kind.torch

    def stream(self):
        return self.torch.cuda.Stream()

    def on(self, stream):
        return self.torch.cuda.stream(stream)

    def handle(self, stream):
        return stream.cuda_stream

    def delay(self):
        self.torch.cuda._sleep(100_000_000)

    def capture(self, run):
        """Return the graph of a call and its result."""
        graph = self.torch.cuda.CUDAGraph()
        with self.torch.cuda.graph(graph):
            result = run()
        return graph.replay, result

    def copy(self, target, source):
        target.copy_(source)

    def wait(self):
        self.torch.cuda.synchronize()


class CuPyStreams:
    """Streams and graphs of CuPy."""

    name = "cupy"

    def __init__(self):
        self.kind = kinds.CuPy()
        self.cupy = self.kind.cupy
        code = "for (long long start = clock64(); clock64() - start < n;);"
        self.spin = self.cupy.RawKernel(
            f'extern "C" __global__ void spin(long long n) {{ {code} }}', "spin"
        )

    def stream(self):
        return self.cupy.cuda.Stream(non_blocking=True)

    def on(self, stream):
        return stream

    def handle(self, stream):
        return stream.ptr

    def delay(self):
        self.spin((1,), (1,), (np.int64(100_000_000),))

    def capture(self, run):
        """Return the graph of a call and its result."""
        stream = self.stream()
        with stream:
            stream.begin_capture()
            try:
                result = run()
            finally:
                graph = stream.end_capture()
        return graph.launch, result

    def copy(self, target, source):
        target[...] = source

    def wait(self):
        self.cupy.cuda.runtime.deviceSynchronize()
