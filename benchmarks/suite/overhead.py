"""What a call from Python costs beside its arithmetic: one sample, one node, four numbers each."""

from __future__ import annotations

from . import backward, update
from .forward import forward
from .problems import Sizes, Timed

TINY = Sizes(4, 4, depth=1, batch=1)


class Overhead(Timed):
    """One call of each op."""

    params = ()
    param_names = ()

    def time_forward(self) -> None:
        """Time `fff_forward`."""
        forward(TINY)()

    def time_backward(self) -> None:
        """Time `fff_backward`."""
        backward.rows(TINY)()

    def time_backward_update(self) -> None:
        """Time `fff_backward_update`."""
        backward.update(TINY)()

    def time_update_rows(self) -> None:
        """Time `update_rows`."""
        update.update("sgd", TINY)()
