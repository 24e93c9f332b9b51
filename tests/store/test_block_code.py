"""The code of blocks of 8 bits: errors, bounds, rounding."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optadamw.base.random_bits import Site, bits_at, step_key
from optadamw.store.block_code import RELATIVE, Blocks, block_of, decoded, encoded
from tests.store.runs import SMALLEST, assert_within, by_the_formula
from tests.support import trees

each_sign = pytest.mark.parametrize("signed", [True, False], ids=["signed", "unsigned"])


@functools.partial(jax.jit, static_argnames=("block", "rounding", "signed"))
def through(value, seed, *, block, rounding, signed):
    noise = None
    if rounding == "stochastic":
        noise = bits_at(Site(seed, jnp.int32(0)), value.shape)
    blocks = encoded(value, block, noise, signed=signed)
    return blocks, decoded(blocks, signed=signed)


magnitudes = st.one_of(
    st.just(0.0),
    st.floats(-30, 30).map(lambda x: 10.0**x),
    st.sampled_from([1.0, 1.875, 1.9375, 1.99999988, 2.0, 1e-30, 1e30]),
)


@pytest.mark.parametrize("rounding", RELATIVE)
@each_sign
@settings(max_examples=100, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_number_is_within_its_bound(rounding, signed, data):
    """Any magnitudes side by side; and one scale of magnitude for each block."""
    several = st.lists(magnitudes, min_size=32, max_size=32)
    sizes = np.array(data.draw(several), np.float32)
    signs = np.where(np.arange(32) % 3 == 0, -1, 1) if signed else 1
    around = 10.0 ** data.draw(st.floats(-30, 30))
    spread = np.random.default_rng(data.draw(st.integers(0, 99)))
    same = around * 10.0 ** spread.uniform(-4, 0, 32)
    value = (np.stack([sizes, same]) * signs).astype(np.float32)
    seed = np.uint32(data.draw(st.integers(0, 2**32 - 1)))
    for block in (8, 32):
        blocks, found = through(
            value, seed, block=block, rounding=rounding, signed=signed
        )
        assert_within(found, value, block, rounding, signed)
        expected = by_the_formula(*map(np.asarray, blocks), signed)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("rounding", RELATIVE)
def test_a_number_between_the_two_smallest_codes_is_within_its_bound(rounding):
    """1.03 of the smallest code, and below 1.2 * 2**-31 of the largest number."""
    value = np.array([[0, 10.0**-8.96875, 1.9375, 0]], np.float32)
    how = {"block": 4, "rounding": rounding, "signed": False}
    codes = set()
    for seed in range(32):
        blocks, found = through(value, np.uint32(seed), **how)
        assert_within(found, value, 4, rounding, signed=False)
        codes.add(int(blocks.codes[0, 1]))
    assert codes == ({1, 2} if rounding == "stochastic" else {1})


@each_sign
@pytest.mark.parametrize("rounding", RELATIVE)
def test_no_array_has_64_bits_under_x64(rounding, signed):
    """A kernel of a TPU with one ends the process while it is compiled (jax 0.10)."""
    how = {"block": 8, "rounding": rounding, "signed": signed}
    with jax.enable_x64(True):
        made = jax.make_jaxpr(functools.partial(through, **how))
        text = str(made(jnp.zeros((2, 8), jnp.float32), jnp.uint32(0)))
    assert "i32[2,8]" in text
    assert re.findall(r"\w64\[\d", text) == []


@each_sign
@pytest.mark.parametrize("rounding", RELATIVE)
def test_a_number_that_did_not_change_keeps_its_code(rounding, signed):
    size = 10.0 ** np.random.default_rng(0).uniform(-12, 12, (64, 32))
    value = (size * ([-1, 1] * 16 if signed else 1)).astype(np.float32)
    how = {"block": 16, "rounding": rounding, "signed": signed}
    _, found = through(value, np.uint32(0), **how)
    blocks, same = through(found, np.uint32(1), **how)
    trees.assert_same_bits(same, found)
    again, _ = through(same, np.uint32(2), **how)
    trees.assert_same_bits(again, blocks)


@each_sign
def test_rounding_is_right_on_average(signed):
    """Over 20,000 draws of each number, and in the mean of all."""
    rng = np.random.default_rng(2)
    row = (10.0 ** rng.uniform(-3, 0, 64) * rng.choice([-1, 1], 64)).astype(np.float32)
    row = row if signed else np.abs(row)
    value = np.broadcast_to(row, (20_000, 64))
    how = {"block": 32, "rounding": "stochastic", "signed": signed}
    _, found = through(value, step_key(5.0, jnp.int32(1)), **how)
    error = np.asarray(found, np.float64) / value - 1
    deviation = error.std(0) / np.sqrt(len(error)) + 1e-9
    assert np.max(np.abs(error.mean(0)) / deviation) < 4.5
    assert abs(error.mean()) < 3 * error.std() / np.sqrt(error.size)


@each_sign
def test_subnormals_and_the_largest(signed):
    value = np.full((3, 8), 1e-44, np.float32)
    value[1] = np.finfo(np.float32).max
    value[2, 1:] = SMALLEST
    for rounding in RELATIVE:
        how = {"block": 8, "rounding": rounding, "signed": signed}
        blocks, found = through(value, np.uint32(3), **how)
        found = np.asarray(found)
        assert np.isfinite(found).all()
        assert np.all(found[0] <= SMALLEST * 1.2)
        assert np.all(np.abs(found[1] / value[1] - 1) <= RELATIVE[rounding])
        assert signed or np.all(found > 0)
        expected = by_the_formula(*map(np.asarray, blocks), signed)
        np.testing.assert_array_equal(found, expected)


@each_sign
def test_every_code_below_every_scale_decodes_by_the_formula(signed):
    """0 for a number below float32's normal ones, NaN below the last scale."""
    codes = np.tile(np.arange(256, dtype=np.uint8), (256, 1))
    scales = np.arange(256, dtype=np.uint8)[:, None]
    found = np.asarray(decoded(Blocks(codes, scales), signed=signed))
    expected = by_the_formula(codes, scales, signed)
    expected = np.where(np.abs(expected) < SMALLEST, 0.0, expected)
    np.testing.assert_array_equal(found[:255], expected[:255])
    assert np.isnan(found[255]).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_seen_in_its_whole_block_alone(bad):
    value = np.ones((2, 16), np.float32)
    value[0, 3] = bad
    how = {"block": 8, "rounding": "nearest", "signed": True}
    _, found = through(value, np.uint32(0), **how)
    assert np.isnan(found[0, :8]).all()
    np.testing.assert_array_equal(found[0, 8:], 1.0)
    np.testing.assert_array_equal(found[1], 1.0)


@pytest.mark.parametrize(
    ("last", "block"),
    [(4096, 32), (48, 24), (50, 25), (96, 32), (7, 7), (37, 1), (1, 1), (4099, 1)],
)
def test_the_block_of_an_axis(last, block):
    assert block_of((3, last)) == block
