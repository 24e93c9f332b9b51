"""Each operation of a kernel has the bits of XLA's own code.

The operations of one dtype are the results of one kernel, and XLA's results of one
function: a result is a loop of its own there, as in a step.
"""

import itertools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax import lax

from optadamw.native.flat import Unsupported
from tests.native import running

pytestmark = running.needs_compiler

SPECIAL = np.array(
    [
        *(0.0, -0.0, 1e-40, -1e-40, 1e-45, 1.1754944e-38, -1.1754942e-38),
        *(1.0, -1.0, 1.5, 2.5, 1e-20, 3e-23, 1.9e19, -1.9e19, 3.4028235e38),
        *(np.inf, -np.inf, np.nan, 65504.0, 65520.0, 6e-8, 1 / 3, -7.25),
        *(1.00390625, 1.01171875, 256.5, 6.1e-5, -2.9e-8, 3.3895314e38),
    ],
    np.float32,
)
"""Zeros, denormals, the ends of the ranges of all floats, ties, infinity, NaN."""

X, Y = (np.array(x) for x in zip(*itertools.product(SPECIAL, SPECIAL), strict=True))
WHOLE = np.array([0, 1, 2, 3, 7, 31, 32, 63, 0x7FFF, 0x85EBCA6B, 2**31, 2**32 - 1])

COMPARED = ("lt", "le", "gt", "ge", "eq", "ne")
CONSTANTS = {
    "zero": lambda dtype: 0.0,
    "a negative zero": lambda dtype: -0.0,
    "the least number": lambda dtype: jnp.finfo(dtype).tiny,
    "a number": lambda dtype: -7.25,
    "NaN": lambda dtype: np.nan,
}


def unary(name):
    function = getattr(lax, name)
    return lambda x, y: function(x)


def against(name, number):
    """An extreme with a constant, which the C compiler knows."""
    function = getattr(lax, name)
    return lambda x, y: function(x, x.dtype.type(number(x.dtype)))


def compared(name):
    function = getattr(lax, name)
    return lambda x, y: function(x, y).astype(x.dtype)


FLOATS = {
    **{name: getattr(lax, name) for name in ("add", "sub", "mul", "div")},
    **{name: getattr(lax, name) for name in ("max", "min")},
    **{
        name: unary(name)
        for name in ("sqrt", "abs", "neg", "sign", "floor", "ceil", "square")
    },
    **{name: compared(name) for name in COMPARED},
    **{
        f"{name} with {kind}": against(name, number)
        for name in ("max", "min")
        for kind, number in CONSTANTS.items()
    },
    "clamp": lambda x, y: lax.clamp(x.dtype.type(-0.5), x, y),
    "select": lambda x, y: lax.select(x > y, x, y),
    "is_finite": lambda x, y: lax.select(lax.is_finite(x), x, y),
    "not": lambda x, y: lax.select(~(x < y) & (x != 1), x, y),
    "power": lambda x, y: lax.integer_pow(y, 2),
    "contracted left": lambda x, y: x * 0.3 + y,
    "contracted right": lambda x, y: x + y * 0.3,
    "contracted difference": lambda x, y: x * 0.4 - y,
    "contracted subtrahend": lambda x, y: x - y * 0.4,
    "two products": lambda x, y: x * 0.3 + y * 0.7,
    "a product used twice": lambda x, y: (x * 0.6 + y) / (x * 0.6),
    "a product that is a result": lambda x, y: x * y + x,
    "an overflow": lambda x, y: jnp.where(jnp.isinf(x * x), y, x),
}
REWRITTEN = {
    "a third": lambda s, t, x, y: x / 3 + y,
    "a large divisor": lambda s, t, x, y: x / np.float32(2e38),
    "the negative of a product": lambda s, t, x, y: -(x * s) + y,
    "minus the negative": lambda s, t, x, y: -(x * s) - y,
    "a negative among products": lambda s, t, x, y: -(x * s) + y * t,
    "twice negative": lambda s, t, x, y: lax.neg(-(x * s)) + y,
    "a negative factor": lambda s, t, x, y: s * y + t * (-x),
    "a negative constant": lambda s, t, x, y: (y * s) * t + x * -0.3,
    "a choice is negative": lambda s, t, x, y: -jnp.where(s > 0, x * s, x) + y,
    "a square and a sum": lambda s, t, x, y: x**2 + y,
    "less a square": lambda s, t, x, y: y - lax.square(x),
    "the square of a sum": lambda s, t, x, y: (x + y) ** 2 + s,
    "a cube": lambda s, t, x, y: x**3 + y,
    "to the fifth": lambda s, t, x, y: x**5,
    "an inverse square": lambda s, t, x, y: x**-2,
    "the size of a square": lambda s, t, x, y: abs(x * x) + y,
    "one product written twice": lambda s, t, x, y: (x - y * s) * (s * y),
    "no sum": lambda s, t, x, y: x + 0.0,
    "scalars in a product": lambda s, t, x, y: x * (s - s * t),
    "a product of scalars": lambda s, t, x, y: x - s * t,
    "the right term": lambda s, t, x, y: t * (y - x) + s * x,
    "the left term": lambda s, t, x, y: x * s + (y * t + x * 0.3),
    "a deep left term": lambda s, t, x, y: (x * s) * (y * t) + x * 0.3,
    "terms of terms": lambda s, t, x, y: (s * (x * y) + t * y) * 0.3 + x * 0.4,
    "a term with a choice": lambda s, t, x, y: jnp.where(s > 0, x * s, y) * y + x * t,
    "a mean that moves": lambda s, t, x, y: x + s * (y - x),
}
"""Expressions of two scalars and two arrays that XLA and LLVM compute otherwise than
they are written, by the rules in `native/algebra.py` and `native/order.py`."""

NARROW = ("select", "is_finite", *COMPARED)
"""Operations that XLA does not compute in more digits than 16 bits have."""

INTEGERS = {
    "max": jnp.maximum,
    "min": jnp.minimum,
    **{name: getattr(lax, name) for name in ("add", "sub", "mul")},
    "and": lambda x, y: x & y,
    "or": lambda x, y: x | y,
    "xor": lambda x, y: x ^ y,
    "not": lambda x, y: ~x,
    "left": lax.shift_left,
    "right": lax.shift_right_logical,
    "five": lambda x, y: x >> x.dtype.type(5),
    "select": lambda x, y: lax.select(x < y, x, y),
}


def check(operations, held):
    """Compare all operations at once; the first array plays the gradient."""
    x, y = held
    named = list(operations.items())
    ends = [f(x, y) for _, f in named]
    assert all(end.shape == x.shape for end in ends)

    def function(x, y, *others):
        return tuple(f(x, y) for _, f in named)

    # The results take the place of `y` and of arrays that are not read.
    others = [jnp.zeros(end.shape, end.dtype) for end in ends[1:]]
    assert ends[0].dtype == y.dtype
    running.assert_same_bits(function, (), (x, y, *others), [name for name, _ in named])


def arrays(dtype):
    return jnp.asarray(X, dtype), jnp.asarray(Y, dtype)


def test_float32():
    check(FLOATS, arrays(jnp.float32))


def test_float64():
    with jax.enable_x64():
        check(FLOATS, arrays(jnp.float64))


@pytest.mark.parametrize("names", np.array_split(list(REWRITTEN), 3))
def test_expressions_have_the_bits_of_what_xla_makes_of_them(names):
    """Of 50,000 numbers 4,000 to 18,000 differ where a rule is left out."""
    rng = np.random.default_rng(0)
    sizes = 10 ** rng.uniform(-3, 3, (2, 50_000))
    more = rng.normal(size=sizes.shape) * sizes
    x, y = jnp.asarray(np.concatenate([[X, Y], more], axis=1), jnp.float32)

    def function(s, t, x, y, *others):
        return tuple(REWRITTEN[name](s, t, x, y) for name in names)

    others = [jnp.zeros_like(x)] * (len(names) - 1)
    scalars = (jnp.float32(0.7), jnp.float32(1.3))
    running.assert_same_bits(function, scalars, (x, y, *others), names)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_floats_of_16_bits(dtype):
    check({name: FLOATS[name] for name in NARROW}, arrays(dtype))


@pytest.mark.parametrize("dtype", ["uint32", "int32"])
def test_integers(dtype):
    pairs = np.array(list(itertools.product(WHOLE, WHOLE))).T
    check(INTEGERS, [jnp.asarray(x.astype(np.uint32).view(dtype)) for x in pairs])


def converted(dtype):
    def convert(x, y):
        return x.astype(dtype)

    return convert


def test_conversions():
    wide = np.concatenate([X, np.random.default_rng(0).normal(size=999) ** 9])
    wide = jnp.asarray(wide, jnp.float32)
    names = ("float32", "bfloat16", "float16")
    check({name: converted(name) for name in names}, (wide, wide))
    for narrow in ("bfloat16", "float16"):
        every = jnp.asarray(np.arange(2**16, dtype=np.uint16).view(narrow))
        check(
            {
                "wide": converted("float32"),
                "there and back": lambda x, y: x.astype(jnp.float32).astype(x.dtype),
            },
            (every, every.astype(jnp.float32)),
        )
    # A number in the middle of two of float16 is rounded to the even one.
    halves = np.sort(np.arange(0x7C00, dtype=np.uint16).view(np.float16))
    middles = np.append((halves[1:].astype(np.float32) + halves[:-1]) / 2, 65520)
    middles = np.concatenate([middles, -middles]).astype(np.float32)
    beside = [np.nextafter(middles, np.float32(x)) for x in (-np.inf, np.inf)]
    rounded = jnp.asarray(np.concatenate([middles, *beside]))
    check({"float16": converted("float16")}, (rounded, rounded.astype(jnp.float16)))
    whole = jnp.asarray(np.tile(WHOLE, 9).astype(np.uint32))
    check({"float": converted("float32")}, (whole, whole.astype(jnp.float32)))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_double_is_rounded_as_xla_does(dtype):
    """By way of float32, also beside the middle of two by less than that shows."""
    halves = np.sort(np.arange(0x7C00, dtype=np.uint16).view(np.float16))[::7]
    middles = (halves[1:].astype(float) + halves[:-1]) / 2
    beside = [middles * (1 + 2.0**-k) for k in (30, 45)]
    beside += [middles * (1 - 2.0**-k) for k in (30, 45)]
    noise = np.random.default_rng(0).normal(size=990) * 10 ** np.linspace(-9, 6, 990)
    edges = [np.inf, np.nan, 0.0, 65520 * (1 - 1e-12), 1e300, 1e-300, 3e38, 3.5e38]
    with jax.enable_x64():
        wide = np.concatenate([middles, *beside, noise, edges])
        wide = jnp.asarray(np.concatenate([wide, -wide]))
        check({dtype: converted(dtype)}, (wide, wide.astype(dtype)))


def test_bits():
    bits = lax.bitcast_convert_type

    def there(x, y):
        return bits(bits(x, jnp.uint32) & jnp.uint32(0xFFFF0000), jnp.float32)

    check({"bits": there}, arrays(jnp.float32))


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16])
def test_neighbors_of_16_bits(dtype):
    every = np.arange(2**16, dtype=np.uint16).view(dtype)
    held = [jnp.asarray(x) for x in (every, np.roll(every, 12345))]
    ends = {
        "up": lambda x, y: jnp.nextafter(x, jnp.asarray(np.inf, x.dtype)),
        "down": lambda x, y: jnp.nextafter(x, jnp.asarray(-np.inf, x.dtype)),
        "any": jnp.nextafter,
    }
    check(ends, held)


def test_places_of_elements():
    def place(x, y):
        return lax.broadcasted_iota(jnp.uint32, x.shape, 0) * jnp.uint32(0x9E3779B9)

    check({"place": place}, [jnp.zeros(200_000, jnp.uint32)] * 2)


@pytest.mark.parametrize("value", [0.0, -0.0, 0.3, np.nan])
def test_a_scalar_picks_a_loop(value):
    """In each loop other products are contracted."""

    def function(value, other, x, y):
        scaled = jnp.where(value == 0, x, x * value)
        moved = jnp.where(other > 0, y * 0.7, y)
        return (scaled + moved,)

    scalars = [jnp.float32(value), jnp.float32(1.0)]
    made = running.loops(function, scalars, arrays(jnp.float32))
    assert made.source.count("static void loop") == 4
    running.assert_same_bits(function, scalars, arrays(jnp.float32), ["picked"])


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x, y: (x / y / 3,), "XLA makes one division of two"),
        (lambda x, y: (x / (1 / y),), "XLA makes one division of two"),
        (lambda x, y: (x / lax.sqrt(y),), "by the reciprocal of a square root"),
        (lambda x, y: (lax.sqrt(x * x),), "may leave out the root of a square"),
        (lambda x, y: (0.3 * x * 0.7,), "may multiply the constants"),
        (lambda x, y: (0.1 - (x - 0.2),), "may add the constants"),
        (lambda x, y: (x * 2.0 + y * 2.0,), "the power of two in its terms"),
        (lambda x, y: (lax.max(x, np.float32(1e-40)),), "max with a denormal"),
        (lambda x, y: (jnp.exp(x),), "exp has no C expression"),
        (lambda x, y: (x / jnp.sum(y),), "reduce_sum has no C expression"),
        (lambda x, y: (jnp.sort(x),), "sort has no C expression"),
        (lambda x, y: (x[::-1],), "rev has no C expression"),
        (lambda x, y: (x + np.arange(len(x), dtype=np.float32),), "constant of shape"),
        (lambda x, y: (x.astype(jnp.int32),), "a float becomes an integer"),
        (lambda x, y: (x.astype(jnp.bfloat16) * x.astype(jnp.bfloat16),), "mul is"),
        (lambda x, y: (lax.complex(x, y),), "a number is complex64"),
        (lambda x, y: (x / y**-1,), "one division of two"),
        (lambda x, y: (x / y**-2,), "one division of two"),
        (lambda x, y: (y**-2 / x,), "one division of two"),
        (lambda x, y: (lax.reciprocal(lax.reciprocal(x)),), "one division of two"),
        (lambda x, y: (lax.sqrt(abs(x)) ** 2,), "the square of a root"),
        (lambda x, y: (abs(x) * abs(y) + x,), "the magnitude of a product"),
    ],
)
def test_other_functions_are_refused(function, reason):
    with pytest.raises(Unsupported, match=reason):
        running.loops(function, (), arrays(jnp.float32))


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda s, x: (x / s,), "by the reciprocal of a scalar"),
        (lambda s, x: (s * (x * 0.3),), "may multiply a constant and a scalar"),
    ],
)
def test_other_functions_of_scalars_are_refused(function, reason):
    with pytest.raises(Unsupported, match=reason):
        running.loops(function, (jnp.float32(0.7),), arrays(jnp.float32)[:1])
