"""Schedules that end say where, and statistics count the steps beyond."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optadamw
from optadamw import adamw, describe, stats_of
from optadamw.schedules import (
    constant_schedule,
    cosine_decay_schedule,
    cosine_onecycle_schedule,
    cosine_warm_restarts,
    exponential_decay,
    join_schedules,
    linear_onecycle_schedule,
    linear_schedule,
    piecewise_constant_schedule,
    piecewise_interpolate_schedule,
    polynomial_schedule,
    sgdr_schedule,
    warmup_constant_schedule,
    warmup_cosine_decay_schedule,
    warmup_exponential_decay_schedule,
    warmup_stable_decay_schedule,
)

CYCLE = {"init_value": 0.0, "peak_value": 1.0, "warmup_steps": 2, "decay_steps": 6}
ENDING = {
    "cosine": (cosine_decay_schedule(1.0, 7), 7),
    "linear": (linear_schedule(1.0, 0.5, 4, 3), 7),
    "polynomial": (polynomial_schedule(1.0, 0.0, 2, 4, 5), 9),
    "warm-up and cosine": (warmup_cosine_decay_schedule(0.0, 1.0, 2, 9), 9),
    "one cycle, linear": (linear_onecycle_schedule(20, 1.0), 20),
    "one cycle, cosine": (cosine_onecycle_schedule(20, 1.0), 20),
    "interpolated": (
        piecewise_interpolate_schedule("linear", 1.0, {3: 0.5, 8: 0.1}),
        8,
    ),
    "restarts": (sgdr_schedule([CYCLE, CYCLE]), 12),
    "stable": (warmup_stable_decay_schedule(0.0, 1.0, 2, 5, 3), 10),
    "joined": (
        join_schedules([constant_schedule(1.0), linear_schedule(1.0, 0.0, 4)], [5]),
        9,
    ),
}
ENDLESS = (
    constant_schedule(1.0),
    warmup_constant_schedule(0.0, 1.0, 3),
    exponential_decay(1.0, 5, 0.5),
    warmup_exponential_decay_schedule(0.0, 1.0, 2, 5, 0.5),
    piecewise_constant_schedule(1.0, {3: 0.1}),
    piecewise_interpolate_schedule("linear", 1.0),
    join_schedules([linear_schedule(0.0, 1.0, 4), constant_schedule(1.0)], [4]),
)


@pytest.mark.parametrize("name", ENDING)
def test_a_schedule_is_constant_from_its_horizon_on_and_not_before(name):
    schedule, horizon = ENDING[name]
    assert schedule.horizon == horizon
    values = [float(schedule(step)) for step in (horizon - 1, horizon, horizon + 5)]
    assert values[0] != values[1] == values[2]


@pytest.mark.parametrize("schedule", ENDLESS, ids=repr)
def test_a_schedule_without_an_end_has_no_horizon(schedule):
    assert schedule.horizon is None
    assert "!" not in describe(adamw(schedule), jnp.ones(2))


def test_restarts_that_go_on_have_no_line():
    assert "!" not in describe(adamw(cosine_warm_restarts(3)), jnp.ones(2))


def ended(step):
    return jnp.where(step < 2, 0.1, 0.0)


ended.horizon = 2


@pytest.mark.parametrize(
    ("schedule", "horizon"),
    [(cosine_decay_schedule(0.1, 3), 3), (linear_schedule(0.1, 0.0, 2), 2), (ended, 2)],
    ids=["cosine", "linear", "a function with an attribute"],
)
@pytest.mark.parametrize("stats", [True, None])
def test_steps_past_the_horizon_are_counted(schedule, horizon, stats):
    tx, params = adamw(schedule, stats=stats), jnp.ones(2)
    state, step = tx.init(params), jax.jit(tx.step)
    found, rates = [], []
    for _ in range(5):
        params, state = step(jnp.ones(2), state, params)
        found.append(float(stats_of(state, tx).steps_past_schedule))
        rates.append(float(schedule(state.step - 1)))
    assert found == [max(0.0, step - horizon) for step in range(1, 6)]
    # The steps that are counted are those at the last value.
    assert [past > 0 for past in found] == [rate == 0.0 for rate in rates]


@pytest.mark.parametrize("rate", [0.1, constant_schedule(0.1), lambda step: 0.1])
def test_a_rate_without_an_end_counts_nothing(rate):
    tx, params = adamw(rate, stats=True), jnp.ones(2)
    _, state = tx.step(jnp.ones(2), tx.init(params), params)
    assert stats_of(state, tx).steps_past_schedule is None


def test_the_count_needs_the_transformation():
    tx = adamw(linear_schedule(0.1, 0.0, 2))
    state = tx.init(jnp.ones(2))
    assert stats_of(state).steps_past_schedule is None
    assert int(jax.jit(lambda s: stats_of(s, tx).steps_past_schedule)(state)) == 0
    with pytest.raises(TypeError, match="`tx` must be a transformation of optadamw"):
        stats_of(state, 3)


def test_describe_says_where_the_rate_ends():
    text = describe(adamw(cosine_decay_schedule(0.1, 3000, alpha=0.1)), jnp.ones(2))
    assert (
        "!  the schedule of learning_rate ends after 3,000 steps; it stays at 0.01"
        in text
    )


def test_a_group_with_a_schedule_of_its_own_has_a_line_of_its_own():
    groups = {"b": {"learning_rate": linear_schedule(0.1, 0.0, 5)}}
    tx = adamw(linear_schedule(0.1, 0.0, 9), groups=groups)
    text = describe(tx, {"a": np.ones(2), "b": np.ones(2)})
    assert "ends after 5 steps" in text and "ends after 9 steps" in text


def test_a_schedule_that_is_scaled_ends_as_the_whole_does():
    wide, base = {"m": jnp.ones((8, 8))}, {"m": jnp.ones((4, 4))}
    schedule = linear_schedule(1.0, 0.5, 3)
    layers = optadamw.layerwise_decay({**wide, "a": wide}, schedule, ["a/*", "m"], 0.5)
    for groups in (optadamw.mup(wide, base, schedule), layers):
        assert {options["learning_rate"].horizon for _, options in groups} == {3}
    tx = adamw(0.1, groups=optadamw.mup(wide, base, schedule))
    assert "ends after 3 steps; it stays at 0.25" in describe(tx, wide)
    constant = optadamw.mup(wide, base, lambda step: 0.1)[0][1]["learning_rate"]
    assert constant.horizon is None


def test_knowing_the_end_leaves_equality_alone():
    one, two = cosine_decay_schedule(0.1, 3), cosine_decay_schedule(0.1, 4)
    assert one == cosine_decay_schedule(0.1, 3) and one != two
    assert adamw(one) == adamw(cosine_decay_schedule(0.1, 3))
