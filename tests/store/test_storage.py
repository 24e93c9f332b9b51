"""Moments and averages in 8 and 16 bits: what is kept, and that training goes on."""

import copy
import functools
import json
import math
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import optadamw
from optadamw import blockwise, checkpoint, stochastic
from optadamw.block_code import RELATIVE, Blocks, block_of, decoded, encoded, floor_of
from optadamw.random_bits import Site, bits_at, step_key
from tests.support import trees
from tests.support.compilations import Compilations

EIGHT = blockwise(min_size=0)
NEAREST = blockwise(min_size=0, rounding="nearest")
SIXTEEN = stochastic("bfloat16")
FORMS = {"8-bit": EIGHT, "16-bit": SIXTEEN}
each_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
each_sign = pytest.mark.parametrize("signed", [True, False], ids=["signed", "unsigned"])


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


def run_updates(tx, grads, params, state=None):
    """The last updates and the state; the parameters stay."""
    update = jax.jit(tx.update)
    state, updates = tx.init(params) if state is None else state, None
    for g in grads:
        updates, state = update(g, state, params)
    return updates, state


def assert_same_run(actual, expected):
    """Types, and all but the few bits that depend on the program that XLA makes."""
    trees.assert_same_types(actual, expected)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        if a.dtype in (jnp.uint8, jnp.bfloat16):
            assert np.mean(np.asarray(a) == np.asarray(e)) > 0.99
        else:
            np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-6)


def assert_fails(error, message, call, *arguments, **options):
    with pytest.raises(error, match=re.escape(message)):
        call(*arguments, **options)


# --- The code ------------------------------------------------------------------------


def by_the_formula(codes, scales, signed):
    """Numbers by the documented formula, in plain NumPy."""
    top = 15 if signed else 31
    c = (codes & 0x7F if signed else codes).astype(np.int64)
    shared = np.repeat(scales, codes.shape[-1] // scales.shape[-1], -1).astype(int)
    size = (1 + (c % 8) / 8) * 2.0 ** (shared - 127 - top + c // 8)
    size = np.where(c == 0, 0.0, size)
    return np.where(signed & (codes >= 128), -size, size)


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
    below = size < least
    assert np.all(np.abs(found[below]) <= least[below])
    assert np.all(found[exact == 0] == 0)
    assert np.all(found * exact >= 0)
    if not signed:
        assert np.all(found[exact > 0] > 0)


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


# --- One step ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rounding", "b2"), [("stochastic", 0.999), ("nearest", 0.9)], ids=str
)
def test_a_step_is_within_the_bound_of_its_exact_moments(rounding, b2):
    """From any state that it keeps, over magnitudes whose squares float32 holds."""
    kept = blockwise(min_size=0, rounding=rounding)
    tx = optadamw.adamw(1e-3, b2=b2, mu_dtype=kept, nu_dtype=kept)
    step, rng = jax.jit(tx.step), np.random.default_rng(0)
    params = {"w": jnp.ones((8, 64))}
    for exponent in range(-13, 18, 3):
        state = tx.init(params)
        for _ in range(3):
            size = 10.0 ** rng.uniform(exponent - 3, exponent, (8, 64))
            grads = (size * rng.choice([-1, 0, 1], size.shape)).astype(np.float32)
            old = optadamw.dequantize(state)
            _, state = step({"w": jnp.asarray(grads)}, state, params)
            new = optadamw.dequantize(state)
            g = grads.astype(np.float64)
            mu = 0.9 * np.asarray(old.mu["w"], np.float64) + 0.1 * g
            nu = b2 * np.asarray(old.nu["w"], np.float64) + (1 - b2) * g * g
            assert_within(new.mu["w"], mu, 32, rounding, signed=True)
            assert_within(new.nu["w"], nu, 32, rounding, signed=False)


def test_a_step_uses_the_moments_before_they_are_rounded():
    """So the first step is float32's."""
    params, grads = PARAMS, GRADS[0]
    first, _ = run(eight(), [grads], params)
    exact, _ = run(optadamw.adamw(1e-2, skip_nonfinite=True), [grads], params)
    assert trees.largest_difference(first, exact) < 1e-6


# --- What is kept --------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_without_a_word_everything_is_float32(dtype):
    params = {"w": jnp.ones((64, 64), dtype)}
    tx = optadamw.adamw(1e-3, amsgrad=True, ema_decay=0.9, accumulate_steps=2)
    state = tx.init(params)
    for name in ("mu", "nu", "nu_max", "ema", "accumulator"):
        assert getattr(state, name)["w"].dtype == jnp.float32
    assert state.mu_scales is state.nu_scales is state.nu_max_scales is None


def test_every_slot_has_a_form_of_its_own():
    params = {"w": jnp.ones((64, 64), jnp.bfloat16)}
    tx = optadamw.adamw(
        1e-3,
        mu_dtype="bfloat16",
        nu_dtype=blockwise(),
        ema_decay=0.9,
        ema_dtype=SIXTEEN,
        accumulate_steps=2,
        accumulator_dtype="bfloat16",
    )
    _, state = run(tx, [params, params], params)
    found = {name: getattr(state, name)["w"].dtype.name for name in ("mu", "nu", "ema")}
    assert found == {"mu": "bfloat16", "nu": "uint8", "ema": "bfloat16"}
    assert state.accumulator["w"].dtype == jnp.bfloat16
    assert state.mu_scales is None


def test_codes_have_the_shape_and_scales_the_rank():
    params = normal(0)
    state = eight(amsgrad=True).init(params)
    for name in ("mu", "nu", "nu_max"):
        codes, scales = getattr(state, name), getattr(state, f"{name}_scales")
        for key, shape in SHAPES.items():
            assert codes[key].shape == shape
            if shape == () or 0 in shape:
                assert codes[key].dtype == jnp.float32
                assert scales[key] is None
                continue
            block = block_of(shape)
            assert scales[key].shape == (*shape[:-1], shape[-1] // block)
            assert codes[key].dtype == scales[key].dtype == jnp.uint8


def test_leaves_are_left_wide_by_size_and_by_pattern():
    params = {
        "embedding": jnp.ones((64, 64)),
        "dense": {"kernel": jnp.ones((64, 64)), "bias": jnp.ones(4095)},
    }

    def wide(kept):
        state = optadamw.adamw(1e-3, mu_dtype=kept).init(params)
        flat = jax.tree_util.tree_leaves_with_path(state.mu)
        return {
            jax.tree_util.keystr(p, simple=True, separator="/")
            for p, x in flat
            if x.dtype == jnp.float32
        }

    assert wide(blockwise()) == {"dense/bias"}
    assert wide(blockwise(min_size=4095)) == set()
    assert wide(blockwise(min_size=4097)) == {"embedding", "dense/kernel", "dense/bias"}
    assert wide(blockwise(keep="embedding")) == {"embedding", "dense/bias"}
    assert wide(blockwise(min_size=0, keep=["*/kernel", "*/bias"])) == {
        "dense/kernel",
        "dense/bias",
    }
    assert wide(blockwise(keep=lambda path, x: "kernel" in path)) == {
        "dense/kernel",
        "dense/bias",
    }


def test_a_block_size_of_ones_own():
    params = {"w": jnp.ones((4, 64))}
    for size in (1, 16, 64):
        tx = eight(form=blockwise(min_size=0, block_size=size))
        _, state = run(tx, [params] * 2, params)
        assert state.mu_scales["w"].shape == (4, 64 // size)
        assert np.isfinite(optadamw.dequantize(state).nu["w"]).all()


def nbytes(tree):
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def test_bytes_per_parameter():
    count = 2 * 512 * 512
    params = {name: jnp.ones((512, 512), jnp.bfloat16) for name in "ab"}
    wide = jax.tree.map(lambda p: p.astype(jnp.float32), params)
    assert nbytes(eight(form=blockwise()).init(wide)) <= 2.1 * count
    assert nbytes(eight(form=SIXTEEN).init(wide)) <= 4.001 * count
    compact = optadamw.adamw(1e-3, precision="compact")
    assert nbytes((params, compact.init(params))) <= 4.1 * count
    same = eight(form=blockwise(), commit="stochastic")
    assert nbytes((params, same.init(params))) <= 4.1 * count
    averaged = optadamw.adamw(1e-3, precision="compact", ema_decay=0.9)
    assert nbytes((params, averaged.init(params))) <= 6.1 * count


# --- Presets -------------------------------------------------------------------------


def test_a_preset_is_what_it_stands_for():
    params = {"w": jnp.ones((64, 64), jnp.bfloat16)}
    grads = {"w": jnp.linspace(-1, 1, 4096).reshape(64, 64)}
    parts = {
        "full": {},
        "mixed": {"commit": "master"},
        "compact": {
            "commit": "stochastic",
            "mu_dtype": blockwise(),
            "nu_dtype": blockwise(),
            "ema_dtype": SIXTEEN,
        },
    }
    for word, options in parts.items():
        preset = optadamw.adamw(1e-2, ema_decay=0.9, precision=word)
        singly = optadamw.adamw(1e-2, ema_decay=0.9, **options)
        pair, same = (run(tx, [grads] * 3, params) for tx in (preset, singly))
        trees.assert_same_bits(pair, same)
    assert optadamw.adamw(0.1) == optadamw.adamw(0.1, precision="full")


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("mu_dtype", "float32", "float32"),
        ("mu_dtype", "bfloat16", "bfloat16"),
        ("nu_dtype", SIXTEEN, "bfloat16"),
        ("ema_dtype", "float32", "float32"),
    ],
)
def test_an_argument_counts_instead_of_the_preset(name, value, found):
    params = {"w": jnp.ones((64, 64), jnp.bfloat16)}
    options = {"precision": "compact", "ema_decay": 0.9, name: value}
    kept = {"mu": "uint8", "nu": "uint8", "ema": "bfloat16"}
    state = optadamw.adamw(1e-3, **options).init(params)
    kept[name.removesuffix("_dtype")] = found
    assert {n: getattr(state, n)["w"].dtype.name for n in kept} == kept


def test_a_commit_counts_instead_of_the_preset():
    params = {"w": jnp.ones((64, 64), jnp.bfloat16)}
    tx = optadamw.adamw(1e-3, precision="compact", commit="kahan")
    assert tx.init(params).residual["w"].dtype == jnp.bfloat16
    nearest = optadamw.adamw(1e-3, precision="mixed", commit="nearest")
    assert nearest.init(params).residual is None
    # And it moves a tree of float32, which the preset's own commit refuses.
    plain = optadamw.adamw(1e-3, precision="compact", commit="nearest")
    wide = {"w": jnp.ones((64, 64))}
    run(plain, [wide], wide)


# --- Long runs -----------------------------------------------------------------------


def long_run(make, forms, steps, start):
    """The state of each form, after the same gradients in a scan."""
    params = {"w": jnp.zeros((64, 64))}

    def body(states, step):
        size = jnp.where(step < start, 1.0, 0.01)
        noise = jax.random.normal(jax.random.fold_in(jax.random.key(0), step), (64, 64))
        grads = {"w": size * (0.5 + noise)}
        after = {n: make(f).step(grads, states[n], params)[1] for n, f in forms.items()}
        return after, None

    states = {name: make(form).init(params) for name, form in forms.items()}
    scan = jax.jit(lambda s: jax.lax.scan(body, s, jnp.arange(steps))[0])
    return {n: optadamw.dequantize(s) for n, s in scan(states).items()}


def assert_unbiased(found, exact):
    error = np.asarray(found, np.float64) - np.asarray(exact, np.float64)
    assert abs(error.mean()) < 3 * error.std() / np.sqrt(error.size)
    assert error.std() > 0


def test_ten_thousand_steps_freeze_nothing_and_lean_nowhere():
    """Gradients fall 100-fold on the way, and the second moments follow."""
    forms = {"wide": None, **FORMS}
    states = long_run(
        lambda form: eight(form=form, skip_nonfinite=True), forms, 10_000, start=4_000
    )
    exact = states["wide"]
    assert np.mean(exact.nu["w"]) < 0.005
    for name in FORMS:
        found = states[name]
        mean, expected = float(np.mean(found.nu["w"])), float(np.mean(exact.nu["w"]))
        assert mean == pytest.approx(expected, rel=0.05)
        assert_unbiased(found.nu["w"], exact.nu["w"])
        assert_unbiased(found.mu["w"], exact.mu["w"])


def test_an_average_in_16_bits_follows_for_ten_thousand_steps():
    params = {"w": jnp.ones((64, 64))}
    grads = {"w": -jnp.ones((64, 64))}

    def average(form):
        rate = optadamw.scale_by_learning_rate(1e-4)
        tx = optadamw.chain(rate, optadamw.ema_params(0.999, dtype=form))

        def body(pair, _):
            return tuple(tx.step(grads, pair[1], pair[0])), None

        scan = jax.jit(lambda pair: jax.lax.scan(body, pair, length=10_000)[0])
        return optadamw.ema_of(scan((params, tx.init(params)))[1])["w"]

    exact, found = average(None), average(SIXTEEN)
    assert found.dtype == jnp.bfloat16
    assert np.mean(exact) > 1.85
    assert_unbiased(found.astype(jnp.float32), exact)


# --- Robustness ----------------------------------------------------------------------


@functools.cache
def updater(kinds, shapes, form, steps):
    """One program for all kinds of gradients: the largest |update| of each leaf."""
    params = {str(shape): jnp.zeros(shape) for shape in shapes}
    tx = eight(1.0, form, weight_decay=0.0, skip_nonfinite=True)

    @jax.jit
    def scan(kind):
        def body(state, step):
            def grads_of(grads_at):
                return lambda: {str(shape): grads_at(step, shape) for shape in shapes}

            grads = jax.lax.switch(kind, [grads_of(f) for f in kinds])
            updates, state = tx.update(grads, state, params)
            largest = jax.tree.map(lambda u: jnp.max(jnp.abs(u), initial=0.0), updates)
            return state, largest

        return jax.lax.scan(body, tx.init(params), jnp.arange(steps))

    return scan


def assert_bounded(kind, kinds, shapes, form, steps):
    """Twice float32's, as the moments' errors of an eighth add up over their time."""
    found = {}
    for kept in (None, form):
        state, largest = updater(kinds, shapes, kept, steps)(kind)
        assert int(state.step) == steps
        found[kept] = {key: np.max(x) for key, x in largest.items()}
    for key, largest in found[form].items():
        assert np.isfinite(largest), key
        assert largest <= 2 * found[None][key] + 1e-6, key


def noise_at(step, shape):
    return jax.random.normal(jax.random.fold_in(jax.random.key(1), step), shape)


def outlier(step, shape):
    """1e4 beside numbers of about 1: always in one place, now and then in another."""
    place = jnp.arange(math.prod(shape)).reshape(shape)
    size = jnp.where(place == 0, 1e4, 1.0)
    is_now = (place == 5) & (step % 100 == 50)
    return noise_at(step, shape) * jnp.where(is_now, 1e4, size)


def rare_rows(step, shape):
    """An embedding: each row has a gradient once in 300 steps."""
    rows = jnp.arange(math.prod(shape)).reshape(shape) // max(math.prod(shape[-1:]), 1)
    return jnp.where((rows * 7) % 300 == step % 300, noise_at(step, shape), 0.0)


def rare_columns(step, shape):
    """The same within blocks."""
    place = jnp.arange(math.prod(shape)).reshape(shape)
    return jnp.where((place * 7) % 300 == step % 300, noise_at(step, shape), 0.0)


def wide_range(step, shape):
    """Sizes that stay from 1e-9 to 1 within each block."""
    size = jnp.logspace(-9, 0, math.prod(shape)).reshape(shape)
    return noise_at(step, shape) * size


def once(step, shape):
    return jnp.where(step == 0, noise_at(step, shape), 0.0)


def denormal(step, shape):
    return jnp.full(shape, 1e-40, jnp.float32)


def tiny(step, shape):
    return noise_at(step, shape) * 1e-18


GRADIENTS = (
    *(noise_at, outlier, rare_rows, rare_columns),
    *(wide_range, once, denormal, tiny),
)


@each_form
@pytest.mark.parametrize(
    "kind", range(len(GRADIENTS)), ids=[f.__name__ for f in GRADIENTS]
)
def test_the_largest_update_stays_bounded(kind, form):
    assert_bounded(kind, GRADIENTS, ((64, 64),), form, steps=900)


def test_every_shape_trains_as_bounded():
    shapes = ((), (1,), (3,), (5, 7), (0, 4), (2, 3, 50), (2, 37), (131,))
    assert_bounded(0, (noise_at,), shapes, EIGHT, steps=300)


def test_zero_gradients_change_nothing():
    params = PARAMS
    zeros = jax.tree.map(jnp.zeros_like, params)
    tx = eight(weight_decay=0.0)
    after, state = run(tx, [zeros] * 3, params)
    trees.assert_same_bits(after, params)
    for x in jax.tree.leaves(optadamw.dequantize(state)._replace(step=0, events=None)):
        assert not np.any(x)


def test_a_second_moment_that_is_not_zero_never_becomes_zero():
    """Beside one 1e14 times as large, and while it decays for 3,000 steps."""
    params = {"w": jnp.zeros((2, 64))}
    grads = {"w": jnp.full((2, 64), 1e-6).at[0, 0].set(1e8).at[1, 3].set(0.0)}
    tx = eight()
    _, state = run(tx, [grads], params)

    def body(state, step):
        idle = {"w": jnp.zeros((2, 64)).at[0, 0].set(1.0)}
        return tx.step(idle, state, params)[1], None

    state = jax.jit(lambda s: jax.lax.scan(body, s, length=3_000)[0])(state)
    nu = np.asarray(optadamw.dequantize(state).nu["w"])
    assert nu[1, 3] == 0
    assert np.all(nu[grads["w"] != 0] > 0)


@each_form
def test_a_maximum_does_not_climb(form):
    """Of second moments that are exact; nor does it forget what it was."""
    params = {"w": jnp.zeros((8, 64))}
    size = 10.0 ** np.random.default_rng(0).uniform(-2, 2, (8, 64))
    grads, zeros = {"w": jnp.asarray(size, jnp.float32)}, {"w": jnp.zeros((8, 64))}
    tx = optadamw.skip_nonfinite(
        optadamw.chain(optadamw.scale_by_adam(), optadamw.amsgrad_max(dtype=form))
    )
    _, state = run_updates(tx, [grads], params)
    top = optadamw.dequantize(state).nu_max["w"]
    _, state = run_updates(tx, [zeros] * 50, params, state)
    np.testing.assert_array_equal(optadamw.dequantize(state).nu_max["w"], top)


# --- Composition ---------------------------------------------------------------------


@each_form
def test_a_bad_gradient_leaves_codes_and_scales(form):
    tx = eight(form=form, amsgrad=True, ema_decay=0.9, skip_nonfinite=True)
    params, state = run(tx, GRADS[:2], PARAMS)
    for bad in (jnp.nan, jnp.inf):
        grads = GRADS[2] | {"kernel": GRADS[2]["kernel"].at[3, 5].set(bad)}
        for step in (tx.step, jax.jit(tx.step)):
            after, following = step(grads, state, params)
            trees.assert_same_bits(after, params)
            for name in optadamw.State._fields:
                if name not in ("events", "stats"):
                    trees.assert_same_bits(
                        getattr(following, name), getattr(state, name)
                    )
    assert int(optadamw.stats_of(following).skipped) == 1


@each_form
def test_a_state_goes_on_bit_for_bit(form, tmp_path):
    tx = eight(form=form, amsgrad=True, ema_decay=0.9, ema_dtype=SIXTEEN, seed=3)
    straight = run(tx, GRADS, PARAMS)
    params, state = run(tx, GRADS[:3], PARAMS)
    portable = checkpoint.to_portable(tx, state)
    np.savez(tmp_path / "state.npz", **portable)
    with np.load(tmp_path / "state.npz") as loaded:
        restored, report = checkpoint.restore(tx, PARAMS, loaded, expect_step=3)
    assert not report.fresh
    for again in (restored, pickle.loads(pickle.dumps(state)), copy.deepcopy(state)):
        trees.assert_same_bits(again, state)
        trees.assert_same_bits(run(tx, GRADS[3:], params, again), straight)


@each_form
def test_a_scan_and_a_vmap_and_in_place(form):
    tx = eight(form=form)
    straight = run(tx, GRADS, PARAMS)
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *GRADS)

    def body(pair, g):
        return tuple(tx.step(g, pair[1], pair[0])), None

    scanned, _ = jax.jit(lambda p: jax.lax.scan(body, p, stacked))(
        (PARAMS, tx.init(PARAMS))
    )
    assert_same_run(scanned, straight)

    donated = jax.tree.map(jnp.copy, PARAMS), tx.init(PARAMS)
    for g in GRADS:
        old = donated
        donated = tuple(tx.jit_step(g, old[1], old[0]))
        assert old[1].mu["kernel"].is_deleted()
    trees.assert_same_bits(donated, straight)

    several = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), PARAMS)
    pair, step = (several, jax.vmap(tx.init)(several)), jax.jit(jax.vmap(tx.step))
    for g in GRADS:
        g = jax.tree.map(lambda x: jnp.stack([x, -x]), g)
        pair = tuple(step(g, pair[1], pair[0]))
    assert_same_run(jax.tree.map(lambda x: x[0], pair), straight)


@each_form
def test_the_second_call_traces_nothing(form):
    tx, traced = eight(form=form, amsgrad=True), []

    @jax.jit
    def step(grads, state, params):
        traced.append(1)
        return tuple(tx.step(grads, state, params))

    params, state = step(GRADS[0], tx.init(PARAMS), PARAMS)
    with Compilations() as compiled:
        for g in GRADS[1:3]:
            params, state = step(g, state, params)
    assert len(traced) == 1
    assert compiled.count == 0


@each_form
def test_update_and_apply_updates(form):
    tx = eight(form=form)
    params, state = run(tx, GRADS, PARAMS)
    other, kept, update = PARAMS, tx.init(PARAMS), jax.jit(tx.update)
    for g in GRADS:
        updates, kept = update(g, kept, other)
        other = optax.apply_updates(other, updates)
    trees.assert_same_types(kept, state)
    assert trees.largest_difference(other, params) < 1e-5
    assert trees.largest_difference(kept.mu["scale"], state.mu["scale"]) < 1e-5
    trees.assert_same_bits(kept.mu["kernel"], state.mu["kernel"])
    trees.assert_same_bits(kept.nu_scales, state.nu_scales)


@each_form
def test_micro_batches_are_one_batch(form):
    """The mean of equal gradients is the gradient, so the codes are the same."""
    _, state = run(eight(form=form), GRADS, PARAMS)
    tx = eight(form=form, accumulate_steps=4)
    _, several = run(tx, [g for g in GRADS for _ in range(4)], PARAMS)
    assert int(several.step) == int(state.step)
    for name in ("mu", "nu", "mu_scales", "nu_scales"):
        trees.assert_same_bits(getattr(several, name), getattr(state, name))


def test_an_open_window_leaves_the_moments():
    tx = eight(accumulate_steps=3)
    params, state = run(tx, GRADS[:3], PARAMS)
    _, later = run(tx, GRADS[3:5], params, state)
    assert int(later.micro_step) == 2
    for name in ("mu", "nu", "mu_scales", "nu_scales"):
        trees.assert_same_bits(getattr(later, name), getattr(state, name))


@each_form
def test_groups(form):
    """What a group changes is its own; the rest has the bits that it had."""
    params, state = run(eight(form=form), GRADS, PARAMS)
    tx = eight(form=form, groups={"odd": {"b1": 0.5, "learning_rate": 0.1}})
    grouped, kept = run(tx, GRADS, PARAMS)
    trees.assert_same_bits(grouped["kernel"], params["kernel"])
    for name in ("mu", "nu"):
        trees.assert_same_bits(
            getattr(kept, name)["kernel"], getattr(state, name)["kernel"]
        )
    assert not np.array_equal(kept.mu["odd"], state.mu["odd"])
    trees.assert_same_bits(kept.nu["odd"], state.nu["odd"])


def test_seeds_are_seeds():
    tx = eight(seed=5)
    assert optadamw.with_seed(eight(), 5) == optadamw.with_seed(eight(), 5) != eight()
    results = [run(t, GRADS, PARAMS) for t in (eight(), eight(seed=0), tx)]
    trees.assert_same_bits(results[0], results[1])
    assert not np.array_equal(results[2][1].mu["kernel"], results[0][1].mu["kernel"])
    trees.assert_same_bits(
        run(optadamw.with_seed(eight(), 5), GRADS, PARAMS), results[2]
    )
    array = eight(seed=jnp.asarray(5, jnp.uint32))
    trees.assert_same_bits(run(array, GRADS, PARAMS), results[2])


def test_the_two_moments_draw_bits_of_their_own():
    _, state = run(
        eight(form=SIXTEEN), [{"w": jnp.ones((64, 64))}], {"w": jnp.ones((64, 64))}
    )
    up = [np.asarray(x["w"], np.float64) for x in (state.mu, state.nu)]
    one, other = (x > x.mean() for x in up)
    assert 0 < one.mean() < 1
    assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 4 / 64


def test_a_chain_with_a_guard_is_adamw():
    chained = optadamw.skip_nonfinite(
        optadamw.chain(
            optadamw.scale_by_adam(mu_dtype=EIGHT, nu_dtype=EIGHT),
            optadamw.amsgrad_max("raw", dtype=EIGHT),
            optadamw.add_decoupled_weight_decay(1e-4),
            optadamw.scale_by_learning_rate(1e-2),
            optadamw.ema_params(0.9, dtype=SIXTEEN),
        )
    )
    tx = eight(amsgrad=True, ema_decay=0.9, ema_dtype=SIXTEEN)
    trees.assert_same_bits(run(chained, GRADS, PARAMS), run(tx, GRADS, PARAMS))


@pytest.mark.parametrize("precision", ["mixed", "compact"])
def test_presets_compose(precision):
    params = {"w": jnp.ones((64, 64), jnp.bfloat16), "scale": jnp.ones(4)}
    tx = optadamw.adamw(
        1e-2,
        precision=precision,
        amsgrad=True,
        nesterov=True,
        clip_global_norm=1.0,
        caution=True,
        accumulate_steps=2,
        ema_decay=0.9,
        loss_scale=optadamw.DynamicLossScale(),
        stats=True,
    )
    grads = jax.tree.map(lambda p: jnp.cos(jnp.arange(p.size)).reshape(p.shape), params)
    after, state = run(tx, [grads] * 4, params)
    assert int(state.step) == 2
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((after, state)))
    assert not np.array_equal(after["w"], params["w"])


# --- Modes of JAX --------------------------------------------------------------------


@each_form
def test_strict_promotion_and_debug_nans(form):
    tx = eight(form=form, amsgrad=True)
    expected = run(tx, GRADS, PARAMS)
    with jax.numpy_dtype_promotion("strict"), jax.debug_nans(True):
        pair = run(tx, GRADS, PARAMS)
        zeros = jax.tree.map(jnp.zeros_like, PARAMS)
        huge = jax.tree.map(lambda x: jnp.full_like(x, 1e15), PARAMS)
        run(tx, [zeros, huge, zeros], PARAMS)
    trees.assert_same_bits(pair, expected)


def test_with_64_bits_switched_on():
    expected = run(eight(amsgrad=True), GRADS, PARAMS)
    with jax.enable_x64(True):
        pair = run(eight(amsgrad=True), GRADS, PARAMS)
        assert_same_run(pair, expected)
        tx, params = eight(), {"a": {"w": jnp.ones((4, 8), jnp.float64)}}
        assert_fails(TypeError, "Leaf 'a/w': it is float64", tx.init, params)
        kept = eight(form=blockwise(min_size=0, keep="a/*"))
        assert kept.init(params).mu["a"]["w"].dtype == jnp.float64


def test_without_jit():
    params, tx = {"w": PARAMS["kernel"]}, eight()
    grads = [{"w": g["kernel"]} for g in GRADS[:2]]
    expected = run(tx, grads, params)
    with jax.disable_jit():
        pair = params, tx.init(params)
        for g in grads:
            pair = tuple(tx.step(g, pair[1], pair[0]))
    assert_same_run(pair, expected)


# --- Eight devices -------------------------------------------------------------------


DEVICE_SHAPES = {"even": (16, 512), "uneven": (16, 96), "odd": (8, 40), "bias": (24,)}
"""Along the last axis: whole blocks for each device, parts of one, and parts of two."""

LAYOUTS = {
    "first": {name: P("data") for name in DEVICE_SHAPES},
    "last": {name: P(None, "data") for name in DEVICE_SHAPES} | {"bias": P("data")},
}
PLACES = [(kind, layout) for kind in ("Auto", "Explicit") for layout in LAYOUTS]


IN_SHARDS_TO_AN_ULP = jax.__version_info__ >= (0, 12)
"""Whether the step of a shard of other columns may round a parameter otherwise,
by a unit in the last place in one of 64: where a moment is rounded in the state, the
parameter's kernel forms it anew, and what XLA contracts there depends on its shape. The
moments have the same bits."""


def assert_an_ulp_apart(actual, expected):
    for name, wanted in expected.items():
        found, wanted = np.asarray(actual[name]), np.asarray(wanted)
        apart = found != wanted
        np.testing.assert_array_max_ulp(found, wanted, maxulp=3)  # in 3 steps
        assert apart.mean() < 1 / 64, name


def sharded_as_unsharded(tx, kind, layout, grads, params, expected):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(getattr(AxisType, kind),))
    shardings = {k: NamedSharding(mesh, spec) for k, spec in LAYOUTS[layout].items()}
    placed = jax.device_put(params, shardings)
    state, step = tx.init(placed), jax.jit(tx.step)
    for buffer in (state.mu, state.nu):
        for key, sharding in shardings.items():
            assert buffer[key].sharding.is_equivalent_to(sharding, buffer[key].ndim)
    if state.mu_scales is not None:
        scales = state.mu_scales["even"]
        assert scales.sharding.is_equivalent_to(shardings["even"], 2)
        assert scales.addressable_shards[0].data.size == scales.size // 8
    before = jax.tree.map(lambda x: x.sharding, (placed, state))
    pair = placed, state
    for g in grads:
        pair = tuple(step(jax.device_put(g, shardings), pair[1], pair[0]))
    trees.assert_same_bits(pair[1], expected[1])
    if IN_SHARDS_TO_AN_ULP and layout == "last":
        assert_an_ulp_apart(pair[0], expected[0])
    else:
        trees.assert_same_bits(pair[0], expected[0])
    leaves = jax.tree.leaves(pair), jax.tree.leaves(before)
    for x, wanted in zip(*leaves, strict=True):
        assert x.sharding.is_equivalent_to(wanted, x.ndim), x.shape
    restored, _ = checkpoint.restore(tx, placed, checkpoint.to_portable(tx, pair[1]))
    trees.assert_same_bits(restored, expected[1])
    born = jax.jit(tx.init)(placed)
    trees.assert_same_bits(born, state)
    assert all(len(x.sharding.device_set) == 8 for x in jax.tree.leaves(born))


def on_eight_devices():
    """Run in a process of its own: prints what fails, by form, kind and layout."""
    assert len(jax.devices()) == 8
    grads = [normal(i, shapes=DEVICE_SHAPES) for i in range(1, 4)]
    params, failures = normal(0, shapes=DEVICE_SHAPES), {}
    for name, form in FORMS.items():
        tx = eight(form=form)
        expected = run(tx, grads, params)
        for place in PLACES:
            try:
                sharded_as_unsharded(tx, *place, grads, params, expected)
            except Exception as error:
                failures[repr((name, *place))] = f"{type(error).__name__}: {error}"
    print(json.dumps(failures))


@functools.cache
def failures_on_eight_devices():
    flags = "--xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from tests.store import test_sharding as t; t.on_eight_devices()",
        ],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done


@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("form", FORMS)
def test_a_sharded_step_is_the_unsharded_one(form, kind, layout):
    """Along the first axis, along the last, and where blocks do not divide."""
    done = failures_on_eight_devices()
    assert done.returncode == 0, done.stderr[-4000:]
    failure = json.loads(done.stdout).get(repr((form, kind, layout)))
    assert failure is None, failure


# --- By name, and without this library -----------------------------------------------


def test_a_checkpoint_is_read_by_plain_numpy():
    tx = eight(amsgrad=True)
    _, state = run(tx, GRADS, PARAMS)
    portable, plain = checkpoint.to_portable(tx, state), optadamw.dequantize(state)
    for field in ("mu", "nu", "nu_max"):
        for key in ("kernel", "odd"):
            codes, scales = (
                portable[f"{field}/{key}"],
                portable[f"{field}_scales/{key}"],
            )
            assert codes.dtype == scales.dtype == np.uint8
            found = by_the_formula(codes, scales, signed=field == "mu")
            np.testing.assert_array_equal(found, getattr(plain, field)[key])
        assert f"{field}_scales/scale" not in portable
        np.testing.assert_array_equal(
            portable[f"{field}/scale"], getattr(plain, field)["scale"]
        )


FOUR = optadamw.adamw(1e-2, amsgrad=True, skip_nonfinite=True)


def test_from_8_bits_to_float32_by_name():
    """The numbers are those that were kept."""
    tx = eight(amsgrad=True)
    _, state = run(tx, GRADS, PARAMS)
    plain = optadamw.dequantize(state)
    for saved in (checkpoint.to_portable(tx, state), state):
        restored, _ = checkpoint.restore(FOUR, PARAMS, saved, cast=True)
        for name in ("step", "mu", "nu", "nu_max"):
            trees.assert_same_bits(getattr(restored, name), getattr(plain, name))
        assert restored.mu_scales is None
        run(FOUR, GRADS, PARAMS, restored)


def test_from_float32_to_8_bits_by_name():
    _, state = run(FOUR, GRADS, PARAMS)
    tx = eight(amsgrad=True)
    saved = checkpoint.to_portable(FOUR, state)
    restored, _ = checkpoint.restore(tx, PARAMS, saved, cast=True)
    trees.assert_same_types(restored, tx.init(PARAMS))
    plain = optadamw.dequantize(restored)
    for name, signed in (("mu", True), ("nu", False), ("nu_max", False)):
        found, exact = getattr(plain, name), getattr(state, name)
        assert_within(found["kernel"], exact["kernel"], 32, "nearest", signed)
        assert_within(found["odd"], exact["odd"], 7, "nearest", signed)
        trees.assert_same_bits(found["scale"], exact["scale"])
    run(tx, GRADS, PARAMS, restored)


def test_from_16_bits_and_other_blocks_by_name():
    sixteen = eight(form=SIXTEEN, skip_nonfinite=True)
    other = eight(form=blockwise(min_size=0, block_size=1))
    tx = eight()
    for made in (sixteen, other):
        _, state = run(made, GRADS, PARAMS)
        there, _ = checkpoint.restore(tx, PARAMS, state, cast=True)
        trees.assert_same_types(there, tx.init(PARAMS))
        exact = optadamw.dequantize(state).nu["kernel"].astype(jnp.float32)
        found = optadamw.dequantize(there).nu["kernel"]
        assert_within(found, exact, 32, "nearest", signed=False)
        back, _ = checkpoint.restore(made, PARAMS, there, cast=True)
        run(made, GRADS, PARAMS, back)


def test_another_form_without_cast_is_refused_by_name():
    tx = eight(amsgrad=True)
    _, state = run(tx, GRADS, PARAMS)
    with pytest.raises(ValueError, match=r"Leaf 'mu/kernel'.*8 bits.*cast=True"):
        checkpoint.restore(FOUR, PARAMS, checkpoint.to_portable(tx, state))
    with pytest.raises(ValueError, match=r"Leaf 'mu/kernel'.*float32.*8 bits.*cast"):
        checkpoint.restore(tx, PARAMS, checkpoint.to_portable(FOUR, FOUR.init(PARAMS)))
    smaller = eight(form=blockwise(min_size=0, block_size=1), amsgrad=True)
    with pytest.raises(
        ValueError, match=r"Leaf 'mu/kernel'.*blocks of 32.*blocks of 1"
    ):
        checkpoint.restore(smaller, PARAMS, state)


@pytest.mark.parametrize("cast", [False, True])
def test_renamed_parameters_take_their_scales_along(cast):
    tx = eight()
    _, state = run(tx, GRADS, PARAMS)
    renamed = {"body": {"kernel": PARAMS["kernel"]}, **PARAMS}
    del renamed["kernel"]
    target = optadamw.adamw(1e-2, skip_nonfinite=True) if cast else tx
    saved = checkpoint.to_portable(tx, state)
    restored, _ = checkpoint.restore(
        target, renamed, saved, rename={"body/kernel": "kernel"}, cast=cast
    )
    if cast:
        plain = optadamw.dequantize(state)
        trees.assert_same_bits(restored.mu["body"]["kernel"], plain.mu["kernel"])
    else:
        for name in ("mu", "mu_scales", "nu", "nu_scales"):
            there = getattr(restored, name)["body"]["kernel"]
            trees.assert_same_bits(there, getattr(state, name)["kernel"])


def test_scales_that_are_missing_or_altered_are_noticed():
    tx = eight()
    _, state = run(tx, GRADS[:1], PARAMS)
    portable = checkpoint.to_portable(tx, state)
    lacking = {k: v for k, v in portable.items() if k != "nu_scales/kernel"}
    altered = portable | {
        "nu_scales/kernel": portable["nu_scales/kernel"] + np.uint8(1)
    }
    for damaged in (lacking, altered):
        with pytest.raises(checkpoint.DamagedCheckpoint, match="nu_scales/kernel"):
            checkpoint.restore(tx, PARAMS, damaged)


def test_dequantize_looks_into_wrappers_and_leaves_the_rest():
    tx = optax.chain(optax.clip(1.0), eight())
    state = tx.init(PARAMS)
    _, state = tx.update(GRADS[0], state, PARAMS)
    found = optadamw.dequantize(state)[1]
    assert {x.dtype.name for x in jax.tree.leaves((found.mu, found.nu))} == {"float32"}
    assert found.mu_scales is None
    plain = FOUR.init(PARAMS)
    trees.assert_same_bits(optadamw.dequantize(plain), plain)


# --- Values --------------------------------------------------------------------------


VALUES = {
    "blockwise()": blockwise(),
    "blockwise(block_size=16)": blockwise(block_size=16),
    "blockwise(min_size=0)": blockwise(min_size=0, rounding="stochastic"),
    "blockwise(keep='*/embedding')": blockwise(keep="*/embedding"),
    "blockwise(rounding='nearest')": blockwise(rounding="nearest"),
    "stochastic('bfloat16')": stochastic(),
    "stochastic('float16')": stochastic(jnp.float16),
}


@pytest.mark.parametrize(("spelled", "value"), VALUES.items(), ids=VALUES)
def test_forms_are_values(spelled, value):
    assert repr(value) == spelled
    names = {"blockwise": blockwise, "stochastic": stochastic}
    same = eval(spelled, names)
    for other in (same, copy.deepcopy(value), pickle.loads(pickle.dumps(value))):
        assert other == value
        assert hash(other) == hash(value)
    assert sum(value == other for other in VALUES.values()) == 1


TRANSFORMATIONS = (
    "adamw(0.001, mu_dtype=blockwise(), nu_dtype=stochastic('bfloat16'))",
    "adamw(0.001, precision='compact')",
    "adamw(0.001, ema_decay=0.9, ema_dtype=stochastic('bfloat16'), seed=3)",
    "with_seed(adamw(0.001, mu_dtype=blockwise(min_size=0)), seed=7)",
    "skip_nonfinite(scale_by_adam(mu_dtype=blockwise(), nu_dtype=blockwise(keep='b')))",
    "chain(scale_by_adam(nu_dtype='bfloat16', b2=0.9), amsgrad_max(dtype='bfloat16'))",
)


@pytest.mark.parametrize("spelled", TRANSFORMATIONS)
def test_transformations_are_values(spelled):
    tx, same = (eval(spelled, vars(optadamw).copy()) for _ in range(2))
    again = eval(repr(tx), vars(optadamw).copy())
    for other in (same, again, copy.deepcopy(tx), pickle.loads(pickle.dumps(tx))):
        assert other == tx
        assert hash(other) == hash(tx)
        assert repr(other) == repr(tx)
    assert tx != optadamw.adamw(0.001)


def test_repr_is_the_call():
    tx = optadamw.adamw(0.001, mu_dtype=blockwise(keep="a"), precision="compact")
    assert repr(tx) == "adamw(0.001, mu_dtype=blockwise(keep='a'), precision='compact')"
    with_seed = optadamw.with_seed(eight(), 7)
    assert repr(with_seed).endswith("seed=7)")


@pytest.mark.parametrize("form", [blockwise(), SIXTEEN], ids=["8-bit", "16-bit"])
def test_inject_hyperparams(form):
    tx = optax.inject_hyperparams(optadamw.adamw)(
        learning_rate=1e-2,
        mu_dtype=form,
        nu_dtype=form,
        ema_decay=0.9,
        ema_dtype=SIXTEEN,
    )
    params = {"w": jnp.ones((64, 64))}
    grads = {"w": jnp.linspace(-1, 1, 4096).reshape(64, 64)}
    state, update = tx.init(params), jax.jit(tx.update)
    for _ in range(3):
        _, state = update(grads, state, params)
    kept = state.inner_state
    assert kept.mu["w"].dtype == ("bfloat16" if form is SIXTEEN else "uint8")
    assert int(kept.step) == 3
    state.hyperparams["learning_rate"] = jnp.asarray(0.0)
    idle, state = update(grads, state, params)
    assert np.all(np.asarray(idle["w"]) == 0)
    plain = eight(form=form, ema_decay=0.9, ema_dtype=SIXTEEN)
    _, expected = run(plain, [grads] * 4, params)
    found = optadamw.dequantize(state.inner_state).nu["w"]
    assert np.mean(found == optadamw.dequantize(expected).nu["w"]) > 0.98


@pytest.mark.parametrize(
    "options",
    [
        {"mu_dtype": EIGHT, "nu_dtype": blockwise(), "amsgrad": True},
        {"mu_dtype": SIXTEEN, "nu_dtype": SIXTEEN, "ema_decay": 0.9},
        {"precision": "compact", "ema_decay": 0.9, "accumulate_steps": 2},
        {"precision": "mixed", "stats": True},
    ],
    ids=without_addresses,
)
def test_describe_tells_the_forms_and_the_bytes(options):
    params = {"w": jnp.ones((64, 96), jnp.bfloat16), "b": jnp.ones(50)}
    tx = optadamw.adamw(1e-3, **options)
    text, state = optadamw.describe(tx, params), tx.init(params)
    assert f"state {nbytes(state):,} bytes" in text
    (row,) = (line for line in text.splitlines() if line.startswith("w "))
    trees_of = [getattr(state, f) for f in optadamw.State._fields]
    own = nbytes([t["w"] for t in trees_of if isinstance(t, dict) and "w" in t])
    assert row.endswith(f" {own:,}")
    if state.mu_scales is not None:
        assert "mu 8-bit/32" in row
        assert "nu 8-bit/32" in row
    elif state.ema is not None:
        assert "mu bfloat16, nu bfloat16" in row


# --- Flax NNX ------------------------------------------------------------------------


def test_nnx():
    """Flax's optimizer and ours, twice in a row; the scales have the metadata too."""
    nnx = pytest.importorskip("flax.nnx")
    from optadamw.integrations.flax_nnx import Optimizer

    class Model(nnx.Module):
        def __init__(self, rngs):
            names = nnx.with_partitioning(
                nnx.initializers.lecun_normal(), (None, "model"), eager_sharding=False
            )
            self.first = nnx.Linear(3, 64, kernel_init=names, rngs=rngs)
            self.second = nnx.Linear(64, 64, rngs=rngs)

        def __call__(self, x):
            return self.second(nnx.relu(self.first(x)))

    @nnx.jit
    def train(model, optimizer, x):
        loss = lambda model: jnp.mean(model(x) ** 2)  # noqa: E731
        value, grads = nnx.value_and_grad(loss)(model)
        optimizer.update(model, grads)
        return value

    x, losses, codes = jnp.linspace(-1, 1, 12).reshape(4, 3), {}, {}
    for kind in (nnx.Optimizer, Optimizer):
        model = Model(nnx.Rngs(0))
        optimizer = kind(model, eight(1e-2), wrt=nnx.Param)
        losses[kind] = [float(train(model, optimizer, x)) for _ in range(4)]
        state = optimizer.opt_state
        assert state.mu["second"]["kernel"].dtype == jnp.uint8
        assert state.nu_scales["second"]["kernel"].shape == (64, 2)
        for name in ("mu", "mu_scales"):
            variable = getattr(state, name)["first"]["kernel"]
            assert variable.get_metadata() == model.first.kernel.get_metadata()
        codes[kind] = nnx.as_pure(state)
        assert np.isfinite(
            optadamw.dequantize(codes[kind]).nu["second"]["kernel"]
        ).all()
    assert losses[Optimizer][-1] < losses[Optimizer][0]
    np.testing.assert_allclose(losses[Optimizer], losses[nnx.Optimizer], rtol=1e-3)


# --- What is refused -----------------------------------------------------------------


def by_schedule(step):
    return 0.9 + 0.0 * step.astype(jnp.float32)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"precision": "Compact"},
            ValueError,
            "`precision` must be one of 'full', 'mixed', 'compact', or None; got",
        ),
        ({"precision": 8}, TypeError, "`precision` must be one of 'full'"),
        ({"precision": blockwise()}, TypeError, "`precision` must be one of 'full'"),
        (
            {"nu_dtype": "float16"},
            ValueError,
            "`nu_dtype` must be a form with the range of float32; got 'float16'",
        ),
        (
            {"nu_dtype": stochastic("float16")},
            ValueError,
            "`nu_dtype` must be a form with the range",
        ),
        ({"nu_dtype": "int8"}, TypeError, "`nu_dtype` must be a floating dtype"),
        ({"mu_dtype": "int8"}, TypeError, "`mu_dtype` must be a floating dtype"),
        ({"mu_dtype": "uint8"}, TypeError, "`mu_dtype` must be a floating dtype"),
        ({"mu_dtype": "8bit"}, TypeError, "`mu_dtype` must be a floating dtype"),
        ({"mu_dtype": "complex64"}, TypeError, "`mu_dtype` must be a floating dtype"),
        (
            {"mu_dtype": "float8_e4m3fn"},
            TypeError,
            "`mu_dtype` must be a floating dtype",
        ),
        (
            {"nu_dtype": jnp.float8_e5m2},
            TypeError,
            "`nu_dtype` must be a floating dtype",
        ),
        ({"mu_dtype": int}, TypeError, "`mu_dtype` must be a floating dtype"),
        ({"mu_dtype": type(blockwise())}, TypeError, "`mu_dtype` must be"),
        ({"nu_dtype": type(stochastic())}, TypeError, "`nu_dtype` must be"),
        ({"mu_dtype": blockwise}, TypeError, "Call it: blockwise()"),
        ({"nu_dtype": blockwise}, TypeError, "Call it: blockwise()"),
        ({"nu_dtype": stochastic}, TypeError, "Call it"),
        (
            {"nu_dtype": "float64"},
            ValueError,
            "`nu_dtype` must be a dtype that is switched on",
        ),
        (
            {"ema_decay": 0.9, "ema_dtype": blockwise()},
            ValueError,
            "`ema_dtype` must be 'float32', 'float64', stochastic('bfloat16')",
        ),
        (
            {"ema_decay": 0.9, "ema_dtype": "bfloat16"},
            ValueError,
            "`ema_dtype` must be 'float32'",
        ),
        (
            {"ema_decay": 0.9, "ema_dtype": "float16"},
            ValueError,
            "`ema_dtype` must be 'float32'",
        ),
        ({"ema_decay": 0.9, "ema_dtype": "int8"}, TypeError, "`ema_dtype` must be"),
        ({"ema_decay": 0.9, "ema_dtype": blockwise}, TypeError, "`ema_dtype` must be"),
        (
            {"ema_dtype": SIXTEEN},
            ValueError,
            "`ema_dtype` has no effect without `ema_decay`",
        ),
        (
            {"accumulator_dtype": "float32"},
            ValueError,
            "`accumulator_dtype` has no effect without `accumulate_steps`",
        ),
        (
            {"accumulate_steps": 2, "accumulator_dtype": blockwise()},
            TypeError,
            "`accumulator_dtype` must be a floating dtype",
        ),
        (
            {"accumulate_steps": 2, "accumulator_dtype": stochastic()},
            TypeError,
            "`accumulator_dtype` must be a floating dtype",
        ),
        (
            {"accumulate_steps": 2, "accumulator_dtype": "int8"},
            TypeError,
            "`accumulator_dtype` must be a floating dtype",
        ),
        ({"update_dtype": stochastic()}, TypeError, "`update_dtype` must be"),
        (
            {"mu_dtype": blockwise(), "skip_nonfinite": False},
            ValueError,
            "need the check of skip_nonfinite; got skip_nonfinite=False",
        ),
        (
            {"nu_dtype": blockwise(), "skip_nonfinite": False},
            ValueError,
            "need the check of skip_nonfinite",
        ),
        (
            {"amsgrad": True, "nu_dtype": blockwise(), "skip_nonfinite": False},
            ValueError,
            "need the check of skip_nonfinite",
        ),
        (
            {"mu_dtype": NEAREST, "seed": 1},
            ValueError,
            "`seed` has no effect where nothing is rounded at random",
        ),
        ({"mu_dtype": "bfloat16", "seed": 1}, ValueError, "`seed` has no effect"),
        ({"precision": "mixed", "seed": 1}, ValueError, "`seed` has no effect"),
        (
            {"precision": "compact", "seed": -1},
            ValueError,
            "`seed` must be a whole number",
        ),
        (
            {"precision": "compact", "seed": 1.0},
            TypeError,
            "`seed` must be a whole number",
        ),
    ],
    ids=without_addresses,
)
def test_forms_that_make_no_sense(options, error, message):
    assert_fails(error, message, optadamw.adamw, 1e-3, **options)


@pytest.mark.parametrize("dtype", ["float16", stochastic("float16")], ids=str)
def test_a_maximum_needs_the_range_of_float32_too(dtype):
    """It is what `nu_dtype` takes."""
    with pytest.raises(ValueError, match="float16"):
        optadamw.amsgrad_max(dtype=dtype)


@pytest.mark.parametrize("dtype", ["int8", "float8_e5m2", int, blockwise])
def test_a_maximum_of_no_such_form(dtype):
    with pytest.raises(TypeError, match="`dtype` must be"):
        optadamw.amsgrad_max(dtype=dtype)


FROZEN = {
    "a default": {"nu_dtype": "bfloat16"},
    "a constant": {"nu_dtype": "bfloat16", "b2": 0.998},
    "an array": {"nu_dtype": "bfloat16", "b2": jnp.asarray(0.999)},
    "a schedule": {"nu_dtype": "bfloat16", "b2": by_schedule},
    "8 bits": {"nu_dtype": NEAREST},
    "8 bits, an array": {"nu_dtype": NEAREST, "b2": jnp.asarray(0.95)},
    "8 bits, a schedule": {"nu_dtype": NEAREST, "b2": by_schedule},
    "with a preset": {"nu_dtype": "bfloat16", "precision": "compact"},
}


@pytest.mark.parametrize("options", FROZEN.values(), ids=FROZEN)
def test_a_second_moment_that_would_freeze(options):
    """The error says what was given and what to choose."""
    with pytest.raises(ValueError) as caught:
        optadamw.adamw(1e-3, **options)
    text = str(caught.value)
    assert "`nu_dtype`" in text
    assert "b2=" in text
    assert "stochastic('bfloat16'), blockwise() or 'float32'" in text


@pytest.mark.parametrize("form", ["bfloat16", NEAREST], ids=["bfloat16", "8-bit"])
def test_a_second_moment_with_a_traced_b2(form):
    def of(b2):
        return optadamw.adamw(1e-3, b2=b2, nu_dtype=form).init(PARAMS).nu

    with pytest.raises(ValueError, match=r"`nu_dtype` is .* b2=.*not known"):
        jax.jit(of)(0.5)


def test_first_moments_that_would_freeze_and_betas_that_let_go():
    for options in (
        {"mu_dtype": "bfloat16", "b1": 0.999},
        {"mu_dtype": NEAREST, "b1": 0.95},
    ):
        with pytest.raises(ValueError, match=r"`mu_dtype`.*b1=.*stochastic"):
            optadamw.adamw(1e-3, **options)
    for options in (
        {"mu_dtype": "bfloat16"},
        {"mu_dtype": NEAREST},
        {"nu_dtype": "bfloat16", "b2": 0.99},
        {"nu_dtype": NEAREST, "b2": 0.9},
        {"nu_dtype": SIXTEEN, "b2": by_schedule},
        {"nu_dtype": EIGHT, "b2": jnp.asarray(0.9999)},
    ):
        params = {"w": PARAMS["odd"]}
        _, state = run(optadamw.adamw(1e-3, **options), [params] * 2, params)
        assert np.isfinite(optadamw.dequantize(state).nu["w"]).all()


@pytest.mark.parametrize("b2", [0.99, 0.9961])
def test_what_is_let_go_decays(b2):
    """Just above the limit, from any start, to under a thousandth."""
    if b2 > 1 - 2**-8:
        with pytest.raises(ValueError, match="never decay"):
            optadamw.adamw(1e-3, b2=b2, nu_dtype="bfloat16")
        return
    tx = optadamw.adamw(1e-3, b2=b2, nu_dtype="bfloat16")
    params = {"w": jnp.zeros(512)}
    _, state = run(tx, [{"w": jnp.linspace(1.0, 2.0, 512)}], params)
    start = np.asarray(state.nu["w"], np.float32)
    _, state = run(tx, [{"w": jnp.zeros(512)}] * 1_000, params, state)
    assert np.all(np.asarray(state.nu["w"], np.float32) < 1e-3 * start)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"block_size": 0},
            ValueError,
            "`block_size` must be a whole number >= 1; got 0",
        ),
        ({"block_size": True}, TypeError, "`block_size` must be a whole number >= 1"),
        ({"block_size": 32.0}, TypeError, "`block_size` must be a whole number >= 1"),
        (
            {"min_size": -1},
            ValueError,
            "`min_size` must be a whole number >= 0; got -1",
        ),
        ({"min_size": "a"}, TypeError, "`min_size` must be a whole number >= 0"),
        (
            {"rounding": "up"},
            ValueError,
            "`rounding` must be 'nearest' or 'stochastic'; got 'up'",
        ),
        ({"rounding": None}, ValueError, "`rounding` must be"),
        ({"keep": 3}, TypeError, "`keep` must be a pattern"),
    ],
    ids=without_addresses,
)
def test_arguments_of_blockwise(options, error, message):
    assert_fails(error, message, blockwise, **options)


@pytest.mark.parametrize("dtype", ["float32", "int16", "float8_e4m3fn", int, None, 3])
def test_arguments_of_stochastic(dtype):
    assert_fails(
        TypeError, "`dtype` must be 'bfloat16' or 'float16'", stochastic, dtype
    )


@pytest.mark.parametrize(
    ("form", "leaf", "error", "message"),
    [
        (
            blockwise(block_size=24),
            (64, 64),
            ValueError,
            "Leaf 'a/w': its last axis of 64 is not a multiple of block_size=24",
        ),
        (
            blockwise(block_size=128),
            (64, 64),
            ValueError,
            "Leaf 'a/w': its last axis of 64",
        ),
        (EIGHT, (4, 8, "complex64"), TypeError, "Leaf 'a/w': it is complex64"),
        (blockwise(keep="nope"), (64, 64), ValueError, "'nope' matches no parameter"),
    ],
    ids=["24", "128", "complex", "pattern"],
)
def test_leaves_that_do_not_fit(form, leaf, error, message):
    shape = tuple(n for n in leaf if isinstance(n, int))
    dtype = leaf[-1] if isinstance(leaf[-1], str) else "float32"
    params = {"a": {"w": jnp.ones(shape, dtype)}}
    for options in ({"mu_dtype": form}, {"nu_dtype": form}):
        tx = optadamw.adamw(1e-3, **options)
        with pytest.raises(error, match=re.escape(message)) as caught:
            tx.init(params)
        assert form == blockwise(keep="nope") or "keep=" in str(caught.value)
        with pytest.raises(error, match=re.escape(message)):
            jax.jit(tx.init)(params)


def test_what_does_not_fit_is_left_wide_when_told():
    params = {"z": jnp.ones((4, 8), jnp.complex64), "w": jnp.ones((4, 10))}
    form = blockwise(min_size=0, block_size=5, keep="z")
    _, state = run(eight(form=form), [params], params)
    assert state.mu["z"].dtype == jnp.complex64
    assert state.mu_scales["w"].shape == (4, 2)


def test_a_chain_without_a_guard():
    """Refused with the parameters, as a guard may still come around it."""
    for tx in (
        optadamw.scale_by_adam(mu_dtype=EIGHT),
        optadamw.scale_by_adam(nu_dtype=EIGHT),
        optadamw.chain(optadamw.scale_by_adam(), optadamw.amsgrad_max(dtype=EIGHT)),
    ):
        with pytest.raises(ValueError, match=r"8 bits.*Put skip_nonfinite\(\.\.\.\)"):
            tx.init(PARAMS)
        optadamw.skip_nonfinite(tx).init(PARAMS)
        optadamw.skip_spikes(tx).init(PARAMS)
    optadamw.scale_by_adam(mu_dtype=SIXTEEN, nu_dtype=SIXTEEN).init(PARAMS)


def test_adamw_brings_its_guard():
    for options in (
        {"mu_dtype": EIGHT},
        {"nu_dtype": EIGHT},
        {"precision": "compact", "commit": "nearest"},
        {"mu_dtype": EIGHT, "skip_nonfinite": True, "max_consecutive": 3},
        {"mu_dtype": EIGHT, "skip_spikes": True},
        {"mu_dtype": EIGHT, "loss_scale": optadamw.DynamicLossScale()},
    ):
        tx = optadamw.adamw(1e-3, **options)
        params = {"w": PARAMS["odd"].astype(jnp.bfloat16)}
        state, bad = tx.init(params), {"w": jnp.full((5, 7), jnp.nan)}
        after, state = jax.jit(tx.step)(bad, state, params)
        trees.assert_same_bits(after, params)
        assert int(state.step) == 0


@pytest.mark.parametrize("commit", ["kahan", "master"])
def test_commits_of_float32(commit):
    with pytest.raises(ValueError, match=r"is for 16-bit parameters.*'kernel'"):
        eight(commit=commit).init(PARAMS)


OTHERS = {
    "8-bit": eight(),
    "float32": optadamw.adamw(1e-2, skip_nonfinite=True),
    "16-bit": eight(form=SIXTEEN, skip_nonfinite=True),
    "other blocks": eight(form=blockwise(min_size=0, block_size=1)),
    "one in 8 bits": optadamw.adamw(1e-2, mu_dtype=EIGHT),
    "kept": eight(form=blockwise(min_size=0, keep="kernel")),
}


@pytest.mark.parametrize("there", OTHERS)
@pytest.mark.parametrize("here", OTHERS)
def test_a_state_of_another_form_is_refused(here, there):
    if here == there:
        return
    state = OTHERS[there].init(PARAMS)
    with pytest.raises((ValueError, TypeError)) as caught:
        OTHERS[here].step(GRADS[0], state, PARAMS)
    text = str(caught.value)
    assert "tx.init" in text or "checkpoint.restore" in text
    assert "_scales`" in text or "Leaf '" in text


def test_a_dequantized_state_is_refused():
    tx = eight()
    with pytest.raises(ValueError, match="mu_scales"):
        tx.step(GRADS[0], optadamw.dequantize(tx.init(PARAMS)), PARAMS)


def test_blocks_are_a_tree():
    blocks = encoded(jnp.ones((2, 32)), 8, None, signed=True)
    assert isinstance(blocks, Blocks)
    assert blocks.block == 8
