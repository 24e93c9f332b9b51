"""Sums of squares and norms of arrays of any length, whose squares may overflow."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from optadamw.base.numerics import sqrt
from optadamw.base.types import Array, DTypeLike
from optadamw.base.varying import made_varying, varying


def sum_of_squares(x: Array) -> Array:
    """Return the sum of the squares of `x`, a scalar.

    XLA's CPU backend (jax 0.10) fuses `x * x` into the reduction, but not `square`.
    """
    return jnp.sum(x * x)


@jax.custom_jvp
def mean_of_squares(x: Array) -> Array:
    """Return the mean of the squares of a computed array, 0 for an empty one.

    XLA's CPU backend hands a sum by itself to a library that takes its operands from
    memory: a temporary of the size of `x`. It fuses `x` into a sum of pairs, of a sum
    and of what its additions rounded away: added one by one, 2**24 ones in float32
    would stay 2**24, however many follow. Rows of fair length are summed first.
    """
    squares = x * x
    if x.ndim > 1 and 64 <= x.shape[-1] <= 2**14:
        total = jnp.sum(_exact_sum(squares, (x.ndim - 1,)))
    else:
        total = _exact_sum(squares, tuple(range(x.ndim)))
    return total / max(x.size, 1)


@mean_of_squares.defjvp
def _mean_of_squares_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    return mean_of_squares(x), 2 * jnp.sum(x * dx) / max(x.size, 1)


def _exact_sum(x: Array, axes: tuple[int, ...]) -> Array:
    """Return a sum of numbers >= 0 whose error does not grow with its length.

    The additions of up to 2**14 numbers lose so little that a plain sum holds it
    (Knuth's TwoSum). Of 2**25 equal numbers that sum is 2% off and then stands still:
    more numbers take Kahan's, which adds at once what was lost, in 2.5 times the time.
    """
    zero = jnp.zeros((), x.dtype)

    def two_sum(one: tuple[Any, Any], other: tuple[Any, Any]) -> tuple[Any, Any]:
        total = one[0] + other[0]
        part = total - one[0]
        lost = (one[0] - (total - part)) + (other[0] - part)
        return total, one[1] + other[1] + lost

    def kahan(one: tuple[Any, Any], other: tuple[Any, Any]) -> tuple[Any, Any]:
        more = other[0] + (one[1] + other[1])
        total = one[0] + more
        lost = more - (total - one[0])  # NaN after an overflow
        return total, jnp.where(jnp.isfinite(total), lost, 0)

    added = two_sum if math.prod(x.shape[i] for i in axes) <= 2**14 else kahan
    total, lost = lax.reduce((x, jnp.zeros_like(x)), (zero, zero), added, axes)
    # After an overflow TwoSum has lost NaN, and the sum is infinite.
    return jnp.where(jnp.isfinite(total), total + lost, total)


def scaled_squares(x: Array) -> Array:
    """Return the sum of the squares of `x` times `shrinking`, which cannot overflow.

    If the sum of the squares of `x` overflows, the result is at least 1, so numbers
    whose scaled squares underflow do not count beside it.
    """
    # The barrier keeps XLA from the product of the two factors, which underflows to 0:
    # in an array of one element it would form x * x * 0, NaN after an overflow.
    factor = lax.optimization_barrier(jnp.asarray(shrinking(x.dtype), x.dtype))
    return sum_of_squares(x * factor)


def rescaled_squares(x: Array, plain: Array) -> Array:
    """Return `scaled_squares(x)` on the CPU; `plain` is the sum of squares of `x`.

    Each array has a scale of its own, 1 if its sum is finite: XLA's CPU backend
    materializes the broadcast of a scale that several arrays share, which would be a
    temporary of the size of a leaf.
    """
    small = jnp.asarray(shrinking(x.dtype), x.dtype)
    overflows = plain == jnp.inf
    scale = jnp.where(overflows, small, 1)
    # Twice by the root of the factor, which itself underflows to 0.
    rest = jnp.where(overflows, 1, small)
    return sum_of_squares(x * scale) * rest * rest


def shrinking(dtype: DTypeLike) -> float:
    """Return the factor whose square is 1 / the largest number: 2**-64 in float32."""
    return 2.0 ** -(jnp.finfo(dtype).maxexp // 2)


def widened(scaled: Array, dtype: DTypeLike) -> Array:
    """Convert `scaled_squares` to `dtype`, whose factor is smaller if it is wider."""
    ratio = shrinking(dtype) / shrinking(scaled.dtype)
    wide = scaled.astype(dtype)
    return wide if ratio == 1 else wide * ratio * ratio


def squares_in_one_pass(x: Array) -> tuple[Array, Array]:
    """Return the sum of squares and, if a second sum is free, `scaled_squares`.

    XLA for TPU and GPU forms both sums in one pass over `x`. XLA's CPU backend makes a
    pass for each sum, so the second one is 0 there and `total_norm` does without it.
    """
    return sum_of_squares(x), lax.platform_dependent(
        x, cpu=_zero_beside, default=scaled_squares
    )


def _zero_beside(x: Array) -> Array:
    """Return 0, of the type that a sum over `x` has inside `shard_map`."""
    return made_varying(jnp.zeros((), x.dtype), varying(x))


def total_norm(
    squares: Sequence[tuple[Array, Array]],
    again: Callable[[Sequence[Array]], Sequence[Array]],
) -> Array:
    """Return the Euclidean norm of several arrays together.

    The norm is the root of the sum of squares. After an overflow (a norm above 1.8e19
    in float32) it is computed from the scaled squares, and is infinite only if float32
    cannot represent it.

    Args:
      squares: `squares_in_one_pass` of each array.
      again: returns the `rescaled_squares` of each array, given their sums of squares.
        Only the CPU calls it, and only after an overflow: a usual step reads the arrays
        once. A branch like this would cost a TPU a compiled reduction for each array,
        and a GPU a second pass and a second all-reduce in every step.
    """
    total = jnp.sum(jnp.stack([plain for plain, _ in squares]))

    def rescued(scaled: Sequence[Array]) -> Array:
        return sqrt(jnp.sum(jnp.stack(scaled))) / shrinking(total.dtype)

    def by_branch() -> Array:
        def anew() -> Array:
            return rescued(again([plain for plain, _ in squares]))

        return lax.cond(total == jnp.inf, anew, lambda: sqrt(total))

    def by_selection() -> Array:
        scaled = rescued([scaled for _, scaled in squares])
        return jnp.where(total == jnp.inf, scaled, sqrt(total))

    return lax.platform_dependent(cpu=by_branch, default=by_selection)


def norm(x: Array) -> Array:
    """Return the Euclidean norm of one array, a scalar of the array's dtype."""
    return total_norm(
        [squares_in_one_pass(x)], lambda plain: [rescaled_squares(x, plain[0])]
    )
