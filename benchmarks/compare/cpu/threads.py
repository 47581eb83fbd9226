"""Equal threads: every library gets as many as Numba has."""

from __future__ import annotations

import os

import numba

from ...peers import installed


def share() -> None:
    """Give BLAS, PyTorch and JAX the threads that Numba has.

    JAX reads its number when it is imported first. XLA knows no flag for it (0.10 has threads for
    every core, ``--xla_cpu_multi_thread_eigen=false`` or not); PJRT_NPROC is the number of cores
    that it believes in.
    """
    n = numba.get_num_threads()
    os.environ["PJRT_NPROC"] = str(n)
    if installed("torch"):
        import torch

        torch.set_num_threads(n)
    if installed("threadpoolctl"):
        import threadpoolctl

        threadpoolctl.threadpool_limits(n, user_api="blas")
