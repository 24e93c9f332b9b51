"""Random bits that are a hash of their position, and rounding with these bits.

The bits are a hash of (seed, step, leaf, buffer, element), not a stream: a restart,
another sharding or another number of devices gives the same bits, the state holds no
key, and XLA fuses the hash into the leaf function. The hash is the finalizer of
MurmurHash3 (public domain), applied to a Weyl sequence.

Sources of stochastic rounding: Gupta et al., arXiv 1502.02551; Zamirai et al., arXiv
2010.06192.
"""

import zlib
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from optadamw.base.types import Array

_GOLDEN = np.uint32(0x9E3779B9)


class Site(NamedTuple):
    """The step and the leaf for which random bits are drawn."""

    key: Array
    """Key of the bits of this step, uint32, from `step_key`."""
    leaf: Array
    """Index of the leaf among the parameters."""
    place: Array | None = None
    """Index of each element if only a part of the leaf is written; None: all of it."""
    first: Array | None = None
    """Index of the first element of a layer in its stack, uint32; None: no stack."""
    beyond: Array | None = None
    """The layer, if the stack has more than 2**32 elements and `first` wraps."""

    def of(self, buffer: str) -> "Site":
        """Return the site of a buffer of this leaf; each name has bits of its own."""
        return self._replace(key=self.key ^ jnp.uint32(zlib.crc32(buffer.encode())))


def step_key(seed: float | Array, step: Array) -> Array:
    """Return the key of a step's random bits, uint32; the seed is in [0, 2**32).

    `step` stops at 2**31 - 1, and from then on each step draws the bits of the last.
    """
    whole = jnp.asarray(np.uint32(int(seed)) if isinstance(seed, float) else seed)
    return mixed(mixed(whole.astype(jnp.uint32)) ^ step.astype(jnp.uint32))


def mixed(x: Array) -> Array:
    """Mix 32 bits: a bijection in which every output bit depends on all bits of `x`."""
    x = x ^ (x >> 16)
    x = x * jnp.uint32(0x85EBCA6B)
    x = x ^ (x >> 13)
    x = x * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def bits_at(site: Site, shape: tuple[int, ...]) -> Array:
    """Return 32 random bits for each element of a leaf, as uint32."""
    index, stride = jnp.zeros(shape, jnp.uint32), 1
    beyond = None
    if site.place is not None:
        index, shape = site.place, ()
    for axis in reversed(range(len(shape))):
        place = jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
        index = index + place * jnp.uint32(stride % 2**32)
        if stride * shape[axis] > 2**32:
            # The index wraps at 2**32: its lost high part is mixed into the key.
            beyond = place if beyond is None else beyond * jnp.uint32(31) + place
        stride *= shape[axis]
    if site.first is not None:
        index = index + site.first
    if site.beyond is not None:
        layer = site.beyond
        beyond = layer if beyond is None else beyond * jnp.uint32(31) + layer
    key = mixed(site.key ^ (site.leaf.astype(jnp.uint32) * _GOLDEN))
    if beyond is not None:
        key = mixed(key ^ mixed(beyond + _GOLDEN))
    return mixed(index * _GOLDEN + key)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def rounded(target: Array, noise: Array, dtype: Any) -> Array:
    """Round `target` at random to a 16-bit dtype; the expected value is `target`.

    So is the derivative: that of `target`.
    """
    if dtype == jnp.bfloat16:
        bits = jax.lax.bitcast_convert_type(target.astype(jnp.float32), jnp.uint32)
        cut = (bits + (noise >> 16)) & jnp.uint32(0xFFFF0000)
        # Whether it is finite is seen in float32: a TPU's kernels know no other.
        chosen = jax.lax.bitcast_convert_type(cut, jnp.float32)
        # It is rounded below: one conversion is cheaper than a choice between two.
        nearest = target
    else:
        nearest = target.astype(dtype)
        wide = nearest.astype(target.dtype)
        other = jnp.nextafter(nearest, jnp.where(target > wide, jnp.inf, -jnp.inf))
        other = jnp.where(target == wide, nearest, other.astype(dtype))
        gap = jnp.abs(other.astype(target.dtype) - wide)
        share = jnp.abs(target - wide) / jnp.where(gap == 0, 1, gap)
        draw = (noise >> 8).astype(target.dtype) * np.float32(2.0**-24)
        chosen = jnp.where(draw < share, other, nearest)
    # Here the carry could turn a NaN into another NaN, or the largest number into
    # infinity.
    is_kept = jnp.isfinite(chosen) & jnp.isfinite(target)
    return jnp.where(is_kept, chosen, nearest).astype(dtype)


@rounded.defjvp
def _rounded_jvp(dtype, primals, tangents):
    return rounded(*primals, dtype), tangents[0].astype(dtype)
