"""Which row of a table a sample meets on each level, by the leaf that it ends in.

The rows of a tree are those of its nodes; or of all levels for each leaf, a pattern of signs; or
one for each level, which all samples share. Rows that samples chose are told, by no leaf. A number
says that a tree has so many rows, one for each leaf, all on one level.
"""

import functools

from .simt import helper

#: The rows that samples of a bag chose, as many as the depth of a layer says.
CHOSEN = "chosen"


@functools.cache
def paths_of(rows):
    """Return shift_of(depth, level) and row_of(t, depth, level, place) of a table of `rows`.

    Samples meet the same row of tree t on a level if their leaves, shifted to the right by so many
    bits, are the same `place`.
    """
    by_level, by_leaf, leaves = rows == "levels", rows == "patterns", type(rows) is int

    @helper
    def shift_of(depth, level):
        if by_level:
            return 31
        if by_leaf or leaves:
            return 0
        return depth - level

    @helper
    def row_of(t, depth, level, place):
        if by_level:
            return t * depth + level
        if by_leaf:
            return ((t << depth) + place) * depth + level
        if leaves:
            return t * rows + place
        return t * ((1 << depth) - 1) + (1 << level) - 1 + place

    return shift_of, row_of
