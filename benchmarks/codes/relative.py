"""Small floats that count down from the block's largest value, in steps of its bits.

As `minifloat`, but the scale is the largest value itself and not the power of two above
it. When a whole block decays, its scale takes the decay and no code has to change.
"""

import jax
import jax.numpy as jnp

from benchmarks.codes.code import Array, Code, chance, largest_of

_FRACTION = 23


def relative(mantissa: int, signed: bool, block: int, element_bits: int = 8) -> Code:
    """The code of so many steps per octave (a power of two), and a sign if `signed`.

    What lies below the smallest code is treated as in `minifloat`.
    """
    shift = _FRACTION - mantissa
    sign_bit = 1 << (element_bits - 1)
    last = (sign_bit if signed else 2 * sign_bit) - 1

    def value(code: Array, scale: Array) -> Array:
        raw = jax.lax.bitcast_convert_type(scale, jnp.int32) - ((last - code) << shift)
        size = jax.lax.bitcast_convert_type(jnp.maximum(raw, 0), jnp.float32)
        return jnp.where(code == 0, 0.0, size)

    def encode(values: Array, bits: Array | None) -> tuple[Array, Array]:
        size = jnp.abs(values)
        scale = largest_of(values)
        behind = _bits(scale) - _bits(size)
        # Of the value below: rounding then chooses between it and the next.
        low = last - ((behind + ((1 << shift) - 1)) >> shift)
        low = jnp.clip(low, 0, last - 1)
        floor, ceiling = value(low, scale), value(low + 1, scale)
        up = size - floor > chance(bits) * (ceiling - floor)
        code = low + up.astype(jnp.int32)
        if signed:
            code = code | ((values < 0).astype(jnp.int32) << (element_bits - 1))
        else:
            code = jnp.where(size == 0, 0, jnp.maximum(code, 1))
        return code.astype(jnp.uint8), scale

    def decode(stored: tuple[Array, Array]) -> Array:
        code, scale = stored[0].astype(jnp.int32), stored[1]
        if not signed:
            return value(code, scale)
        size = value(code & (sign_bit - 1), scale)
        return jnp.where(code & sign_bit, -size, size)

    name = f"M{mantissa} of max"
    return Code(name, encode, decode, block, element_bits, 32)


def _bits(values: Array) -> Array:
    return jax.lax.bitcast_convert_type(values, jnp.int32)
