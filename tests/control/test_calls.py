"""Accumulation, guard, loss scale and statistics, call by call against the oracle.

`OPTADAMW_HYPOTHESIS=long python -m pytest tests/control/test_calls.py` tries 2,000
sequences of calls with fresh seeds; without it, 200 that are the same each time.
"""

import dataclasses
import functools
import os
import random
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from tests.support import control_comparison, control_oracle, covering, oracle
from tests.support.control_cases import BAD, INNER, Recipe, Setup
from tests.support.control_oracle import AmbiguousError, Control, Dynamic, Spikes

LANE = os.environ.get("OPTADAMW_HYPOTHESIS", "commit")

# --- Every legal triple of parts -----------------------------------------------------

FACTORS = {
    "inner": tuple(INNER),
    "accumulate": ("off", "every", "schedule", "sum"),
    "guard": ("off", "drop", "wait", "abort"),
    "spikes": ("off", "grad_norm", "both"),
    "loss_scale": ("off", "static", "dynamic", "by_gradient"),
    "stats": ("off", "free", "norms"),
}
SIGNALS = {"grad_norm": ("grad_norm",), "both": ("grad_norm", "loss")}


def legal(row: covering.Row) -> bool:
    """Refuse what means nothing: spikes are a guard.

    And norms of the updates of more than one chain, as each has to be compiled.
    """
    if row.get("guard") == "off" and row.get("spikes", "off") != "off":
        return False
    return row.get("stats") != "norms" or row.get("inner", "clipped") == "clipped"


ROWS = covering.covering_array(FACTORS, legal)


def setup_of(row: covering.Row) -> Setup:
    adamw, dtypes = INNER[row["inner"]]
    # With a schedule windows have 1 to 3 micro-batches, and the sum is kept in 16 bits.
    every = {"off": None, "every": 3, "schedule": oracle.Table((2, 1, 3)), "sum": 2}
    narrow = row["accumulate"] == "schedule" and np.complex64 not in dtypes
    return Setup(
        Control(
            adamw,
            every=every[row["accumulate"]],
            mean=row["accumulate"] != "sum",
            accumulator_dtype=ml_dtypes.bfloat16 if narrow else None,
            guard=None if row["guard"] == "off" else row["guard"],
            max_consecutive=None if row["guard"] == "off" else 2,
            spikes=None
            if row["spikes"] == "off"
            else Spikes(4.0, 4, 3, SIGNALS[row["spikes"]]),
            loss_scale={
                "off": None,
                "static": 96.0,
                "dynamic": Dynamic(initial=64.0, growth_interval=2, maximum=128.0),
                "by_gradient": Dynamic(
                    initial=64.0, growth_interval=3, counts="gradients"
                ),
            }[row["loss_scale"]],
            stats=None if row["stats"] == "off" else row["stats"],
        ),
        dtypes,
    )


def random_calls(
    seed: int, faults: tuple[float, ...], *, weights: bool, losses: bool
) -> list[Recipe]:
    """A dozen calls, a third of them with something wrong."""
    rng = random.Random(seed)
    calls = []
    for i in range(10):
        wrong = rng.random() < 0.35
        calls.append(
            Recipe(
                base=i,
                size=30.0 if rng.random() < 0.1 else rng.uniform(0.2, 0.4),
                fault=rng.choice(faults) if wrong and rng.random() < 0.7 else None,
                leaf=rng.randrange(2),
                place=rng.randrange(15),
                spread=rng.random() < 0.3,
                weight=rng.choice((0.0, 0.5, 3.0)) if weights else None,
                loss=_loss(rng) if losses else None,
                flushes=rng.random() < 0.12,
            )
        )
    return [*calls, Recipe(flushes=True), Recipe(flushes=True)]


def _loss(rng: random.Random) -> float:
    return rng.choice((np.nan, 50.0)) if rng.random() < 0.15 else rng.uniform(1, 1.5)


@pytest.mark.parametrize(
    "seed", range(len(ROWS)), ids=lambda i: "-".join(ROWS[i].values())
)
def test_every_combination(seed):
    row = ROWS[seed]
    setup = setup_of(row)
    tx = setup.make()
    # One of the chains makes updates; the random sequences below step with it.
    applies = row["inner"] == "mixed"
    route = control_comparison.updating if applies else control_comparison.stepping
    # Without a guard the parameters follow, and beyond 1e19 only the library knows how.
    calls = random_calls(
        seed,
        BAD if setup.control.policy else (np.nan,),
        weights=seed % 2 == 0,
        losses=row["spikes"] == "both",
    )
    control_comparison.follow(
        setup.control,
        tx,
        route(tx),
        setup.params(),
        [functools.partial(setup.micro, recipe) for recipe in calls],
        applies=applies,
    )


# --- Random sequences ----------------------------------------------------------------

_SPIKES = Spikes(4.0, 4, 3, ("grad_norm", "loss"))
_SCALE = Dynamic(initial=4.0, growth_interval=2, minimum=0.25, maximum=128.0)
_CLIPPED, _FLOATS = INNER["clipped"]
_MIXED, _NARROW = INNER["mixed"]

SETUPS = {
    "everything": Setup(
        Control(
            _CLIPPED,
            every=3,
            guard="drop",
            max_consecutive=2,
            spikes=_SPIKES,
            loss_scale=_SCALE,
            stats="norms",
        ),
        _FLOATS,
    ),
    "abort": Setup(
        Control(
            _MIXED,
            every=oracle.Table((2, 1, 3)),
            guard="abort",
            loss_scale=_SCALE,
            stats="free",
        ),
        _NARROW,
    ),
    "whole": Setup(Control(_CLIPPED, spikes=_SPIKES, guard="drop", loss_scale=96.0)),
    "sum": Setup(Control(_MIXED, every=2, mean=False, guard="drop"), _NARROW),
}
"""Few, as each is two compiled programs; the rows above have the rest."""

RECIPES = st.builds(
    Recipe,
    base=st.integers(0, 7),
    size=st.sampled_from((0.3, 0.3, 0.3, 0.0, 1e-3, 40.0)),
    fault=st.sampled_from((None, None, None, *BAD)),
    leaf=st.integers(0, 1),
    place=st.integers(0, 14),
    spread=st.booleans(),
    weight=st.sampled_from((1.0, 0.0, 0.5, 512.0, -1.0, np.nan, np.inf)),
    loss=st.sampled_from((1.0, 1.2, 0.9, 1.1, 30.0, np.nan, np.inf)),
    flushes=st.sampled_from((False,) * 7 + (True,)),
)


@functools.cache
def compiled(name: str) -> tuple[Any, Any]:
    tx = SETUPS[name].make()
    return tx, control_comparison.compiled(tx)


@settings(
    max_examples=2000 if LANE == "long" else 200,
    derandomize=LANE != "long",
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(st.sampled_from(sorted(SETUPS)), st.lists(RECIPES, min_size=1, max_size=12))
def test_every_sequence(name, recipes):
    setup, (tx, advance) = SETUPS[name], compiled(name)
    calls = [functools.partial(setup.micro, recipe) for recipe in recipes]
    try:
        control_comparison.follow(setup.control, tx, advance, setup.params(), calls)
    except AmbiguousError:
        reject()


# --- The oracle itself ---------------------------------------------------------------

WRONG = {
    "window": {"every": 2},
    "sum": {"mean": False},
    "policy": {"guard": "abort"},
    "stall": {"max_consecutive": 3},
    "limit": {"spikes": _SPIKES._replace(sigmas=1e9)},
    "history": {"spikes": _SPIKES._replace(window=5)},
    "growth": {"loss_scale": _SCALE._replace(growth_interval=3)},
    "backoff": {"loss_scale": _SCALE._replace(backoff_factor=0.25)},
    "clip": {"adamw": dataclasses.replace(_CLIPPED, clip_global_norm=2.0)},
}


@pytest.mark.parametrize("name", WRONG)
def test_another_configuration_is_noticed(name):
    """The comparison can fail: a sequence of everything, and a knob off by a little."""
    setup = SETUPS["everything"]
    control = dataclasses.replace(setup.control, **WRONG[name])
    faults = ((3, np.nan), (9, np.inf), (10, np.nan))
    recipes = [Recipe(base=i, loss=1.0 + i % 3 / 10, weight=2.0) for i in range(24)]
    for place, fault in faults:
        recipes[place] = recipes[place]._replace(fault=fault)
    recipes[15] = recipes[15]._replace(size=40.0)
    calls = [functools.partial(setup.micro, recipe) for recipe in recipes]
    tx, advance = compiled("everything")
    control_comparison.follow(setup.control, tx, advance, setup.params(), calls)
    with pytest.raises((AssertionError, AmbiguousError)):
        control_comparison.follow(control, tx, advance, setup.params(), calls)


def test_the_oracle_by_hand():
    """Windows of two under "drop": a NaN, a weight, a flush, a bad window."""
    control = Control(oracle.AdamW(0.1), every=2, guard="drop", max_consecutive=2)
    good, bad = {"w": np.float32([3, 4])}, {"w": np.float32([np.nan, 1])}
    state, seen = control_oracle.init(control), []
    for grads, weight in ((bad, 1.0), (good, 3.0), (bad, 1.0), (bad, 1.0), (good, 2.0)):
        call = control_oracle.call(control, state, grads, weight=weight)
        state = call.state
        events = state.events
        seen.append(
            (call.go, state.step, state.weight, events["skipped"], events["stalled"])
        )
    assert seen == [
        (False, 0, 0.0, 0, 0),
        (True, 1, 0.0, 0, 0),
        (False, 1, 0.0, 0, 0),
        (False, 1, 0.0, 1, 1),
        (False, 1, 2.0, 1, 0),
    ]
    assert (state.events["nonfinite"], state.events["dropped"]) == (3, 3)
    assert control_oracle.flush(control, state, good).state.step == 2
    limit = Spikes(2.0, 4, 2).limit(np.array([1.0, 3.0, 0.0, 0.0]), seen=2)
    assert limit == 2.0 + 2.0 * 1.0
