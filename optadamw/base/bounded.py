"""A gradient as the moments take it: its square is finite, and it is no product."""

import jax.numpy as jnp

from optadamw.base.numerics import largest_square_root
from optadamw.base.types import Array


def bounded(g: Array, is_bounded: bool) -> Array:
    """Clip finite values of `g` to where their squares are finite; inf and NaN pass.

    A gradient that is bounded already, by a guard, stays as it is. It still passes a
    maximum: where it is the product with the factor of a clip, XLA contracts this
    product with the subtraction in `running_mean` in some programs only, and the bits
    would depend on the program.
    """
    most = largest_square_root(g.dtype)
    if is_bounded:
        return jnp.maximum(g, -most)
    return jnp.where(jnp.isfinite(g), jnp.clip(g, -most, most), g)
