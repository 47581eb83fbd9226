"""How data spread over the trees of a model, as counts and as a picture."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

from ..ops.usage import Usage, count_visits
from .evaluate import batches
from .form_layer import TreeLayer
from .layer import Array, Layer
from .leaf import LeafFFF

#: Levels of a picture, at most: the nodes of deeper ones would be thinner than a pixel.
MOST_LEVELS = 12


def usage(model: Layer, x: Array) -> dict[str, Usage]:
    """Count how samples spread over the trees of each layer of a model that has some.

    Parameters
    ----------
    model : Layer
        A layer with trees, or a model that holds such layers. Those that train softly take hard
        paths here; the nodes of the leaf form are its routers.
    x : ndarray, shape (n, n_in)
        Samples, at least one; they go through the model batch by batch.

    Returns
    -------
    dict of str to fffnb.Usage
        The usage by the name of the layer, such as "0" or "2.1", or "" if `model` is the layer.

    Raises
    ------
    TypeError, ValueError
        If the model has no such layer, or its parameters are on a GPU, or `x` does not fit or is
        empty.

    Examples
    --------
    >>> import numpy as np
    >>> from fffnb import nn
    >>> model = nn.Sequential(nn.FFF(8, 4, depth=3), nn.ReLU(), nn.FlatFFF(4, 2, depth=2))
    >>> x = np.random.default_rng(0).standard_normal((500, 8)).astype(np.float32)
    >>> for name, used in nn.usage(model, x).items():
    ...     print(name, used.nodes[0])
    0 [500 245 255 125 120 119 136]
    2 [500 378 122]
    """
    leaves, depths = defaultdict(list), {}

    def see(name: str, layer: Layer, trace: Any) -> None:
        if isinstance(layer, (TreeLayer, LeafFFF)):
            leaves[name].append(trace.leaves)
            depths[name] = layer.depth

    for batch in batches(x):
        model.observe(batch, see)
    if not leaves:
        raise ValueError(f"model must hold a layer with trees, got a {type(model).__name__}")
    return {name: count_visits(np.concatenate(leaves[name]), depths[name]) for name in leaves}


def plot_usage(usage: Usage, tree: int = 0, *, ax: Any = None) -> Any:
    """Draw a tree, level under level, its nodes coloured by their visits.

    Every node is as wide as its two children together. White is the share of the samples that a
    node would have if all on its level had the same, red up to eight times and more, blue down to
    an eighth and less, black what nobody visited.

    Parameters
    ----------
    usage : fffnb.Usage
        The counts of `fffnb.usage` or `fffnb.nn.usage`.
    tree : int, default 0
        Which tree of the forest.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default new axes of pyplot.

    Returns
    -------
    matplotlib.axes.Axes
        The axes.

    Raises
    ------
    TypeError, IndexError
        If `usage` is no usage, or has no such tree.
    ImportError
        If matplotlib is not installed.

    Notes
    -----
    Trees deeper than 12 levels are drawn down to the 12th, without their leaves.

    Examples
    --------
    >>> import numpy as np
    >>> from matplotlib.figure import Figure
    >>> import fffnb
    >>> x = np.random.default_rng(0).standard_normal((500, 8))
    >>> used = fffnb.usage(fffnb.init_nodes(8, 2, depth=6, dtype=float), x)
    >>> ax = fffnb.nn.plot_usage(used, ax=Figure().subplots())
    >>> ax.get_title()
    'tree 0: 61 of 63 nodes visited'
    """
    if not isinstance(usage, Usage):
        raise TypeError(f"usage must be a Usage, got {type(usage).__name__}")
    pyplot, colormaps = _matplotlib()
    ax = pyplot.subplots()[1] if ax is None else ax
    image = _image(usage, tree)
    colours = colormaps["RdBu_r"].with_extremes(bad="black")
    shown = ax.imshow(
        image,
        cmap=colours,
        vmin=-3,
        vmax=3,
        interpolation="nearest",
        aspect="auto",
        extent=(0, 1, len(image), 0),
    )
    ax.set_xticks([])
    ax.set_yticks(np.arange(len(image)) + 0.5, range(len(image)))
    ax.set_ylabel("level")
    seen = np.count_nonzero(usage.nodes[tree])
    ax.set_title(f"tree {tree}: {seen:,} of {usage.nodes.shape[1]:,} nodes visited")
    bar = ax.figure.colorbar(shown, ax=ax, label="visits over equal share")
    bar.set_ticks(range(-3, 4), labels=["1/8", "1/4", "1/2", "1", "2", "4", "8"])
    return ax


def _matplotlib() -> tuple[Any, Any]:
    """Return pyplot and the colour maps, or say how to install them."""
    try:
        from matplotlib import colormaps, pyplot
    except ImportError as error:
        raise ImportError(
            "a picture needs matplotlib: python -m pip install 'fffnb[train]'"
        ) from error
    return pyplot, colormaps


def _image(usage: Usage, tree: int) -> Any:
    """Return log2(visits / equal share) of nodes and leaves, a row a level; dead ones masked."""
    counts = np.concatenate([usage.nodes[tree], usage.leaves[tree]])
    n_levels = min(usage.depth + 1, MOST_LEVELS)
    rows = np.zeros((n_levels, 2 ** (n_levels - 1)))
    for level, row in enumerate(rows):
        nodes = counts[2**level - 1 : 2 ** (level + 1) - 1]
        row[:] = np.repeat(nodes * 2**level, row.size // nodes.size)
    return np.ma.log2(np.ma.masked_equal(rows / usage.batch, 0))
