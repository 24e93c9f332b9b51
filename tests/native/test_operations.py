"""Each operation of a kernel has the bits of XLA's own code."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tests.native import running

SPECIAL = np.array(
    [
        *(0.0, -0.0, 1e-40, -1e-40, 1e-45, 1.1754944e-38, -1.1754942e-38),
        *(1.0, -1.0, 1.5, 2.5, 1e-20, 3e-23, 1.9e19, -1.9e19, 3.4028235e38),
        *(np.inf, -np.inf, np.nan, 65504.0, 65520.0, 6e-8, 1 / 3, -7.25),
    ],
    np.float32,
)
"""Zeros, denormals, the ends of the ranges of all floats, ties, infinity, NaN."""

X, Y = (np.array(x) for x in zip(*itertools.product(SPECIAL, SPECIAL), strict=True))


def of(dtype):
    return [jnp.asarray(x, dtype) for x in (X, Y)]


FLOATS = {
    "add": lax.add,
    "sub": lax.sub,
    "mul": lax.mul,
    "div": lax.div,
    "max": lax.max,
    "min": lax.min,
    "sqrt": lambda x, y: lax.sqrt(x),
    "abs": lambda x, y: lax.abs(x),
    "neg": lambda x, y: lax.neg(x),
    "sign": lambda x, y: lax.sign(x),
    "floor": lambda x, y: lax.floor(x),
    "ceil": lambda x, y: lax.ceil(x),
    "square": lambda x, y: x * x + lax.square(y),
    "clamp": lambda x, y: lax.clamp(y.dtype.type(-0.5), x, y),
    "select": lambda x, y: lax.select(x > y, x, y),
    "is_finite": lambda x, y: lax.select(lax.is_finite(x), x, y),
    **{
        name: lambda x, y, f=getattr(lax, name): f(x, y).astype(x.dtype)
        for name in ("lt", "le", "gt", "ge", "eq", "ne")
    },
    "fma left": lambda x, y: x * x + y,
    "fma right": lambda x, y: x + x * y,
    "fma of a difference": lambda x, y: x * y - x,
    "fma of a subtrahend": lambda x, y: x - x * y,
    "two products": lambda x, y: x * 0.3 + y * 0.7,
}


@pytest.mark.parametrize("name", FLOATS)
def test_an_operation_on_float32(name):
    running.assert_same_bits(lambda x, y: (FLOATS[name](x, y),), (), of(np.float32))
