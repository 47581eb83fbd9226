"""The layer in JAX: an op for `jit`, `grad` and `vmap`, and a pytree that holds the parameters."""

from .. import missing

try:
    import jax
except ModuleNotFoundError as error:
    raise missing("jax", "jax") from error
try:
    import jax.experimental.buffer_callback
except ModuleNotFoundError as error:
    raise ImportError(
        f"jax must be at least 0.6.1, got {jax.__version__}: python -m pip install 'fffnb[jax]'"
    ) from error

from .layer import FFF
from .op import fff

__all__ = ["FFF", "fff"]
