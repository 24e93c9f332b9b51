"""The sums that rules take over all elements of a parameter, in one of two ways.

`PLAIN` adds in the order that XLA chooses: one pass over memory. `REPRODUCIBLE` gives
the same bits on every mesh, in two passes (`optadamw.base.reproducible`).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from optadamw.base import reproducible, squares
from optadamw.base.types import Array


class Reductions(NamedTuple):
    """Functions that reduce an array to a scalar."""

    norm: Callable[[Array], Array]
    """The Euclidean norm of an array."""
    sum_of_squares: Callable[[Array], Array]
    """The sum of the squares of an array."""
    mean_of_squares: Callable[[Array], Array]
    """The mean of the squares of an array, 0 for an empty one."""
    share_of: Callable[[Array, np.dtype], Array]
    """The share of True in an array of bools, in a dtype."""


def _share_of(flags: Array, dtype: np.dtype) -> Array:
    return jnp.mean(flags.astype(dtype))


PLAIN = Reductions(
    squares.norm, squares.sum_of_squares, squares.mean_of_squares, _share_of
)
REPRODUCIBLE = Reductions(
    reproducible.norm,
    reproducible.sum_of_squares,
    reproducible.mean_of_squares,
    reproducible.share_of,
)
