"""Stores that are refused, each with the words of its error."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optadamw
from optadamw import blockwise, stochastic
from optadamw.store.block_code import Blocks, encoded
from tests.store.runs import (
    EIGHT,
    GRADS,
    PARAMS,
    SIXTEEN,
    assert_fails,
    eight,
    run,
    without_addresses,
)
from tests.support import trees

NEAREST = blockwise(min_size=0, rounding="nearest")


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
        ({"mu_dtype": "bool"}, TypeError, "`mu_dtype` must be a floating dtype"),
        ({"mu_dtype": "complex128"}, ValueError, "a dtype that is switched on"),
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
        ({"mu_dtype": stochastic}, TypeError, "Call it: stochastic()"),
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
        (
            {"accumulate_steps": 257, "accumulator_dtype": "bfloat16"},
            ValueError,
            "`accumulate_steps` must be at most 256 with an accumulator in bfloat16, "
            "in which a longer sum stands still; got 257. Leave `accumulator_dtype` "
            "out, so that it is float32.",
        ),
        (
            {"accumulate_steps": jnp.int32(2049), "accumulator_dtype": "float16"},
            ValueError,
            "`accumulate_steps` must be at most 2048 with an accumulator in float16",
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
    """`amsgrad_max` refuses float16 as `nu_dtype` does."""
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


@pytest.mark.parametrize("name", ["mu_dtype", "update_dtype"])
def test_an_integer_that_python_cannot_print_is_no_dtype(name):
    with pytest.raises(TypeError, match=f"`{name}` must be a floating dtype.*cannot"):
        optadamw.adamw(0.1, **{name: 10**5000})
