"""Eight bits for a number: blocks that share a power of two.

A block of neighbours along one axis shares one exponent, and each number is a small
float below it: a sign, 4 bits of exponent and 3 of mantissa (first moments), or
5 and 3 without a sign (second moments, which are never negative). With E the shared
exponent, in the biased form of float32, and c the code without its sign:

    c = 0:   0
    c > 0:   (1 + (c mod 8) / 8) * 2 ** (E - 127 - top + floor(c / 8)),  top = 15 or 31

These are the bits of a float32 with a shorter exponent, so encoding and decoding are
shifts and sums of integers: exact, the same on every device, and fused by XLA into the
code that computes or reads the numbers. The scale is a power of two, so a number that
did not change keeps its code.

Sources: the shared exponent is the E8M0 scale of the OCP Microscaling Formats (MX)
specification, v1.0, section 5.2, whose block of 32 this is; the elements are its E4M3
without subnormals. docs/ideas/moment_codes.md compares it with other codes.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from optadamw.base.types import Array

BLOCK = 32
"""The largest block that is chosen by default, as in MX."""
ROWS = 8
"""The rows of 32 bits in a register of a TPU."""
MANTISSA = 3
RELATIVE = {"nearest": 2.0**-4, "stochastic": 2.0**-3}
"""The largest relative error of a decoded number within the range."""

_CUT = 23 - MANTISSA
"""The bits of a float32's mantissa that are cut off."""
_INFINITY = 0x7F800000


class Blocks(NamedTuple):
    """A buffer in 8 bits: arrays, or shapes, of the rank of the parameter."""

    codes: Any
    """uint8, of the parameter's shape."""
    scales: Any
    """uint8, biased exponents (E8M0): one axis is divided by the block."""

    @property
    def axis(self) -> int:
        """The axis of the blocks, counted from the end: -1 is the last.

        It follows from the shapes. Blocks of 1 lie along every axis.
        """
        pairs = zip(self.codes.shape[::-1], self.scales.shape[::-1], strict=True)
        found = (-i for i, (long, short) in enumerate(pairs, 1) if long != short)
        return next(found, -1)

    @property
    def block(self) -> int:
        """The number of neighbours that share an exponent."""
        return self.codes.shape[self.axis] // self.scales.shape[self.axis]


def block_of(shape: tuple[int, ...], axis: int = -1) -> int:
    """Return the largest divisor of an axis up to `BLOCK`; default: of the last axis.

    A prime axis has blocks of 1, a scale for each number, which takes 2 bytes. One
    block for the whole axis would take 1 byte, and would lose the columns of a
    vocabulary whose gradients are small.
    """
    return max(size for size in range(1, BLOCK + 1) if shape[axis] % size == 0)


def axis_of(shape: tuple[int, ...]) -> int:
    """Return the axis of the blocks of a leaf, counted from the end: -2 or -1.

    It is the axis before the last, if its blocks are as large as those along the last
    axis and fill whole registers. An accelerator holds the last axis across the lanes
    of a register and the axis before it across its rows: numbers of one block then
    meet in the same lane. A leaf of one axis has blocks along it.
    """
    if len(shape) < 2:
        return -1
    rows = block_of(shape, -2)
    return -2 if rows % ROWS == 0 and rows >= block_of(shape, -1) else -1


def encoded(
    value: Array, block: int, noise: Array | None, *, signed: bool, axis: int = -1
) -> Blocks:
    """Encode float32 numbers: rounded to nearest, or at random with 32-bit `noise`.

    Blocks lie along `axis`, counted from the end; default: the last. A block with a
    number that is not finite decodes to NaN as a whole.

    A first moment below the smallest number besides 0 of its block becomes 0 or this
    number, whichever is nearer: raised at random, it could be divided by a tiny second
    moment, which would be a step of any size. A second moment below it becomes this
    number, so that a moment that is not zero never turns into a division by `eps`.
    """
    top = _top(signed)
    bits = jax.lax.bitcast_convert_type(value, jnp.int32)
    size = bits & 0x7FFFFFFF
    largest = jnp.max(in_blocks(size, block, axis), axis=axis)
    largest = jnp.minimum(largest, _INFINITY)
    # Raised by the largest carry of rounding, so that no number is beyond the last
    # code.
    exponent = (largest + ((1 << _CUT) - 1)) >> 23
    # At least 1 beside zeros: below there are only subnormals, which become 2**-126.
    exponent = jnp.clip(exponent, jnp.minimum(largest, 1), 254)
    exponent = jnp.where(largest < _INFINITY, exponent, 255)
    lowest = _spread(exponent, value, axis) - top
    add = 1 << (_CUT - 1) if noise is None else (noise >> (32 - _CUT)).astype(jnp.int32)
    codes = ((size + add) >> _CUT) - (lowest << MANTISSA)
    # The smallest code whose number float32 holds without subnormals.
    floor = jnp.maximum((lowest << 23) + (1 << _CUT), 1 << 23)
    least = (floor >> _CUT) - (lowest << MANTISSA)
    # Numbers from half of the smallest one on get at least its code; without a sign
    # all numbers but 0.
    enough = jnp.maximum(floor - (1 << 23), 1) if signed else 1
    codes = jnp.where(size >= enough, jnp.clip(codes, least, (top << MANTISSA) + 7), 0)
    if signed:
        codes = codes | ((bits >> 24) & 0x80)
    return Blocks(codes.astype(jnp.uint8), exponent.astype(jnp.uint8))


def decoded(blocks: Blocks, *, signed: bool) -> Array:
    """Decode blocks to float32 numbers."""
    codes = blocks.codes.astype(jnp.int32)
    exponent = _spread(blocks.scales.astype(jnp.int32), codes, blocks.axis)
    is_nan = exponent == 255
    size = (codes & 0x7F if signed else codes) << _CUT
    start = (exponent - _top(signed)) << 23
    # The smallest code above 0 whose number float32 holds without subnormals; a block
    # of NaN has none. A kernel computes it once for each block.
    least = jnp.maximum((1 << 23) - start, 1 << _CUT)
    least = jnp.where(is_nan, 0x7FFFFFFF, least)
    # Python's numbers alone would be of 64 bits under x64, which a TPU's kernels lack.
    other = jnp.where(is_nan, jnp.int32(_INFINITY + 1), 0)
    bits = jnp.where(size >= least, size + start, other)
    if signed:
        bits = bits | ((codes & 0x80) << 24)
    return jax.lax.bitcast_convert_type(bits, jnp.float32)


def _top(signed: bool) -> int:
    """Return the exponent field of the largest code."""
    return 15 if signed else 31


def in_blocks(x: Array, block: int, axis: int = -1) -> Array:
    """Cut an axis, counted from the end, into blocks: two axes, the block at `axis`."""
    place = x.ndim + axis
    count = x.shape[place] // block
    shape = (*x.shape[:place], count, block, *x.shape[place + 1 :])
    sharding = _explicit(x)
    if sharding is None:
        return x.reshape(shape)
    # On explicit axes JAX does not choose a sharding for pieces of a shard, and its
    # choice leaves out axes of one device.
    mesh, spec = sharding.mesh, spec_of_blocks(sharding, place, count)
    if spec != list(sharding.spec):
        x = jax.sharding.reshard(x, NamedSharding(mesh, PartitionSpec(*spec)))
    cut = PartitionSpec(*spec[: place + 1], None, *spec[place + 1 :])
    return jnp.reshape(x, shape, out_sharding=NamedSharding(mesh, cut))


def _spread(scales: Array, like: Array, axis: int) -> Array:
    """Return for each number the scale of its block.

    The scales get the shape of the numbers, not the numbers the shape of blocks: XLA
    overwrites a buffer in place only if all operations on it are elementwise.
    """
    shape, place = like.shape, like.ndim + axis
    block = shape[place] // scales.shape[place]
    apart = jnp.expand_dims(scales, place + 1)
    cut = (*scales.shape[: place + 1], block, *scales.shape[place + 1 :])
    wide = jnp.broadcast_to(apart, cut).reshape(shape)
    sharding = _explicit(like)
    if sharding is not None and sharding != jax.typeof(wide).sharding:
        wide = jax.sharding.reshard(wide, sharding)
    return wide


def _explicit(x: Array) -> Any:
    """Return the sharding of an array over explicit axes; else None."""
    sharding = jax.typeof(x).sharding
    return sharding if any(part is not None for part in sharding.spec) else None


def spec_of_blocks(sharding: NamedSharding, place: int, count: int) -> list[Any]:
    """Return the entries of the spec of an array whose axis `place` is cut into blocks.

    The blocks lie over all devices of the axis if these divide their count. Else they
    lie over the first mesh axes of the entry that together do: so XLA lays them on
    automatic axes, where a state laid otherwise would make the next step compile again.
    """
    spec = list(sharding.spec)
    if place >= len(spec) or spec[place] is None:
        return spec
    given = (spec[place],) if isinstance(spec[place], str) else tuple(spec[place])
    kept: list[str] = []
    for axis in given:
        if count % math.prod(sharding.mesh.shape[name] for name in (*kept, axis)):
            break
        kept.append(axis)
    if len(kept) < len(given):
        spec[place] = None if not kept else kept[0] if len(kept) == 1 else tuple(kept)
    return spec
