"""The processor's own 8-bit float under the block's largest value, as in torchao."""

import jax.numpy as jnp

from benchmarks.codes.code import Array, Code, largest_of

_DTYPE = jnp.float8_e4m3fn
_LARGEST = 448.0
# torchao's: a smaller block maximum counts as this.
_LEAST = 1e-12


def float8(block: int) -> Code:
    """`float8_e4m3fn`, to nearest; its sign bit is idle in a second moment."""

    def encode(values: Array, bits: Array | None) -> tuple[Array, Array]:
        assert bits is None, "conversion to float8 rounds to nearest"
        scale = jnp.maximum(largest_of(values), _LEAST) / _LARGEST
        return (values / scale).astype(_DTYPE), scale

    def decode(stored: tuple[Array, Array]) -> Array:
        codes, scale = stored
        return codes.astype(jnp.float32) * scale

    return Code("float8", encode, decode, block, 8, 32)
