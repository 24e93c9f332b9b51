"""Stochastic rounding: up or down at random, so that the mean is right.

An update below half a unit in the last place is lost by rounding to nearest, at every
step anew; rounded at random it is there on average. The bits come from a hash of
(seed, step, leaf, element), not from a stream: a restart, another sharding or another
number of devices draws the same ones, and XLA fuses them into the leaf function.

Sources: Gupta et al., arXiv 1502.02551; Zamirai et al., arXiv 2010.06192. The hash is
the finalizer of MurmurHash3 (public domain), applied to a Weyl sequence.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from optadamw.aliases import Array
from optadamw.commit import Buffers, Site
from optadamw.commits.narrow import NarrowCommit, bits_of
from optadamw.hyperparameters import Constant, Dynamic
from optadamw.numerics import is_narrow

_GOLDEN = np.uint32(0x9E3779B9)


@dataclass(frozen=True)
class Stochastic(NarrowCommit):
    """Round 16-bit parameters at random, unbiased; others to nearest. No buffers."""

    seed: Constant | Dynamic

    draws: ClassVar[bool] = True
    name: ClassVar[str] = "stochastic"

    @property
    def is_traced(self) -> bool:
        return isinstance(self.seed, Dynamic) and self.seed.is_traced

    def skeleton(self) -> "Stochastic":
        return Stochastic(Constant(0.0))

    def key(self, step: Array) -> Array:
        """What the bits of this step depend on besides their place."""
        value = self.seed.value
        seed = jnp.asarray(int(value) if isinstance(value, float) else value)
        return mixed(mixed(seed.astype(jnp.uint32)) ^ (step.astype(jnp.uint32)))

    def write(
        self, target: Array, param: Any, buffers: Buffers, site: Site | None
    ) -> tuple[Array, Buffers]:
        if not is_narrow(param.dtype):
            return super().write(target, param, buffers, site)
        assert site is not None
        noise = bits_at(site, target.shape)
        return rounded(target, noise, param.dtype), buffers


def mixed(x: Array) -> Array:
    """A bijection of 32 bits in which every bit of the result depends on all of `x`."""
    x = x ^ (x >> 16)
    x = x * jnp.uint32(0x85EBCA6B)
    x = x ^ (x >> 13)
    x = x * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def bits_at(site: Site, shape: tuple[int, ...]) -> Array:
    """32 random bits for each element of a leaf."""
    index = jnp.zeros(shape, jnp.uint32)
    stride = 1
    beyond = None
    for axis in reversed(range(len(shape))):
        place = jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
        index = index + place * jnp.uint32(stride % 2**32)
        if stride * shape[axis] > 2**32:
            # The index wraps: what it lost goes into the key.
            beyond = place if beyond is None else beyond * jnp.uint32(31) + place
        stride *= shape[axis]
    key = mixed(site.key ^ (site.leaf.astype(jnp.uint32) * _GOLDEN))
    if beyond is not None:
        key = mixed(key ^ mixed(beyond + _GOLDEN))
    return mixed(index * _GOLDEN + key)


def rounded(target: Array, noise: Array, dtype: Any) -> Array:
    """`target` in a 16-bit dtype, up with the probability of what is cut off."""
    nearest = target.astype(dtype)
    if dtype == jnp.bfloat16:
        cut = (bits_of(target) + (noise >> 16)) & jnp.uint32(0xFFFF0000)
        chosen = jax.lax.bitcast_convert_type(cut, jnp.float32).astype(dtype)
    else:
        wide = nearest.astype(target.dtype)
        other = jnp.nextafter(nearest, jnp.where(target > wide, jnp.inf, -jnp.inf))
        other = jnp.where(target == wide, nearest, other.astype(dtype))
        gap = jnp.abs(other.astype(target.dtype) - wide)
        share = jnp.abs(target - wide) / jnp.where(gap == 0, 1, gap)
        draw = (noise >> 8).astype(target.dtype) * np.float32(2.0**-24)
        chosen = jnp.where(draw < share, other, nearest)
    # The carry would make another NaN of a NaN, and infinity of the largest number.
    return jnp.where(jnp.isfinite(chosen) & jnp.isfinite(target), chosen, nearest)
