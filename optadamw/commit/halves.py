"""A float32 as a bfloat16, its upper half, and an integer for what that lacks.

A bfloat16 has the upper 16 bits of a float32. An int16 holds the rest, so that both
together are the float32; an int8 holds the next 8 bits, if the last 8 are 0.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from optadamw.base.types import Array
from optadamw.commit.narrow import bits_of


@jax.custom_jvp
def joined(param: Array, lower: Array) -> Array:
    """Return the float32 of a bfloat16 parameter and what its bits lack, an int32.

    `halves` leaves no negative integer beside a zero. optax.apply_updates can: it
    rounds `parameter + update`, to 0 where the parameter just crosses it, and 0 minus a
    bit pattern would be the pattern of a NaN.
    """
    upper = bits_of(param).astype(jnp.uint32) << 16
    is_zero = upper << 1 == 0  # by its bits: a CPU compares subnormals as 0
    # In 32 bits: Mosaic (libtpu 0.0.42 and 0.0.50) has no maximum of 16-bit integers.
    lower = jnp.where(is_zero, jnp.maximum(lower, 0), lower)
    return jax.lax.bitcast_convert_type(upper + lower.astype(jnp.uint32), jnp.float32)


@joined.defjvp
def _joined_jvp(primals, tangents):
    return joined(*primals), tangents[0].astype(jnp.float32)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def halves(target: Array, bits: Array, dtype: np.dtype) -> tuple[Array, Array]:
    """Return `bits` as bfloat16, and what that lacks of them, an int16 or int8.

    `bits` are those of the float32 `target`, or of its neighbour whose last 8 bits are
    0. The derivative of the bfloat16 is that of `target`; an integer has none.
    """
    # Halves are rounded away from zero, so that the difference fits the signed
    # integer; with halves to even it could be one more than its largest number.
    upper = (bits + jnp.uint32(0x8000)) & jnp.uint32(0xFFFF0000)
    finite = jnp.isfinite(target)
    written = jax.lax.bitcast_convert_type(upper, jnp.float32).astype(jnp.bfloat16)
    written = jnp.where(finite, written, target.astype(jnp.bfloat16))
    lower = (bits - upper).astype(jnp.int32)
    if dtype.itemsize == 1:
        lower = lower >> 8
    return written, jnp.where(finite, lower.astype(dtype), 0)


@halves.defjvp
def _halves_jvp(dtype, primals, tangents):
    written, lower = halves(*primals, dtype)
    no_tangent = np.zeros(lower.shape, jax.dtypes.float0)
    return (written, lower), (tangents[0].astype(jnp.bfloat16), no_tangent)
