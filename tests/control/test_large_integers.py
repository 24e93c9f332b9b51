"""Integers that int32 cannot hold, as weights, losses and values of schedules.

JAX wraps an int64 of NumPy to int32 without a word unless x64 is on, and raises a bare
OverflowError for an integer of Python.
"""

import jax.numpy as jnp
import numpy as np
import pytest

import optadamw

THREE = 3_000_000_000
"""An integer above 2**31, such as the tokens of a large micro-batch."""


@pytest.mark.parametrize("compiled", [False, True], ids=["step", "jit_step"])
@pytest.mark.parametrize(
    "weight",
    [THREE, np.int64(THREE), np.asarray(THREE, np.int64), np.uint64(THREE)],
    ids=["int", "int64", "array", "uint64"],
)
def test_a_weight_counts_in_full(weight, compiled):
    tx = optadamw.multi_steps(optadamw.scale_by_learning_rate(1.0), 2)
    step = tx.jit_step if compiled else tx.step
    params = jnp.zeros(2)
    params, state = step(jnp.ones(2), tx.init(params), params, weight=10**9)
    params, state = step(-jnp.ones(2), state, params, weight=weight)
    np.testing.assert_allclose(params, 0.5, rtol=1e-6)
    assert int(optadamw.stats_of(state).dropped) == 0


@pytest.mark.parametrize(
    "weight", [10**400, -(10**400), 10**39], ids=["10**400", "-10**400", "10**39"]
)
def test_a_weight_beyond_float32_is_refused_in_words(weight):
    tx = optadamw.adamw(0.1, accumulate_steps=2)
    with pytest.raises(ValueError, match=r"^`weight` must be finite and >= 0; got -?1"):
        tx.step(jnp.ones(2), tx.init(jnp.ones(2)), jnp.ones(2), weight=weight)


def test_a_loss_is_compared_in_full():
    tx = optadamw.adamw(0.1, skip_spikes={"of": "loss", "window": 4, "min_history": 2})
    params = jnp.ones(2)
    state = tx.init(params)
    for loss in (1, 1, np.int64(2**33)):  # int32 would make it 0
        params, state = tx.step(jnp.ones(2), state, params, loss=loss)
    stats = optadamw.stats_of(state)
    assert (int(stats.step), int(stats.spikes)) == (2, 1)


def test_a_schedule_beyond_float32_is_a_step_that_the_guard_skips():
    tx = optadamw.adamw(lambda step: 10**400, skip_nonfinite=True)
    params = jnp.ones(2)
    params, state = tx.step(jnp.ones(2), tx.init(params), params)
    stats = optadamw.stats_of(state)
    assert (int(stats.step), int(stats.illegal)) == (0, 1)
