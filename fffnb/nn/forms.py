"""The forms of FFF by name, for those who let their users choose one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .bag import BagFFF, ProductKeyFFF
from .flat import FlatFFF
from .layer import Layer
from .layers import FFF
from .leaf import LeafFFF
from .soft import SoftFFF


class Form(NamedTuple):
    """A form of FFF.

    Attributes
    ----------
    make : callable
        Makes a layer of n_in, n_out and the options.
    options : tuple of str
        What it takes beside n_trees, activation, bias, rng and dtype.
    biased : bool
        Whether it takes bias.
    """

    make: Callable[..., Layer]
    options: tuple[str, ...]
    biased: bool = True


def _soft(
    *sizes: int,
    hardening: float = 0.0,
    rng: int | np.random.Generator | None = 0,
    **options: Any,
) -> SoftFFF:
    """Return a tree that trains softly."""
    generator = np.random.default_rng(rng)
    layer = FFF(*sizes, rng=generator, **options)
    return SoftFFF(layer, hardening=hardening, rng=generator)


FORMS: dict[str, Form] = {
    "tree": Form(FFF, ("depth",)),
    "straight": Form(functools.partial(FFF, straight_through=1.0), ("depth",)),
    "soft": Form(_soft, ("depth", "hardening")),
    "flat": Form(FlatFFF, ("depth",)),
    "flat-patterns": Form(functools.partial(FlatFFF, rows="patterns"), ("depth",)),
    "bag": Form(BagFFF, ("n_nodes", "k")),
    "keys": Form(ProductKeyFFF, ("n_keys", "k"), biased=False),
    "leaf": Form(LeafFFF, ("depth", "width", "hardening")),
}


def find_form(form: str) -> Form:
    """Return a form by its name, or say which there are."""
    if not isinstance(form, str) or form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}, got {form!r}")
    return FORMS[form]


def make_layer(form: str, n_in: int, n_out: int, *sizes: int, **options: Any) -> Layer:
    """Return a layer of a form by its name.

    Parameters
    ----------
    form : str
        "tree": `FFF`. "straight": that with ``straight_through=1``. "soft": `SoftFFF`. "flat":
        `FlatFFF`, with a y vector for each node; "flat-patterns": for each level and pattern of
        signs. "bag": `BagFFF`. "keys": `ProductKeyFFF`. "leaf": `LeafFFF`.
    n_in, n_out : int
        Widths of the input and of the output.
    *sizes, **options
        The other arguments of the layer; "soft" takes those of `FFF`, and `hardening`.

    Returns
    -------
    Layer
        The layer.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As the layer, or if the form is unknown.

    Examples
    --------
    >>> from fffnb import nn
    >>> nn.make_layer("flat", 64, 10, depth=5, n_trees=4).planes.shape
    (4, 5, 64)
    >>> nn.make_layer("bag", 64, 10, n_nodes=32, k=4).nodes.shape
    (1, 32, 74)
    """
    return find_form(form).make(n_in, n_out, *sizes, **options)
