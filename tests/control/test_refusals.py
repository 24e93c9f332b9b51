"""Wrong settings around a chain are refused in words, or counted (E1 to E3)."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optadamw
from optadamw import DynamicLossScale, adamw

INNER = adamw(0.1)
PARAMS = {"w": jnp.ones(3)}
GRADS = {"w": jnp.full(3, 0.5)}

WRAPPERS = {
    "multi_steps": lambda tx: optadamw.multi_steps(tx, 2),
    "skip_nonfinite": optadamw.skip_nonfinite,
    "skip_spikes": optadamw.skip_spikes,
    "with_loss_scale": lambda tx: optadamw.with_loss_scale(tx, 2.0),
    "with_stats": optadamw.with_stats,
}
each_wrapper = pytest.mark.parametrize(
    ("name", "wrap"), WRAPPERS.items(), ids=list(WRAPPERS)
)


def refused(error: Any, text: str, call: Any, *args: Any, **kwargs: Any) -> None:
    """Assert that the call raises `error`, with a message that begins with `text`."""
    with pytest.raises(error) as caught:
        call(*args, **kwargs)
    assert str(caught.value).startswith(text), caught.value


# --- Nesting -------------------------------------------------------------------------


@each_wrapper
@pytest.mark.parametrize(
    "inner", [optax.adam(1.0), None, INNER.init], ids=["optax", "none", "init"]
)
def test_an_inner_from_elsewhere_is_refused(name, wrap, inner):
    text = "`inner` must be a transformation of optadamw; got "
    with pytest.raises(TypeError, match=f"{name} changes its rules") as caught:
        wrap(inner)
    assert str(caught.value).startswith(text)


@each_wrapper
def test_twice_is_refused(name, wrap):
    text = f"{name} stands around a transformation that has one already"
    refused(ValueError, text, wrap, wrap(INNER))
    # Also with another in between, and from the arguments of adamw.
    between = WRAPPERS["with_stats" if name != "with_stats" else "multi_steps"]
    refused(ValueError, text, wrap, between(wrap(INNER)))


def test_two_guards_are_refused():
    first, second = optadamw.skip_nonfinite, optadamw.skip_spikes
    refused(ValueError, "skip_spikes stands around", second, first(INNER))
    refused(ValueError, "skip_nonfinite stands around", first, second(INNER))


@each_wrapper
def test_a_part_of_a_longer_chain_is_refused(name, wrap):
    clip = optadamw.clip_by_value(1.0)
    with pytest.raises(ValueError, match="Wrap the whole chain") as caught:
        optadamw.chain(clip, wrap(INNER))
    assert name in str(caught.value)
    with pytest.raises(ValueError, match="Wrap the whole chain"):
        optadamw.chain(wrap(INNER), clip)
    assert optadamw.chain(wrap(INNER)) == wrap(INNER)


# --- Arguments -----------------------------------------------------------------------

WHOLE = "a whole number of steps >= 1; got "
BAD_EVERY = [
    (ValueError, 0),
    (ValueError, -1),
    (ValueError, 1.5),
    (ValueError, float("nan")),
    (ValueError, float("inf")),
    (ValueError, np.array([1, 2])),
    (ValueError, jnp.array(0)),
    (ValueError, jnp.array(1.5)),
    (TypeError, True),
    (TypeError, "2"),
]


@pytest.mark.parametrize(
    ("error", "value"), BAD_EVERY, ids=[repr(row[1]) for row in BAD_EVERY]
)
def test_a_window_is_a_whole_number_of_at_least_one(error, value):
    refused(error, f"`every` must be {WHOLE}", optadamw.multi_steps, INNER, every=value)
    text = f"`accumulate_steps` must be {WHOLE}"
    refused(error, text, adamw, 0.1, accumulate_steps=value)


@pytest.mark.parametrize("value", [0.0, -3, 0.2])
def test_a_schedule_below_one_counts_as_one(value):
    tx = optadamw.multi_steps(optadamw.scale_by_learning_rate(1.0), lambda _: value)
    _, state = tx.step(GRADS, tx.init(PARAMS), PARAMS)
    assert int(state.step) == 1


BAD_OPTIONS = [
    # Loss scale; the last two are 0 and infinite in float32.
    (ValueError, "`loss_scale` must be ", {"loss_scale": 0}),
    (ValueError, "`loss_scale` must be ", {"loss_scale": -2.0}),
    (ValueError, "`loss_scale` must be ", {"loss_scale": float("nan")}),
    (ValueError, "`loss_scale` must be ", {"loss_scale": float("inf")}),
    (ValueError, "`loss_scale` must be ", {"loss_scale": jnp.array(0.0)}),
    (ValueError, "`loss_scale` must be ", {"loss_scale": np.ones(2)}),
    (TypeError, "`loss_scale` must be a number, a 0-d", {"loss_scale": lambda _: 1.0}),
    (TypeError, "`loss_scale` must be ", {"loss_scale": True}),
    (ValueError, "`loss_scale` must be ", {"loss_scale": 1e-50}),
    (ValueError, "`loss_scale` must be ", {"loss_scale": 1e300}),
    (
        ValueError,
        "A dynamic `loss_scale` needs the check of skip_nonfinite",
        {"loss_scale": DynamicLossScale(), "skip_nonfinite": False},
    ),
    # Accumulation.
    (ValueError, "`accumulate_steps` must be ", {"accumulate_steps": 2**40}),
    (ValueError, "`accumulate_steps` must be ", {"accumulate_steps": 10**400}),
    (
        ValueError,
        "`accumulate_steps` must be ",
        {"accumulate_steps": 10**5000},
    ),
    (ValueError, "`max_consecutive` has no effect", {"max_consecutive": 10**5000}),
    (ValueError, "`accumulate_steps` must be ", {"accumulate_steps": float("inf")}),
    (
        ValueError,
        "`accumulator_dtype` has no effect without `accumulate_steps`; got "
        "accumulator_dtype='float32'. Give accumulate_steps, for example 8, or leave",
        {"accumulator_dtype": "float32"},
    ),
    (
        TypeError,
        "`accumulator_dtype` must be ",
        {"accumulate_steps": 2, "accumulator_dtype": "int32"},
    ),
    # Guards.
    (TypeError, "`skip_nonfinite` must be True or False; got 1", {"skip_nonfinite": 1}),
    (ValueError, "`on_bad_micro_step` has no effect", {"on_bad_micro_step": "drop"}),
    (
        ValueError,
        "`on_bad_micro_step` has no effect without `accumulate_steps`; got "
        "on_bad_micro_step='drop'. Give accumulate_steps, for example 8, or leave it",
        {"skip_nonfinite": True, "on_bad_micro_step": "drop"},
    ),
    (
        ValueError,
        "`on_bad_micro_step` has no effect without `accumulate_steps`; got",
        {"loss_scale": DynamicLossScale(), "on_bad_micro_step": "abort"},
    ),
    (
        ValueError,
        "`on_bad_micro_step` has no effect without `accumulate_steps`; got "
        "on_bad_micro_step='wait'",
        {"skip_spikes": {"on_bad_micro_step": "wait"}},
    ),
    (ValueError, "`max_consecutive` has no effect", {"max_consecutive": 2}),
    (
        ValueError,
        "`on_bad_micro_step` must be 'drop', 'wait', 'abort' or None; got 'ignore'",
        {"skip_nonfinite": True, "on_bad_micro_step": "ignore"},
    ),
    (
        ValueError,
        "`max_consecutive` must be a whole number of steps >= 1; got 0",
        {"skip_nonfinite": True, "max_consecutive": 0},
    ),
    (
        ValueError,
        "`max_consecutive` must be a whole number of steps >= 1; got 1.5",
        {"skip_nonfinite": True, "max_consecutive": 1.5},
    ),
    (
        ValueError,
        "`max_consecutive` must be ",
        {"skip_nonfinite": True, "max_consecutive": 2**31},
    ),
    (TypeError, "`skip_spikes` must be a bool, None or a map", {"skip_spikes": 3}),
    (
        ValueError,
        "`skip_spikes` skips gradients that are not finite too; got skip_nonfinite=F",
        {"skip_spikes": True, "skip_nonfinite": False},
    ),
    (ValueError, "`sigmas` must be finite and > 0", {"skip_spikes": {"sigmas": 0}}),
    (TypeError, "`sigmas` must be a number", {"skip_spikes": {"sigmas": lambda _: 6}}),
    (ValueError, "`window` must be at least 2; got 1", {"skip_spikes": {"window": 1}}),
    (TypeError, "`window` must be a whole number", {"skip_spikes": {"window": 4.0}}),
    (
        ValueError,
        "`min_history` must be at least 2 and at most 4; got 5",
        {"skip_spikes": {"window": 4, "min_history": 5}},
    ),
    (ValueError, "`of` must be 'grad_norm', 'loss'", {"skip_spikes": {"of": ()}}),
    (ValueError, "`of` must be 'grad_norm', 'loss'", {"skip_spikes": {"of": "lr"}}),
    (TypeError, "`of` must be 'grad_norm', 'loss'", {"skip_spikes": {"of": 3}}),
    # Statistics.
    (ValueError, "`stats` must be True, False, None or 'norms'", {"stats": "all"}),
]


@pytest.mark.parametrize(
    ("error", "text", "options"),
    BAD_OPTIONS,
    ids=[f"{i}-{'-'.join(row[2])}" for i, row in enumerate(BAD_OPTIONS)],
)
def test_a_bad_option_is_refused_at_construction(error, text, options):
    refused(error, text, adamw, 0.1, **options)


BAD_SCALES = [
    (ValueError, "initial", 0),
    (ValueError, "initial", float("inf")),
    (ValueError, "initial", 2.0**30),
    (TypeError, "initial", "x"),
    (ValueError, "growth_factor", 1.0),
    (ValueError, "growth_factor", float("nan")),
    (ValueError, "backoff_factor", 1.0),
    (ValueError, "backoff_factor", 0.0),
    (ValueError, "growth_interval", 0),
    (TypeError, "growth_interval", 1.5),
    (TypeError, "growth_interval", True),
    # A count of int32 would never get there; JAX's own words would say so when traced.
    (ValueError, "growth_interval", 2**31),
    (ValueError, "minimum", 0.0),
    (ValueError, "minimum", 2.0**-140),
    (ValueError, "maximum", 2.0**128),
]


@pytest.mark.parametrize(("error", "name", "value"), BAD_SCALES)
def test_a_bad_dynamic_scale_is_refused(error, name, value):
    with pytest.raises(error, match=f"`{name}`") as caught:
        DynamicLossScale(**{name: value})
    assert re.escape(repr(value)) in re.escape(str(caught.value))


def test_bad_statistics_are_refused():
    stats = optadamw.with_stats
    refused(TypeError, "`groups` must be a mapping", stats, INNER, groups=["w"])
    refused(ValueError, "`groups` must be named", stats, INNER, groups={"all": "w"})
    refused(TypeError, "`norms` must be True or False", stats, INNER, norms="yes")
    unmatched = stats(INNER, groups={"bias": "*/bias"})
    text = "`groups['bias']`: the pattern '*/bias' matches no parameter"
    refused(ValueError, text, unmatched.init, PARAMS)


# --- Weights and losses --------------------------------------------------------------

HALF = adamw(0.1, accumulate_steps=2)
BAD_WEIGHTS = [
    (ValueError, -1),
    (ValueError, float("nan")),
    (ValueError, float("inf")),
    (ValueError, np.float32(-1)),
    (ValueError, np.ones(2)),
    (TypeError, True),
    (TypeError, "3"),
    (TypeError, 1j),
]


@pytest.mark.parametrize(("error", "weight"), BAD_WEIGHTS)
def test_a_weight_that_is_known_to_be_bad_is_refused(error, weight):
    step, state = HALF.step, HALF.init(PARAMS)
    refused(error, "`weight` must be ", step, GRADS, state, PARAMS, weight=weight)


@pytest.mark.parametrize("weight", [0.0, -1.0, np.nan, np.inf, -np.inf])
def test_a_traced_weight_that_is_bad_is_counted(weight):
    """And the micro-batch left out: the window is that of the others."""
    step = jax.jit(HALF.step)
    params, state = step(GRADS, HALF.init(PARAMS), PARAMS, weight=jnp.float32(weight))
    assert int(optadamw.stats_of(state).dropped) == 1 and float(state.weight) == 0
    params, state = step(GRADS, state, params, weight=jnp.float32(3))
    assert int(state.step) == 1 and int(optadamw.stats_of(state).skipped) == 0
    once = INNER.step(GRADS, INNER.init(PARAMS), PARAMS)[0]
    np.testing.assert_allclose(params["w"], once["w"], rtol=1e-6)


@pytest.mark.parametrize("value", [0.0, np.nan])
@pytest.mark.parametrize("mode", ["drop", "wait", "abort"])
def test_a_micro_batch_of_weight_zero_is_no_fault(mode, value):
    """A batch of padding alone has a mean over nothing: its gradient is NaN."""
    tx = optadamw.adamw(
        *(0.1,),
        **{"accumulate_steps": 2, "on_bad_micro_step": mode, "max_consecutive": 1},
        skip_spikes={"of": ("grad_norm", "loss")},
        loss_scale=optadamw.DynamicLossScale(initial=4.0),
    )
    step, empty = jax.jit(tx.step), {"w": jnp.full_like(PARAMS["w"], value)}
    params, state = PARAMS, tx.init(PARAMS)
    for grads, weight in ((empty, 0), (GRADS, 3)):
        loss = jnp.float32(value if weight == 0 else 1)
        params, state = step(
            grads, state, params, weight=jnp.float32(weight), loss=loss
        )
        stats = optadamw.stats_of(state)
        assert (int(stats.nonfinite), bool(stats.stalled)) == (0, False)
    assert (int(state.step), int(stats.fill), int(stats.dropped)) == (1, 0, 1)
    assert float(stats.loss_scale) == 4


def test_a_window_of_which_nothing_was_kept_is_skipped_and_counted():
    params, state = PARAMS, HALF.init(PARAMS)
    for _ in range(2):
        params, state = HALF.step(GRADS, state, params, weight=jnp.float32(0))
    stats = optadamw.stats_of(state)
    assert (int(stats.dropped), int(stats.skipped), int(stats.step)) == (2, 1, 0)
    assert int(state.micro_step) == 0 and params["w"].tolist() == [1, 1, 1]


def test_a_bad_loss_is_refused():
    tx = optadamw.skip_spikes(INNER, of="loss")
    step, state = tx.step, tx.init(PARAMS)
    text = "`loss` is missing, and skip_spikes watches it. Pass the loss"
    refused(ValueError, text, step, GRADS, state, PARAMS)
    for error, loss in ((TypeError, "x"), (TypeError, 1j), (ValueError, np.ones(2))):
        refused(error, "`loss` must be a", step, GRADS, state, PARAMS, loss=loss)


# --- States --------------------------------------------------------------------------

KEEPS = adamw(0.1, accumulate_steps=2, ema_decay=0.9)
STATE = KEEPS.init(PARAMS)


@pytest.mark.parametrize("method", ["step", "update", "jit_step"])
def test_the_state_of_another_transformation_is_refused(method):
    text = "`state` lacks the buffer `ema`"
    refused(ValueError, text, getattr(KEEPS, method), GRADS, INNER.init(PARAMS), PARAMS)
    text = "`state` holds the buffer `ema`"
    refused(ValueError, text, getattr(INNER, method), GRADS, STATE, PARAMS)
    text = "`state` must be the State that tx.init(params) returned"
    foreign = optax.adam(1.0).init(PARAMS)
    refused(TypeError, text, getattr(KEEPS, method), GRADS, foreign, PARAMS)


BROKEN = {
    "micro_step": jnp.float32(0),
    "weight": jnp.float16(0),
    "events": STATE.events[:3],
    "step": jnp.int16(0),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_small_field_of_another_layout_is_refused(name):
    broken = STATE._replace(**{name: BROKEN[name]})
    text = f"`state.{name}` must be"
    refused(TypeError, text, KEEPS.step, GRADS, broken, PARAMS)
    refused(TypeError, text, KEEPS.flush, broken, PARAMS)


@pytest.mark.parametrize(
    "accumulator",
    [{"w": jnp.zeros(2)}, {"w": jnp.zeros(3, jnp.bfloat16)}],
    ids=["shape", "dtype"],
)
def test_an_accumulator_of_another_layout_is_refused(accumulator):
    broken = STATE._replace(accumulator=accumulator)
    refused(ValueError, "Leaf 'w': its buffer is ", KEEPS.step, GRADS, broken, PARAMS)
    refused(ValueError, "Leaf 'w': its buffer is ", KEEPS.flush, broken, PARAMS)


def test_flush_speaks_of_its_own_arguments():
    refused(
        ValueError, "`state` lacks the buffer", KEEPS.flush, INNER.init(PARAMS), PARAMS
    )
    with pytest.raises(TypeError, match=r"\(state, params\)"):
        KEEPS.flush(PARAMS, STATE)
    text = "`state` must be the State that tx.init(params) returned"
    refused(TypeError, text, KEEPS.flush, optax.adam(1.0).init(PARAMS), PARAMS)


def test_there_must_be_one_state_to_read():
    text = "`state` holds no loss scale; it must hold one"
    refused(ValueError, text, optadamw.scale_loss, STATE, 1.0)
    text = "`state` holds 0 states of optadamw"
    refused(ValueError, text, optadamw.stats_of, optax.adam(1.0).init(PARAMS))
    text = "`state` holds 2 states of optadamw"
    refused(ValueError, text, optadamw.stats_of, (STATE, STATE))


def test_a_micro_batch_of_weight_zero_ends_no_row_of_bad_ones():
    params = jnp.ones(2)
    tx = optadamw.adamw(0.1, accumulate_steps=2, skip_nonfinite=True, max_consecutive=3)
    state, found = tx.init(params), []
    for weight in (1.0, 1.0, 0.0, 1.0):
        params, state = tx.step(params * jnp.nan, state, params, weight=weight)
        stats = optadamw.stats_of(state)
        found.append((int(stats.consecutive), bool(stats.stalled)))
    assert found == [(1, False), (2, False), (2, False), (3, True)]
