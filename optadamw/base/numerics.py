"""Arithmetic that all rules share: the dtype of computation, bias correction, norms.

Rules compute in float32, or float64 for float64 parameters. A complex array enters
as its real and imaginary parts stacked in front (PyTorch's convention: two
independent reals), so no rule knows about complex numbers.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from optadamw.base.types import Array, DTypeLike
from optadamw.base.varying import made_varying, varying


def compute_dtype(dtype: DTypeLike) -> np.dtype:
    """Return the dtype in which rules compute on an array of this dtype."""
    wide = np.dtype(dtype) in (np.dtype(np.float64), np.dtype(np.complex128))
    return np.dtype(np.float64) if wide else np.dtype(np.float32)


def is_complex(dtype: DTypeLike) -> bool:
    """Return whether `dtype` is complex."""
    return bool(jnp.issubdtype(dtype, jnp.complexfloating))


def is_narrow(dtype: DTypeLike) -> bool:
    """Return whether `dtype` is a float of 16 bits."""
    return bool(jnp.issubdtype(dtype, jnp.floating)) and np.dtype(dtype).itemsize == 2


def is_tiny(dtype: DTypeLike) -> bool:
    """Return whether `dtype` is a float of at most 8 bits."""
    return bool(jnp.issubdtype(dtype, jnp.floating)) and np.dtype(dtype).itemsize == 1


def real_of(dtype: np.dtype) -> np.dtype:
    """Return the real dtype of the two parts of the complex dtype `dtype`."""
    return np.dtype(np.float64 if dtype == np.complex128 else np.float32)


def complex_of(dtype: np.dtype) -> np.dtype:
    """Return the complex dtype whose two parts have the real dtype `dtype`."""
    wide = dtype == np.dtype(np.float64)
    return np.dtype(np.complex128) if wide else np.dtype(np.complex64)


def as_reals(x: Array, dtype: DTypeLike) -> Array:
    """Cast `x` to the real dtype `dtype`; complex arrays gain a leading axis of two."""
    if is_complex(x.dtype):
        return jnp.stack([lax.real(x), lax.imag(x)]).astype(dtype)
    return x.astype(dtype)


def from_reals(x: Array, dtype: DTypeLike) -> Array:
    """Invert `as_reals`, rounding to nearest."""
    if is_complex(dtype):
        return lax.complex(x[0], x[1]).astype(dtype)
    return x.astype(dtype)


def kind_of(dtype: np.dtype | None, like: DTypeLike) -> np.dtype:
    """Return the dtype of an update whose parameter has the dtype `like`.

    A real `dtype` becomes complex if `like` is complex; None gives `like` itself.
    """
    if dtype is None:
        return np.dtype(like)
    return complex_of(dtype) if is_complex(like) else dtype


def largest_square_root(dtype: DTypeLike) -> float:
    """Return the largest magnitude whose square is finite: 1.84e19 in float32.

    The result is 0.1 % below the exact root, so that `nu` times its bias correction,
    which restores the square, cannot round up to infinity.
    """
    return math.sqrt(float(jnp.finfo(dtype).max)) * (1.0 - 2.0**-10)


@jax.custom_jvp
def sqrt(x: Array) -> Array:
    """Square root whose derivative at 0 is 0, not infinity.

    The derivative of the update with respect to a zero gradient is then finite
    (Optax gives NaN unless `eps_root > 0`), at no cost in the forward pass.
    """
    return lax.sqrt(x)


@sqrt.defjvp
def _sqrt_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    root = sqrt(x)
    positive = root > 0
    slope = jnp.where(positive, 0.5 / jnp.where(positive, root, 1), 0)
    return root, slope * dx


def one_minus_power(beta: float | Array, exponent: Array) -> Array:
    """`1 - beta**exponent` for a scalar beta in [0, 1), accurate near beta = 1.

    Computed directly in float32, the result is wrong by 1.3e-5 at beta = 0.999,
    exponent = 1, and by 9 % at 0.9999999. Computed as `-expm1(exponent * log(beta))`,
    with the logarithm of a plain number taken in host doubles, it is wrong by 4e-7 at
    most.
    """
    dtype = exponent.dtype
    if isinstance(beta, float):
        log_beta = jnp.asarray(math.log(beta) if beta > 0 else -math.inf, dtype)
    else:
        log_beta = jnp.log(beta)
    return -jnp.expm1(exponent * log_beta)


def quotient(numerator: Array, denominator: Array) -> Array:
    """Return `numerator / denominator`, and zero where the denominator counts as 0.

    A denominator smaller than `smallest_root` counts as 0: the second moment in it was
    flushed to 0, and an epsilon of 1e-30 alone would turn a gradient of 1e-18 into a
    direction of 1e12. It is replaced by infinity: this takes one selection, has a
    finite derivative, and keeps the sign of a zero numerator.
    """
    return numerator / jnp.where(counts_as_zero(denominator), jnp.inf, denominator)


def counts_as_zero(denominator: Array) -> Array:
    """Return where a denominator is below the root of the smallest normal number."""
    return lax.abs(denominator) < smallest_root(denominator.dtype)


def smallest_root(dtype: DTypeLike) -> float:
    """Return the root of the smallest normal number: 1.08e-19 in float32.

    The root of a second moment that is not flushed to 0 is at least this.
    """
    return 2.0 ** (jnp.finfo(dtype).minexp // 2)


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
    """Return a sum whose error does not grow with its length (Knuth's TwoSum)."""
    zero = jnp.zeros((), x.dtype)

    def added(one: tuple[Any, Any], other: tuple[Any, Any]) -> tuple[Any, Any]:
        total = one[0] + other[0]
        part = total - one[0]
        lost = (one[0] - (total - part)) + (other[0] - part)
        return total, one[1] + other[1] + lost

    total, lost = lax.reduce((x, jnp.zeros_like(x)), (zero, zero), added, axes)
    # After an overflow `lost` is NaN, and the sum is infinite.
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


def saturating_increment(count: Array) -> Array:
    """Return `count + 1`, at most the largest value of its dtype (2**31 - 1)."""
    most = jnp.iinfo(count.dtype).max
    return jnp.where(count < most, count + 1, most).astype(count.dtype)
