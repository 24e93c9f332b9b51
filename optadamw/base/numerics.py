"""Arithmetic that all rules share: the dtype of computation, roots, bias correction.

Rules compute in float32, or float64 for float64 parameters. A complex array enters
as its real and imaginary parts stacked in front (PyTorch's convention: two
independent reals), so no rule knows about complex numbers.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from optadamw.base.types import Array, DTypeLike


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


def at_least_float32(x: Array) -> Array:
    """Return a float of 32 or 64 bits as it is, every other number as float32.

    Strict dtype promotion compares no bfloat16 and no integer with a float32, and a
    limit or a loss scale above 65,504 is infinite in float16.
    """
    dtype = compute_dtype(x.dtype)
    return x if x.dtype == dtype else x.astype(dtype)


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


def one_minus_power(beta: float | Array, exponent: Array | float) -> Array:
    """`1 - beta**exponent` for a scalar beta in [0, 1), accurate near beta = 1.

    Computed directly in float32, the result is wrong by 1.3e-5 at beta = 0.999,
    exponent = 1, and by 9 % at 0.9999999. Computed as `-expm1(exponent * log(beta))`,
    with the logarithm of a plain number taken in host doubles, it is wrong by 4e-7 at
    most. An exponent of integers counts as one of JAX's default floating dtype.
    """
    exponent = jnp.asarray(exponent)
    if not jnp.issubdtype(exponent.dtype, jnp.floating):
        exponent = exponent.astype(jnp.result_type(float))
    dtype = exponent.dtype
    if not isinstance(beta, float):
        return _one_minus_power(beta, exponent)
    log_beta = jnp.asarray(math.log(beta) if beta > 0 else -math.inf, dtype)
    return -jnp.expm1(exponent * log_beta)


@jax.custom_jvp
def _one_minus_power(beta: Array, exponent: Array) -> Array:
    return -jnp.expm1(exponent * jnp.log(beta))


@_one_minus_power.defjvp
def _one_minus_power_jvp(
    primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Array, Array]:
    # The logarithm of a beta of 0, a legal one, would make NaN of the derivatives.
    (beta, exponent), (d_beta, d_exponent) = primals, tangents
    slope = exponent * jnp.power(beta, exponent - 1)
    log = jnp.log(jnp.where(beta > 0, beta, 1))
    change = slope * d_beta + jnp.power(beta, exponent) * log * d_exponent
    return _one_minus_power(beta, exponent), -change


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


def saturating_increment(count: Array) -> Array:
    """Return `count + 1`, at most the largest value of its dtype (2**31 - 1)."""
    most = jnp.iinfo(count.dtype).max
    return jnp.where(count < most, count + 1, most).astype(count.dtype)
