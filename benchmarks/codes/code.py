"""A code turns float32 values into small integers with a scale per block, and back."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


@dataclass(frozen=True)
class Code:
    """A pair of pure functions on values of the shape `(..., blocks, block)`.

    `encode` takes 32 random bits for each value, or None to round to nearest. What it
    returns is any tree; `decode` makes float32 values of it.
    """

    name: str
    encode: Callable[[Array, Array | None], Any]
    decode: Callable[[Any], Array]
    block: int
    element_bits: int
    scale_bits: int
    stochastic: bool = False

    @property
    def label(self) -> str:
        """Name, block and rounding: unique among all candidates."""
        rounding = "stochastic" if self.stochastic else "nearest"
        return f"{self.name}/{self.block} {rounding}"

    @property
    def bits(self) -> float:
        """Bits per value, with its share of the scale."""
        return self.element_bits + self.scale_bits / self.block

    def at_random(self) -> "Code":
        """Return this code with rounding at random."""
        return replace(self, stochastic=True)

    def store(self, values: Array, bits: Array | None) -> Any:
        """Encodes an array of any shape; `bits` has that shape."""
        if not self.stochastic:
            bits = None
        cut = split(values, self.block)
        return self.encode(cut, None if bits is None else split(bits, self.block))

    def load(self, stored: Any, shape: tuple[int, ...]) -> Array:
        """Decodes to an array of that shape."""
        return join(self.decode(stored), shape)

    def through(self, values: Array, bits: Array | None) -> Array:
        """Return `values` after a store and a load."""
        return self.load(self.store(values, bits), values.shape)


def split(values: Array, block: int) -> Array:
    """Cuts the last axis into blocks; zeros fill the last one."""
    values = jnp.atleast_1d(values)
    lacking = -values.shape[-1] % block
    if lacking:
        ends = [(0, 0)] * (values.ndim - 1) + [(0, lacking)]
        values = jnp.pad(values, ends)
    return values.reshape(*values.shape[:-1], -1, block)


def join(blocks: Array, shape: tuple[int, ...]) -> Array:
    """Undoes `split`."""
    length = shape[-1] if shape else 1
    joined = blocks.reshape(*blocks.shape[:-2], -1)
    return joined[..., :length].reshape(shape)


def largest_of(values: Array) -> Array:
    """The largest magnitude of each block.

    As a maximum of integers, which order as the magnitudes do: at 32 values XLA's CPU
    backend fuses it, and a maximum of floats it does not (10 bytes of temporaries for
    each value instead of 2).
    """
    bits = jax.lax.bitcast_convert_type(jnp.abs(values), jnp.int32)
    largest = jnp.max(bits, axis=-1, keepdims=True)
    return jax.lax.bitcast_convert_type(largest, jnp.float32)


def chance(bits: Array | None) -> Array | float:
    """Return the thresholds above which a share is rounded up: a half, or at random."""
    if bits is None:
        return 0.5
    return (bits >> 8).astype(jnp.float32) * np.float32(2.0**-24)
