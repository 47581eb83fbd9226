"""The forms of FFF by name, for those who let their users choose one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from .flat import FlatFFF
from .form_layer import TreeLayer
from .layers import FFF

#: Makers of layers, which take the arguments of `FFF`.
FORMS: dict[str, Callable[..., TreeLayer]] = {
    "tree": FFF,
    "flat": FlatFFF,
    "flat-patterns": functools.partial(FlatFFF, rows="patterns"),
}


def make_layer(form: str, n_in: int, n_out: int, depth: int | None, **options: Any) -> TreeLayer:
    """Return a layer of a form by its name.

    Parameters
    ----------
    form : {"tree", "flat", "flat-patterns"}
        `FFF`; `FlatFFF`, with a y vector for each node, or for each level and pattern of signs.
    n_in, n_out, depth
        As those of `FFF`.
    **options
        The other arguments of `FFF`.

    Returns
    -------
    FFF or FlatFFF
        The layer.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As `FFF`, or if the form is unknown.

    Examples
    --------
    >>> from fffnb import nn
    >>> nn.make_layer("flat", 64, 10, 5, n_trees=4).planes.shape
    (4, 5, 64)
    """
    if not isinstance(form, str) or form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}, got {form!r}")
    return FORMS[form](n_in, n_out, depth, **options)
