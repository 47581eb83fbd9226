"""Kernels for the CPU; `jit` compiles and starts them, one module per model calls them."""
