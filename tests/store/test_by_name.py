"""Buffers are found by name, and read without this library."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optadamw
from optadamw import blockwise, checkpoint
from tests.store.runs import (
    GRADS,
    PARAMS,
    SIXTEEN,
    assert_within,
    by_the_formula,
    eight,
    run,
)
from tests.support import trees


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
