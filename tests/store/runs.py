"""Forms of stores, small trees, and runs of a few steps."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optadamw
from optadamw import blockwise, stochastic
from optadamw.store.block_code import RELATIVE

EIGHT = blockwise(min_size=0)
SIXTEEN = stochastic("bfloat16")
FORMS = {"8-bit": EIGHT, "16-bit": SIXTEEN}
each_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


def without_addresses(value):
    """A name that two processes of one run agree on."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))


SMALLEST = 2.0**-126
"""The smallest number that float32 holds without subnormals."""

SHAPES = {
    "kernel": (16, 64),
    "stack": (2, 3, 50),
    "odd": (5, 7),
    "prime": (2, 37),
    "three": (3,),
    "one": (1,),
    "scalar": (),
    "empty": (0, 4),
}


def normal(seed=0, size=1.0, shapes=SHAPES, dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    return {
        name: jnp.asarray(size * rng.normal(size=shape), dtype)
        for name, shape in shapes.items()
    }


FLAT = {"kernel": (16, 64), "odd": (5, 7), "scale": ()}
GRADS = [normal(i, shapes=FLAT) for i in range(1, 7)]
PARAMS = normal(0, shapes=FLAT)


def eight(rate=1e-2, form=EIGHT, **options):
    return optadamw.adamw(rate, mu_dtype=form, nu_dtype=form, **options)


def run(tx, grads, params, state=None):
    """The pair after a step for each of `grads`."""
    step = jax.jit(tx.step)
    pair = params, tx.init(params) if state is None else state
    for g in grads:
        pair = step(g, pair[1], pair[0])
    return tuple(pair)


def assert_fails(error, message, call, *arguments, **options):
    with pytest.raises(error, match=re.escape(message)):
        call(*arguments, **options)


def by_the_formula(codes, scales, signed):
    """Numbers by the documented formula, in plain NumPy."""
    top = 15 if signed else 31
    c = (codes & 0x7F if signed else codes).astype(np.int64)
    shared = np.repeat(scales, codes.shape[-1] // scales.shape[-1], -1).astype(int)
    size = (1 + (c % 8) / 8) * 2.0 ** (shared - 127 - top + c // 8)
    size = np.where(c == 0, 0.0, size)
    return np.where(signed & (codes >= 128), -size, size)


def floor_of(*, signed):
    """How large the smallest number besides 0 is, of the largest in its block, at most.

    It is 1.125 * 2**-top of the power of two below the largest number, or of that above
    it if rounding may carry the largest number there: beyond 1.875 of the power.
    """
    return 1.2 * 2.0 ** -(15 if signed else 31)


def assert_within(found, exact, block, rounding, signed):
    """The stated bounds, for every element."""
    found, exact = np.asarray(found, np.float64), np.asarray(exact, np.float64)
    assert np.isfinite(found).all()
    blocks = np.abs(exact).reshape(*exact.shape[:-1], -1, block)
    largest = np.repeat(blocks.max(-1), block, -1)
    slack = 1 + 1e-5  # of the exact numbers, which are float32's to a few units
    least = np.maximum(floor_of(signed=signed) * largest, SMALLEST) * slack
    size, error = np.abs(exact), np.abs(found - exact)
    assert np.all(
        error[size >= least] <= RELATIVE[rounding] * size[size >= least] * slack
    )
    # The smallest number besides 0 is between half of `least` and `least`. Numbers
    # between both are rounded as larger ones are.
    below, above = size < least, size * (1 + RELATIVE[rounding]) * slack
    assert np.all(np.abs(found[below]) <= np.maximum(least, above)[below])
    assert np.all(found[exact == 0] == 0)
    assert np.all(found * exact >= 0)
    if not signed:
        assert np.all(found[exact > 0] > 0)


def nbytes(tree):
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))
