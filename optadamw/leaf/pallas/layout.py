"""How the arrays of a leaf lie: its shape, and the shape of the scales beside it."""

from typing import NamedTuple


class Layout(NamedTuple):
    """The shapes of the arrays of one leaf."""

    shape: tuple[int, ...]
    """The shape of the leaf."""
    coarse: tuple[int, ...]
    """The shape of the scales of its blocks; its own shape if it has none."""
    block: int
    """The numbers of a block."""
    axis: int
    """The axis of the blocks, counted from the end."""
