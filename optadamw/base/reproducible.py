"""Norms and means whose bits do not depend on the order of their sums.

Another mesh adds the numbers of an array in another order, and rounds otherwise. Sums
of integers are exact in every order, so each number is cut into integers first:

1. the largest magnitude gives the array a scale, a power of two (a maximum is exact;
   collectives may drop a NaN from it, so that step 3 looks for one by its bits);
2. each scaled number is squared, which rounds it once, and cut into limbs: integers of
   at most 31 bits, of which each has the worth of its place;
3. the limbs are summed in 64 bits, without rounding, and the sums are put together.

No floating-point addition has two terms that a compiler could round in two ways: the
products with powers of two and the differences in step 2 are exact. Sums in fixed
chunks are no substitute: XLA contracts products with the additions that follow, as the
shape of a device's part suggests (jax 0.10).
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from optadamw.base.numerics import sqrt
from optadamw.base.types import Array

_TOP = 4
"""Numbers below 2**_TOP are cut into limbs: the square of a number in [2, 4), too."""


class Squares(NamedTuple):
    """A sum of squares: `total / scale**2`, which itself may overflow."""

    total: Array
    """0, or from 4 to 16 times the number of squares; inf or NaN if a number is."""
    scale: Array
    """A power of two."""


def largest(x: Array, axes: tuple[str, ...] = ()) -> Array:
    """Return the largest magnitude; beside a NaN any number, 0 of an empty array."""
    most = jnp.max(jnp.abs(lax.stop_gradient(x)), initial=0)
    return lax.pmax(most, axes) if axes else most


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def squares_of(x: Array, most: Array, axes: tuple[str, ...] = ()) -> Squares:
    """Return the sum of the squares of a real array.

    Each square is rounded once. The rest is exact up to the last rounding, so that the
    relative error is below 2**-22.9 in float32, whatever the size of the array.

    Args:
      x: float32 or float64.
      most: `largest(x, axes)`.
      axes: the axes of a `shard_map` over whose devices the sum goes. Default: none.
    """
    scale = _scale(most, 1)
    y = x * scale
    return Squares(_sum(y * y, axes), scale)


@squares_of.defjvp
def _squares_of_jvp(axes, primals, tangents):
    (x, most), (dx, _) = primals, tangents
    made = squares_of(x, most, axes)
    # A tangent is not scaled by itself: of zeros the scale is 2**127.
    slope = 2 * jnp.sum((x * made.scale) * dx) * made.scale
    slope = lax.psum(slope, axes) if axes else slope
    return made, Squares(slope, jnp.zeros_like(made.scale))


def root_of(parts: Sequence[Squares]) -> Array:
    """Return the root of several sums of squares of one dtype: a Euclidean norm.

    It overflows only if the norm does.
    """
    # The derivative of a quotient by a scale has its square, which may underflow.
    scales = lax.stop_gradient(jnp.stack([part.scale for part in parts]))
    least = jnp.min(scales)
    ratios = least / scales
    totals = jnp.stack([part.total for part in parts])
    return sqrt(_sum_of_few(totals * ratios * ratios)) / least


def norm(x: Array) -> Array:
    """Return the Euclidean norm of one array, a scalar of the array's dtype."""
    return root_of([squares_of(x, largest(x))])


def sum_of_squares(x: Array) -> Array:
    """Return the sum of the squares of an array, infinite if it overflows."""
    total, scale = squares_of(x, largest(x))
    scale = lax.stop_gradient(scale)
    return total / scale / scale


def mean_of_squares(x: Array) -> Array:
    """Return the mean of the squares of an array, 0 for an empty one."""
    return sum_of_squares(x) / max(x.size, 1)


def share_of(flags: Array, dtype: np.dtype) -> Array:
    """Return the share of True in an array of bools; NaN for an empty one."""
    return _sum(flags.astype(dtype), ()) / flags.size


@jax.custom_jvp
def _sum_of_few(x: Array) -> Array:
    """Return the sum of numbers >= 0, of which the largest is 0 or at least 4."""
    scale = _scale(largest(x), _TOP - 1)
    return _sum(x * scale, ()) / scale


@_sum_of_few.defjvp
def _sum_of_few_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    return _sum_of_few(x), jnp.sum(dx)


def _scale(most: Array, place: int) -> Array:
    """Return the power of two that moves the magnitude `most` to 2**place or above.

    Zero and subnormal numbers count as the smallest normal one, and what is not finite
    as the largest number.
    """
    info = jnp.finfo(most.dtype)
    bias = info.maxexp - 1
    with jax.enable_x64(True):
        bits = _bits(most)
        of = partial(np.asarray, dtype=bits.dtype)
        exponent = lax.shift_right_logical(bits, of(info.nmant))
        exponent = lax.clamp(of(place), exponent, of(2 * bias))
        raised = lax.shift_left(of(place + 2 * bias) - exponent, of(info.nmant))
        return lax.bitcast_convert_type(raised, most.dtype)


def _bits(x: Array) -> Array:
    """Return the bits of the magnitudes of `x`, which have their order; NaN is last."""
    word = np.dtype(f"int{8 * x.dtype.itemsize}")
    mask = np.asarray(np.iinfo(word).max, word)
    return lax.bitcast_convert_type(x, word) & mask


def _sum(x: Array, axes: tuple[str, ...]) -> Array:
    """Return the sum of numbers in [0, 2**_TOP); NaN or inf if one of them is.

    It is one reduction of several operands. XLA's CPU backend writes the operand of a
    reduction of integers to memory, except if there are several, and XLA for TPU reads
    `x` once for all of them. Of each device XLA gathers the few sums, and adds those.
    """
    info = jnp.finfo(x.dtype)
    bits, count = _limbs(x.size * math.prod(map(lax.axis_size, axes)), info.nmant)
    with jax.enable_x64(True):
        rest, limbs = x * 2.0 ** (bits - _TOP), []
        for last in (*[False] * (count - 1), True):
            limb = lax.convert_element_type(rest, np.int32)
            limbs.append(lax.convert_element_type(limb, np.int64))
            if not last:
                # Both are exact: the integer part of a float fits the float.
                rest = (rest - lax.convert_element_type(limb, x.dtype)) * 2.0**bits
        words = _bits(x)
        zeros = (np.zeros((), words.dtype), *(np.zeros((), np.int64),) * count)
        every = tuple(range(x.ndim))
        most, *sums = lax.reduce((words, *limbs), zeros, _together, every)
        if axes:
            most, sums = lax.pmax(most, axes), [lax.psum(n, axes) for n in sums]
        carry = np.asarray(bits, np.int64)
        for i in reversed(range(1, count)):
            higher = lax.shift_right_logical(sums[i], carry)
            sums[i - 1] = sums[i - 1] + higher
            sums[i] = sums[i] - lax.shift_left(higher, carry)
        worth = 2.0 ** (_TOP - bits)
        total = lax.convert_element_type(sums[0], x.dtype) * worth
        if info.nmant > bits:
            # The first limb alone has fewer bits than the sum.
            lower = lax.convert_element_type(sums[1], x.dtype) * (worth * 2.0**-bits)
            total = total + lower
        is_finite = most < np.asarray((2 * info.maxexp - 1) << info.nmant, most.dtype)
        return lax.select(is_finite, total, lax.bitcast_convert_type(most, x.dtype))


def _together(some: Sequence[Array], others: Sequence[Array]) -> tuple[Array, ...]:
    """Return the larger of the two first entries, and the sums of the others."""
    sums = (a + b for a, b in zip(some[1:], others[1:], strict=True))
    return (lax.max(some[0], others[0]), *sums)


def _limbs(size: int, mantissa: int) -> tuple[int, int]:
    """Return the bits of a limb and their number, for so many numbers.

    A sum of limbs has at most 63 bits. What lies below the last limb is less than
    2**-(mantissa + 4) of the sum, even if every number loses that much.
    """
    length = max(size - 1, 0).bit_length()
    bits = min(31, 63 - length)
    return bits, math.ceil((mantissa + _TOP + 2 + length) / bits)
