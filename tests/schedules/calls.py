"""Calls of every schedule of Optax, near and far from the defaults, and of our own.

A call is a function of the module that is to answer it: `optax.schedules` or ours.
"""

import optadamw

CYCLE = {"init_value": 0.01, "peak_value": 0.3, "warmup_steps": 3, "decay_steps": 17}
LONG = {"init_value": 0.0, "peak_value": 0.1, "warmup_steps": 0, "decay_steps": 40}
LONG |= {"end_value": 0.02, "exponent": 2.0}

OF_OPTAX = {
    "constant": lambda of: of.constant_schedule(0.1),
    "constant integer": lambda of: of.constant_schedule(4),
    "linear": lambda of: of.linear_schedule(0.1, 0.3, 7),
    "linear late": lambda of: of.linear_schedule(1, 0, 7, 5),
    "polynomial": lambda of: of.polynomial_schedule(0.1, 0.01, 2.0, 30),
    "polynomial integer": lambda of: of.polynomial_schedule(0.1, 0.01, 2, 30),
    "polynomial late": lambda of: of.polynomial_schedule(0.3, 0.02, 0.5, 30, 4),
    "exponential": lambda of: of.exponential_decay(0.3, 10, 0.7),
    "exponential stairs": lambda of: of.exponential_decay(0.3, 10, 0.7, 6, True, 0.05),
    "exponential growth": lambda of: of.exponential_decay(0.1, 9, 1.7, end_value=0.9),
    "cosine": lambda of: of.cosine_decay_schedule(0.3, 40),
    "cosine power": lambda of: of.cosine_decay_schedule(0.3, 40, 0.1, 1.5),
    "cosine square": lambda of: of.cosine_decay_schedule(0.3, 40, 0.1, 2),
    "warmup constant": lambda of: of.warmup_constant_schedule(0.01, 0.3, 9),
    "warmup cosine": lambda of: of.warmup_cosine_decay_schedule(**CYCLE),
    "no warmup cosine": lambda of: of.warmup_cosine_decay_schedule(**LONG),
    "peak of nothing": lambda of: of.warmup_cosine_decay_schedule(0.1, 0.0, 3, 17),
    "warmup exponential": lambda of: of.warmup_exponential_decay_schedule(
        0.0, 0.3, 5, 10, 0.7
    ),
    "warmup exponential stairs": lambda of: of.warmup_exponential_decay_schedule(
        0.0, 0.3, 5, 10, 0.7, 4, True, 0.1
    ),
    "jumps": lambda of: of.piecewise_constant_schedule(0.3, {20: 0.5, 5: 0.1, 0: 2.0}),
    "no jumps": lambda of: of.piecewise_constant_schedule(0.3),
    "lines": lambda of: of.piecewise_interpolate_schedule(
        "linear", 0.3, {20: 0.5, 5: 0.1}
    ),
    "cosines": lambda of: of.piecewise_interpolate_schedule(
        "cosine", 0.3, {5: 3.0, 30: 0.01}
    ),
    "linear cycle": lambda of: of.linear_onecycle_schedule(40, 0.3),
    "linear cycle far": lambda of: of.linear_onecycle_schedule(
        40, 0.3, 0.5, 0.9, 10.0, 7
    ),
    "cosine cycle": lambda of: of.cosine_onecycle_schedule(40, 0.3),
    "cosine cycle far": lambda of: of.cosine_onecycle_schedule(40, 0.3, 0.5, 10.0, 7),
    "join": lambda of: of.join_schedules(
        [of.linear_schedule(0.1, 0.2, 10), of.cosine_decay_schedule(0.2, 20)], [15]
    ),
    "join of one": lambda of: of.join_schedules([of.constant_schedule(0.1)], []),
    "restarts": lambda of: of.sgdr_schedule([CYCLE, LONG]),
}

OUR_OWN = {
    "stable": lambda of: of.warmup_stable_decay_schedule(0.0, 0.3, 5, 20, 10),
    "stable linear": lambda of: of.warmup_stable_decay_schedule(
        0.1, 0.3, 0, 20, 10, 0.05, "linear"
    ),
    "stable cosine": lambda of: of.warmup_stable_decay_schedule(
        0.1, 0.3, 5, 0, 10, decay="cosine"
    ),
    "warm restarts": lambda of: of.cosine_warm_restarts(5, factor=2.0, ahead=True),
    "slow moment": lambda of: of.slow_moment_schedule(0.9, 0.999, 20),
    "normalized": lambda of: of.normalized_weight_decay(
        0.05, restarts=of.cosine_warm_restarts(5)
    ),
}

OURS = {
    name: lambda make=make: make(optadamw.schedules)
    for name, make in (OF_OPTAX | OUR_OWN).items()
}
"""Each call answered by this library, as a function without arguments."""
