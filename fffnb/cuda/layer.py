"""The constants that are compiled into the kernels of a layer."""

from __future__ import annotations

from typing import NamedTuple

from .simt import SIMULATED, WARP

#: Numbers of a row that a thread of a team holds at most, as far as teams may grow: many where a
#: batch fills the device anyway, few where it does not.
SHARE, SMALL_SHARE = 32, 12

#: Threads of a team at least and at most; the simulator takes a second for a thousand of them.
FEWEST, MOST = (2, 8) if SIMULATED else (WARP, 512)

#: Threads of a block of several teams.
BLOCK = 4 if SIMULATED else 64


class Layer(NamedTuple):
    """What is known of a layer when its kernels are compiled."""

    kind: str
    n_in: int
    n_out: int
    depth: int
    activation: int
    has_bias: bool
    length: int  # numbers of one load, of x, nodes and y alike
    rows: str = "nodes"  # what a table has rows of: see `paths_of`

    @property
    def width(self) -> int:
        """Numbers of a row of the nodes."""
        return self.n_in + self.n_out

    @property
    def n_nodes(self) -> int:
        """Nodes of a tree."""
        return (1 << self.depth) - 1

    @property
    def n_rows(self) -> int:
        """Rows of a tree."""
        return sum(self.rows_on(level) for level in range(self.depth))

    def rows_on(self, level: int) -> int:
        """Return how many rows of a tree samples may meet on a level."""
        return 1 << {"nodes": level, "patterns": self.depth, "levels": 0}[self.rows]


def team_of(n: int, share: int = SHARE) -> tuple[int, int]:
    """Return the threads of a team that shares rows of n numbers, and the teams of a block."""
    lanes = FEWEST
    while lanes < MOST and n > share * lanes:
        lanes *= 2
    return lanes, max(1, BLOCK // lanes)
