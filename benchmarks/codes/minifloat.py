"""Small floats under a power of two shared by the block, as in the OCP MX formats.

All is integer arithmetic on the bits of float32: a float's bits without its last ones
*are* a small float with an 8-bit exponent, of which the block's exponent is taken off.
There are no subnormals: code 0 is zero, and every other code has a leading one.
"""

import jax
import jax.numpy as jnp

from benchmarks.codes.code import Array, Code, chance

_FRACTION = 23


def minifloat(exponent: int, mantissa: int, signed: bool, block: int) -> Code:
    """The code with so many bits of exponent and mantissa, and a sign if `signed`.

    A value below the smallest code is raised to it where there is no sign (a second
    moment must not become zero: it divides), and with a sign becomes that or zero.
    """
    shift = _FRACTION - mantissa
    highest = 2**exponent - 1

    def encode(values: Array, bits: Array | None) -> tuple[Array, Array]:
        raw = jax.lax.bitcast_convert_type(values, jnp.uint32)
        size = raw & jnp.uint32(0x7FFFFFFF)
        largest = jnp.max(size, axis=-1, keepdims=True)
        # Rounded up before its exponent is read: the largest value, whichever way it
        # is rounded, never needs a code above the last.
        top = (largest + jnp.uint32((1 << shift) - 1)) >> _FRACTION
        scale = jnp.maximum(top.astype(jnp.int32) - highest, 0)
        noise = jnp.uint32(1 << (shift - 1)) if bits is None else bits >> (32 - shift)
        rounded = ((size + noise) >> shift).astype(jnp.int32)
        code = rounded - (scale << mantissa)
        if signed:
            first = ((scale << mantissa) + 1) << shift
            least = jax.lax.bitcast_convert_type(first, jnp.float32)
            survives = jnp.abs(values) > chance(bits) * least
            below = size.astype(jnp.int32) < first
            code = jnp.where(below, survives.astype(jnp.int32), code)
            code = code | ((raw >> 31).astype(jnp.int32) << (exponent + mantissa))
        else:
            code = jnp.where(size == 0, 0, jnp.maximum(code, 1))
        return code.astype(jnp.uint8), scale.astype(jnp.uint8)

    def decode(stored: tuple[Array, Array]) -> Array:
        code, scale = (part.astype(jnp.int32) for part in stored)
        size = code & ((1 << (exponent + mantissa)) - 1)
        raw = jnp.where(size == 0, 0, (size + (scale << mantissa)) << shift)
        if signed:
            raw = raw | ((code >> (exponent + mantissa)) << 31)
        return jax.lax.bitcast_convert_type(raw, jnp.float32)

    return Code(
        name=f"E{exponent}M{mantissa}",
        encode=encode,
        decode=decode,
        block=block,
        element_bits=exponent + mantissa + signed,
        scale_bits=8,
    )
