"""Arguments that are out of their range are refused when the schedule is made."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from optadamw import schedules

CYCLE = {"init_value": 0.0, "peak_value": 0.1, "warmup_steps": 2, "decay_steps": 9}

INVALID = {
    "init_value": (lambda: schedules.constant_schedule(math.nan), "`value` must be fi"),
    "infinite": (
        lambda: schedules.linear_schedule(math.inf, 0.0, 5),
        "`init_value` must be finite; got inf",
    ),
    "array": (
        lambda: schedules.linear_schedule(jnp.inf * jnp.ones(()), 0.0, 5),
        "`init_value` must be finite; got inf",
    ),
    "vector": (
        lambda: schedules.linear_schedule(jnp.ones(2), 0.0, 5),
        "`init_value` must be a scalar; got an array of shape",
    ),
    "no steps": (
        lambda: schedules.linear_schedule(0.1, 0.0, 0),
        r"`transition_steps` must be a whole number of steps >= 1; got 0\. For a value "
        "that never changes use constant_schedule",
    ),
    "no polynomial": (
        lambda: schedules.polynomial_schedule(0.1, 0.0, 2, -3),
        "`transition_steps` must be a whole number of steps >= 1; got -3",
    ),
    "half a step": (
        lambda: schedules.cosine_decay_schedule(0.1, 10.5),
        r"`decay_steps` must be a whole number of steps >= 1; got 10\.5",
    ),
    "no number of steps": (
        lambda: schedules.cosine_decay_schedule(0.1, math.nan),
        "`decay_steps` must be a whole number of steps >= 1; got nan",
    ),
    "endless": (
        lambda: schedules.cosine_decay_schedule(0.1, math.inf),
        "`decay_steps` must be a whole number of steps >= 1; got inf",
    ),
    "too many steps": (
        lambda: schedules.cosine_decay_schedule(0.1, 2**31),
        "`decay_steps` must be below 2\\*\\*31, since steps are counted in int32",
    ),
    "begin": (
        lambda: schedules.linear_schedule(0.1, 0.0, 5, -1),
        "`transition_begin` must be a whole number of steps >= 0; got -1",
    ),
    "power": (
        lambda: schedules.polynomial_schedule(0.1, 0.0, -1, 5),
        "`power` must be finite and >= 0; got -1",
    ),
    "exponent": (
        lambda: schedules.cosine_decay_schedule(0.1, 5, exponent=-0.5),
        "`exponent` must be finite and >= 0; got -0.5",
    ),
    "decay_rate": (
        lambda: schedules.exponential_decay(0.1, 5, 0.0),
        "`decay_rate` must be finite and > 0; got 0.0",
    ),
    "warmup": (
        lambda: schedules.warmup_constant_schedule(0.0, 0.1, 0),
        r"`warmup_steps` must be .* Without a warm-up use constant_schedule\(peak_val",
    ),
    "all warmup": (
        lambda: schedules.warmup_cosine_decay_schedule(0.0, 0.1, 100, 100),
        "`decay_steps` must be > warmup_steps, which is 100; got 100. It is the length "
        "of the whole schedule",
    ),
    "scale": (
        lambda: schedules.piecewise_constant_schedule(0.1, {5: -1.0}),
        r"`boundaries_and_scales\[5\]` must be finite and >= 0; got -1.0",
    ),
    "boundary": (
        lambda: schedules.piecewise_constant_schedule(0.1, {0.5: 1.0}),
        "`boundaries_and_scales: a boundary` must be a whole number of steps >= 0",
    ),
    "interpolation": (
        lambda: schedules.piecewise_interpolate_schedule("cubic", 0.1),
        "`interpolate_type` must be 'linear' or 'cosine'; got 'cubic'",
    ),
    "peak at the start": (
        lambda: schedules.cosine_onecycle_schedule(3, 0.1),
        "`transition_steps` must be enough for a step in every phase; got 3. The "
        "phases would end at the steps 0, 3",
    ),
    "peak outside": (
        lambda: schedules.cosine_onecycle_schedule(30, 0.1, pct_start=1.0),
        r"`pct_start` must be in \(0, 1\); got 1.0",
    ),
    "order of phases": (
        lambda: schedules.linear_onecycle_schedule(30, 0.1, 0.5, 0.4),
        "`pct_final` must be >= pct_start, which is 0.5; got 0.4",
    ),
    "phase without a step": (
        lambda: schedules.linear_onecycle_schedule(30, 0.1, 0.5, 0.51),
        "The phases would end at the steps 15, 15, 30",
    ),
    "div_factor": (
        lambda: schedules.linear_onecycle_schedule(30, 0.1, div_factor=0.0),
        "`div_factor` must be finite and > 0; got 0.0",
    ),
    "boundaries": (
        lambda: schedules.join_schedules([schedules.constant_schedule(1.0)], [5]),
        "`boundaries` must be one for each of the 1 schedules but the first; got",
    ),
    "nothing to join": (
        lambda: schedules.join_schedules([], []),
        "`schedules` must be at least one schedule; got",
    ),
    "order of boundaries": (
        lambda: schedules.join_schedules([schedules.constant_schedule(1)] * 3, [5, 5]),
        r"`boundaries` must be increasing; got \[5, 5\]",
    ),
    "no cycle": (
        lambda: schedules.sgdr_schedule([]),
        "`cosine_kwargs` must be at least one cycle; got",
    ),
    "a cycle": (
        lambda: schedules.sgdr_schedule([CYCLE, CYCLE | {"decay_steps": 1}]),
        "`decay_steps` must be > warmup_steps",
    ),
    "decay": (
        lambda: schedules.warmup_stable_decay_schedule(0, 1, 2, 3, 4, decay="sqrt"),
        "`decay` must be 'linear' or 'cosine' or '1-sqrt'; got 'sqrt'",
    ),
    "all steps": (
        lambda: schedules.warmup_stable_decay_schedule(0, 1, 2**30, 2**30, 1),
        "`warmup_steps \\+ stable_steps \\+ decay_steps` must be below 2\\*\\*31",
    ),
    "all steps of a line": (
        lambda: schedules.linear_schedule(1, 0, 2**31 - 1, 1000),
        r"`transition_begin \+ transition_steps` must be below 2\*\*31",
    ),
    "all steps of a polynomial": (
        lambda: schedules.polynomial_schedule(1, 0, 2, 2**30, 2**30),
        r"`transition_begin \+ transition_steps` must be below 2\*\*31",
    ),
    "all steps of cycles": (
        lambda: schedules.sgdr_schedule([CYCLE, CYCLE | {"decay_steps": 2**31 - 9}]),
        "`the sum of decay_steps` must be below 2\\*\\*31",
    ),
}

MISTYPED = {
    "text": (lambda: schedules.constant_schedule("0.1"), "`value` must be a number or"),
    "truth": (lambda: schedules.constant_schedule(True), "`value` must be a number or"),
    "None": (
        lambda: schedules.linear_schedule(0.1, None, 5),
        "`end_value` must be a number or a 0-d array; got None of type NoneType",
    ),
    "schedule": (
        lambda: schedules.linear_schedule(schedules.constant_schedule(1.0), 0.0, 5),
        "`init_value` must be a number or a 0-d array; got constant_schedule",
    ),
    "numpy vector": (
        lambda: schedules.linear_schedule(np.ones(2), 0.0, 5),
        "`init_value` must be a number or a 0-d array; got array",
    ),
    "truth of steps": (
        lambda: schedules.cosine_decay_schedule(0.1, True),
        "`decay_steps` must be a whole number of steps >= 1; got True of type bool",
    ),
    "array of steps": (
        lambda: schedules.cosine_decay_schedule(0.1, jnp.int32(5)),
        "`decay_steps` must be a whole number of steps >= 1; got Array",
    ),
    "array of a rate": (
        lambda: schedules.exponential_decay(0.1, 5, jnp.float32(0.5)),
        "`decay_rate` must be a number; got Array",
    ),
    "staircase": (
        lambda: schedules.exponential_decay(0.1, 5, 0.5, staircase=1),
        "`staircase` must be True or False; got 1",
    ),
    "scales": (
        lambda: schedules.piecewise_constant_schedule(0.1, [(5, 0.1)]),
        "`boundaries_and_scales` must be a mapping of steps to factors, or None",
    ),
    "joined number": (
        lambda: schedules.join_schedules([0.1, 0.2], [5]),
        r"`schedules\[0\]` must be a schedule `step -> value`; got 0.1 .*use constant",
    ),
    "joined schedule": (
        lambda: schedules.join_schedules(schedules.constant_schedule(1.0), []),
        "`schedules` must be a list of schedules; got constant_schedule",
    ),
    "boundary number": (
        lambda: schedules.join_schedules([schedules.constant_schedule(1.0)], 5),
        "`boundaries` must be a list of steps; got 5",
    ),
    "one cycle": (
        lambda: schedules.sgdr_schedule(CYCLE),
        "`cosine_kwargs` must be a list of mappings",
    ),
    "cycle": (
        lambda: schedules.sgdr_schedule([5]),
        r"`cosine_kwargs\[0\]` must be a mapping of arguments; got 5",
    ),
}


@pytest.mark.parametrize("case", INVALID)
def test_a_value_out_of_range_is_refused(case):
    make, text = INVALID[case]
    with pytest.raises(ValueError, match=text):
        make()


@pytest.mark.parametrize("case", MISTYPED)
def test_a_value_of_another_type_is_refused(case):
    make, text = MISTYPED[case]
    with pytest.raises(TypeError, match=text):
        make()


def test_steps_may_be_whole_numbers_of_other_types():
    expected = schedules.cosine_decay_schedule(0.1, 1000)
    for steps in (1e3, np.int64(1000), np.float32(1000.0)):
        assert schedules.cosine_decay_schedule(0.1, steps) == expected
