"""A schedule of one's own that says where it ends."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

import optadamw
from optadamw import schedules
from optadamw.base.horizon import horizon_of


def ending(horizon):
    def rate(step):
        return 1e-3

    rate.horizon = horizon
    return rate


@pytest.mark.parametrize(
    ("given", "found"),
    [
        *((3, 3), (np.int64(3), 3), (3.0, 3), (jnp.int32(3), 3), (np.array(3), 3)),
        *((0, 0), (2**40, 2**31 - 1), ("3", None), (True, None), (None, None)),
        *((-1, None), (2.5, None), (float("inf"), None), (float("nan"), None)),
    ],
    ids=repr,
)
def test_which_attributes_are_a_horizon(given, found):
    assert horizon_of(ending(given)) == found


@pytest.mark.parametrize(("given", "past"), [(0, 2), (1e0, 1), (2**40, 0), (-1, None)])
def test_reports_agree_on_the_end(given, past):
    tx, params = optadamw.adamw(ending(given)), jnp.ones(2)
    state = tx.init(params)
    for _ in range(2):
        params, state = tx.step(params, state, params)
    assert optadamw.stats_of(state, tx).steps_past_schedule == past
    assert ("ends after" in optadamw.describe(tx, params)) == (past is not None)
    made = schedules.join_schedules([lambda step: 1.0, ending(given)], [5])
    assert horizon_of(made) == {0: 5, 1: 6, 2**40: 2**31 - 1}.get(given)


class Decay(NamedTuple):
    """A schedule that is a tuple too."""

    peak: float

    def __call__(self, step):
        return self.peak / (step + 1)


def test_schedules_that_are_tuples_are_joined():
    made, other = (
        schedules.join_schedules([Decay(0.5), Decay(last)], [5]) for last in (1, 2)
    )
    assert (float(made(1)), float(made(6)), float(other(6))) == (0.25, 0.5, 1.0)
    assert made != other and made == schedules.join_schedules(
        [Decay(0.5), Decay(1)], [5]
    )


@pytest.mark.parametrize("steps", [1, 2, 10])
def test_the_slow_moment_has_an_end(steps):
    made = schedules.slow_moment_schedule(0.9, 0.99, steps)
    end = made.horizon
    values = [float(made(step)) for step in range(end + 3)]
    assert values[end:] == [pytest.approx(0.99)] * 3 and 0.99 not in values[:end]
    assert schedules.cosine_warm_restarts(10).horizon is None


ENDS = {
    "a group alone": (1e-3, {"w": {"learning_rate": ending(3)}}, 3),
    "the later": (ending(2), {"w": {"learning_rate": ending(4)}}, 4),
    "adjustable": (optadamw.adjustable(1.0) * ending(2), None, 2),
}


@pytest.mark.parametrize(("rate", "groups", "end"), ENDS.values(), ids=ENDS)
def test_the_last_end_of_all_learning_rates(rate, groups, end):
    tx = optadamw.adamw(rate, groups=groups, stats=True)
    params = {"w": jnp.ones(2), "b": jnp.ones(2)}
    state = tx.init(params)._replace(step=jnp.int32(7))
    assert int(optadamw.stats_of(state, tx).steps_past_schedule) == 7 - end
    assert f"ends after {end} steps" in optadamw.describe(tx, params)
