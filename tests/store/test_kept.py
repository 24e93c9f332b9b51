"""Moments and averages in 8 and 16 bits: one step, forms, presets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optadamw
from optadamw import blockwise
from optadamw.store.block_code import block_of
from tests.store.runs import (
    GRADS,
    PARAMS,
    SHAPES,
    SIXTEEN,
    assert_within,
    eight,
    nbytes,
    normal,
    run,
)
from tests.support import trees

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
