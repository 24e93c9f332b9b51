"""Sums that have the same bits in every order, and are right."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optadamw.base import reproducible
from optadamw.base.reductions import PLAIN, REPRODUCIBLE
from optadamw.base.squares import norm as plain_norm

HALF_UNIT = {np.dtype(np.float32): 2.0**-24, np.dtype(np.float64): 2.0**-53}


@pytest.fixture(autouse=True, params=[np.float32, np.float64], ids=["32", "64"])
def dtype(request):
    with jax.enable_x64(request.param is np.float64):
        yield np.dtype(request.param)


def numbers(kind: str, size: int, dtype: np.dtype) -> np.ndarray:
    rng = np.random.default_rng(size)
    x = rng.standard_normal(size)
    if kind == "decades":
        x = x * 10 ** rng.uniform(-12, 12, size)
    if kind == "one large":
        # Every square but one is just below a limb, which truncates most of it.
        x = np.full(size, 2.0**-30 * (1 + 2.0**-20))
        x[size // 2] = 1
    if kind == "huge":
        x = x * 0.1 * np.sqrt(float(np.finfo(dtype).max))
    if kind == "tiny":
        x = x * 1e9 * float(np.finfo(dtype).tiny)
    return x.astype(dtype)


def exact(x: np.ndarray) -> float:
    """The norm from the exact sum of squares, in Python's integers."""
    mantissas, exponents = np.frexp(x.astype(np.float64))
    least = int(exponents.min())
    parts = (
        int(mantissa * 2.0**53) << int(exponent - least)
        for mantissa, exponent in zip(mantissas, exponents, strict=True)
    )
    return math.ldexp(math.isqrt(sum(part * part for part in parts)), least - 53)


def squares(x: jax.Array) -> reproducible.Squares:
    return reproducible.squares_of(x, reproducible.largest(x))


KINDS = ("normal", "decades", "one large", "huge", "tiny")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 2, 3, 1000, 20_000])
def test_a_norm_is_within_its_bound_of_the_exact_one(kind, size, dtype):
    x = numbers(kind, size, dtype)
    wanted = exact(x)
    off = abs(float(jax.jit(reproducible.norm)(x)) - wanted) / wanted
    assert off <= 2.6 * HALF_UNIT[dtype]


def test_the_bound_is_that_of_numpy_too(dtype):
    x = numbers("normal", 1000, dtype)
    np.testing.assert_allclose(
        exact(x), np.linalg.norm(x.astype(np.longdouble)), rtol=1e-15
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_bits_do_not_depend_on_the_order(kind, dtype):
    x = numbers(kind, 30_000, dtype)
    norm = jax.jit(reproducible.norm)
    wanted = norm(x)
    rng = np.random.default_rng(1)
    for _ in range(4):
        assert norm(rng.permutation(x)) == wanted
    for shape in ((150, 200), (20, 30, 50), (30_000, 1)):
        assert norm(x.reshape(shape)) == wanted
    assert reproducible.norm(x) == wanted


def test_a_plain_norm_has_other_bits_in_another_order():
    x = numbers("normal", 300_000, np.dtype(np.float32))
    norm, rng = jax.jit(plain_norm), np.random.default_rng(1)
    assert len({float(norm(rng.permutation(x))) for _ in range(8)}) > 1


def test_means_do_not_depend_on_the_order(dtype):
    x = numbers("normal", 30_000, dtype)
    flags = x > 0.3
    mean, share = (
        jax.jit(REPRODUCIBLE.mean_of_squares),
        jax.jit(REPRODUCIBLE.share_of, static_argnums=1),
    )
    order = np.random.default_rng(1).permutation(x.size)
    assert mean(x) == mean(x[order])
    np.testing.assert_allclose(mean(x), np.mean(x.astype(float) ** 2), rtol=1e-6)
    assert share(flags, dtype) == share(flags[order], dtype)
    np.testing.assert_allclose(share(flags, dtype), flags.mean(), rtol=1e-7)
    assert share(flags, dtype).dtype == dtype
    np.testing.assert_allclose(PLAIN.share_of(flags, dtype), flags.mean(), rtol=1e-6)


SPECIAL = {
    "zeros": ([0.0, -0.0], 0.0),
    "nothing": ([], 0.0),
    "inf": ([1.0, np.inf], np.inf),
    "minus inf": ([1.0, -np.inf], np.inf),
    "NaN": ([1.0, np.nan], np.nan),
    "minus NaN beside inf": ([-np.inf, -np.nan, 1.0], np.nan),
}


@pytest.mark.parametrize(("x", "wanted"), SPECIAL.values(), ids=SPECIAL)
def test_zeros_and_what_is_not_finite(x, wanted, dtype):
    x = jnp.asarray(x, dtype)
    np.testing.assert_array_equal(jax.jit(reproducible.norm)(x), wanted)
    parts = [squares(part) for part in (x, jnp.ones(0, dtype))]
    np.testing.assert_array_equal(reproducible.root_of(parts), wanted)
    np.testing.assert_array_equal(reproducible.sum_of_squares(x), wanted)


def test_the_largest_and_the_smallest_numbers(dtype):
    info = jnp.finfo(dtype)
    for x in (info.max, info.tiny, -info.max / 2):
        assert reproducible.norm(jnp.asarray([x, 0], dtype)) == abs(x)
    assert reproducible.norm(jnp.full(2, info.max, dtype)) == np.inf
    assert reproducible.sum_of_squares(jnp.full(2, info.max, dtype)) == np.inf


def test_several_arrays_of_very_different_size(dtype):
    info = jnp.finfo(dtype)
    arrays = [[3e5], [info.tiny], [4e5, 0], [0.0]]
    parts = [squares(jnp.asarray(x, dtype)) for x in arrays]
    assert reproducible.root_of(parts) == jnp.asarray(5e5, dtype)
    assert reproducible.root_of(parts[1:2]) == info.tiny
    assert reproducible.root_of(parts[3:]) == 0


def test_derivatives(dtype):
    x = jnp.asarray([3.0, -4.0], dtype)
    for g in (jax.grad(reproducible.norm), jax.jit(jax.jacfwd(reproducible.norm))):
        np.testing.assert_allclose(g(x), [0.6, -0.8], rtol=1e-6)
    np.testing.assert_array_equal(jax.grad(reproducible.norm)(0 * x), [0, 0])
    for size, tangent in ((0, 3), (1e-30, 1e5), (1e-30, 3), (1e30, 3)):
        at, along = x * np.asarray(size, dtype), jnp.full_like(x, tangent)
        _, slope = jax.jvp(reproducible.norm, (at,), (along,))
        np.testing.assert_allclose(slope, -0.2 * tangent * bool(size), rtol=1e-5)
    wanted = jax.hessian(jnp.linalg.norm)(x)
    np.testing.assert_allclose(jax.hessian(reproducible.norm)(x), wanted, rtol=1e-5)
    mean = jax.grad(reproducible.mean_of_squares)(x)
    np.testing.assert_allclose(mean, x, rtol=1e-6)


def test_transformations_and_strict_promotion(dtype):
    x = jnp.asarray(numbers("normal", 60, dtype)).reshape(4, 15)
    wanted = [reproducible.norm(row) for row in x]
    with jax.numpy_dtype_promotion("strict"):
        np.testing.assert_array_equal(jax.vmap(reproducible.norm)(x), wanted)
        found = jax.lax.map(reproducible.norm, x)
        loop = jax.lax.fori_loop(
            0, 3, lambda i, n: n + reproducible.norm(x[i]), jnp.zeros((), dtype)
        )
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_allclose(loop, sum(wanted[:3]), rtol=1e-6)
    assert found.dtype == dtype and not found.weak_type
