"""One layer in every library: `FFF` makes it, `convert` moves it.

``fffnb.bridges.torch``, ``.jax``, ``.sklearn``, ``.dask`` and ``.bert`` import the library of their
name; nothing else of the package does.
"""

from __future__ import annotations

import importlib
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike

from .. import nn
from ..nn.form_layer import FormLayer
from ..nn.namespace import to_host
from ..ops.transfer import require_cupy, to_device

#: What `FFF` and `convert` take as `backend`.
BACKENDS = ("numpy", "cupy", "torch", "jax")


def FFF(
    n_in: int,
    n_out: int,
    depth: int | None = None,
    *,
    n_trees: int = 1,
    activation: str = "identity",
    bias: bool = False,
    backend: str = "numpy",
    scheme: Literal["sphere", "uniform"] = "sphere",
    rng: int | np.random.Generator | None = 0,
    dtype: DTypeLike = np.float32,
    **options: Any,
) -> Any:
    """Return a Fast FeedForward layer of a library, with the same parameters in each.

    Parameters
    ----------
    n_in, n_out, depth, n_trees, activation, bias, scheme, rng, dtype
        See `fffnb.nn.FFF`.
    backend : {"numpy", "cupy", "torch", "jax"}, default "numpy"
        Whose layer to return: `fffnb.nn.FFF` on NumPy or CuPy arrays, `fffnb.bridges.torch.FFF` or
        `fffnb.bridges.jax.FFF`.
    **options
        What the layer of that library takes besides, such as ``device="cuda"`` of PyTorch.

    Returns
    -------
    layer
        The layer.

    Raises
    ------
    ImportError
        If the library is not installed; names the extra that installs it.
    TypeError, ValueError, MemoryError
        As `fffnb.nn.FFF`, or if the backend is unknown.

    Examples
    --------
    >>> import fffnb
    >>> fffnb.FFF(64, 10, depth=5).nodes.shape
    (1, 31, 74)
    """
    layer = nn.FFF(
        n_in,
        n_out,
        depth,
        n_trees=n_trees,
        activation=activation,
        bias=bias,
        scheme=scheme,
        rng=rng,
        dtype=dtype,
    )
    return convert(layer, backend, **options)


def convert(layer: Any, backend: str, **options: Any) -> Any:
    """Return the layer of another library that has the same structure and copies of the parameters.

    Parameters
    ----------
    layer : fffnb.nn.FFF, fffnb.bridges.torch.FFF or fffnb.bridges.jax.FFF
        The layer; it is left as it is. Layers of other forms are taken where the backend has them.
    backend : {"numpy", "cupy", "torch", "jax"}
        Whose layer to return.
    **options
        What the layer of that library takes besides, such as ``device="cuda"`` of PyTorch.

    Returns
    -------
    layer
        The layer. Files hold NumPy's: ``nn.save_model(path, convert(layer, "numpy"))`` and
        ``convert(nn.load_model(path), "torch")``.

    Raises
    ------
    ImportError
        If the library is not installed; names the extra that installs it.
    TypeError, ValueError
        If the layer is no FFF layer, the backend is unknown or an option has no meaning for it.

    Examples
    --------
    >>> import fffnb
    >>> layer = fffnb.FFF(64, 10, depth=5)
    >>> copy = fffnb.bridges.convert(layer, "numpy")
    >>> copy.nodes is layer.nodes, (copy.nodes == layer.nodes).all()
    (False, np.True_)
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    own = layer.to_numpy() if hasattr(layer, "to_numpy") else layer
    if not isinstance(own, (FormLayer, nn.SoftFFF)):
        raise TypeError(f"layer must be an FFF layer, got {type(layer).__qualname__}")
    if backend in ("torch", "jax"):
        module, name = importlib.import_module(f".{backend}", __name__), type(own).__name__
        if not hasattr(module, name):
            raise TypeError(f"backend {backend!r} has no {name}")
        return getattr(module, name).from_numpy(own, **options)
    if options:
        raise TypeError(f"backend {backend!r} takes no {', '.join(options)}")
    return own.with_parameters(
        {name: _copy(array, backend) for name, array in own.parameters.items()}
    )


def missing(library: str, extra: str) -> ImportError:
    """Return the error that says which extra installs a library."""
    return ImportError(f"{library} is not installed: python -m pip install 'fffnb[{extra}]'")


def _copy(array: Any, backend: str) -> Any:
    """Return a copy of a parameter, which lies in NumPy's or CuPy's memory, in that of one."""
    if backend == "numpy":
        return to_host(array)
    return to_device(array) if isinstance(array, np.ndarray) else require_cupy().array(array)
