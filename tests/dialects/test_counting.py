"""Schedules and averages count steps, or calls with a gradient, as the peer does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optadamw
from optadamw.dialects import keras, paper, r_keras3, tensorflow, tensorflow_addons
from tests.dialects.training import (
    PARAMS,
    differ,
    gradients,
    halving,
    rates,
    same_trees,
    trained,
)


def counting(step):
    """A rate that says which step it was asked for."""
    return 1.0 + step


@pytest.mark.parametrize("k", [2, 3, 5])
@pytest.mark.parametrize("call", [keras.AdamW, r_keras3.optimizer_adam_w])
def test_schedules_count_steps_or_gradient_calls(call, k):
    options = {"weight_decay": 0.0, "gradient_accumulation_steps": k}
    sane = rates(call(counting, **options), 3 * k, k)
    np.testing.assert_allclose(sane, [1, 2, 3], rtol=1e-4)
    # Keras asks its schedule for `_iterations`, which counts calls.
    as_keras = rates(call(counting, bug_compatible=True, **options), 3 * k, k)
    np.testing.assert_allclose(as_keras, [k, 2 * k, 3 * k], rtol=1e-4)


def test_bug_compatible_changes_nothing_without_accumulation():
    for options in ({}, {"learning_rate": halving}, {"use_ema": True}):
        a = keras.AdamW(**options, bug_compatible=True)
        assert a == keras.AdamW(**options)


def averaged(params, momentum, start):
    """The average of semantics.md 2.4, of parameters after each step."""
    for x in params:
        start = momentum * start + (1 - momentum) * x
    return start


def trail(tx, calls, params=None):
    params = PARAMS if params is None else params
    step, state, found = jax.jit(tx.step), tx.init(params), []
    for i in range(calls):
        params, state = step(gradients(i, params), state, params)
        found.append((params, state))
    return found


def test_the_average_of_keras_3_begins_as_a_copy_and_that_of_keras_2_as_the_start():
    options = {"learning_rate": 0.1, "use_ema": True, "ema_momentum": 0.75}
    for tx, start in (
        (keras.AdamW(**options), None),
        (tensorflow.AdamW(**options), np.asarray(PARAMS["norm"]["scale"], np.float64)),
    ):
        seen = trail(tx, 3)
        values = [np.asarray(p["norm"]["scale"], np.float64) for p, _ in seen]
        first = values[0] if start is None else 0.75 * start + 0.25 * values[0]
        expected = [first]
        for value in values[1:]:
            expected.append(0.75 * expected[-1] + 0.25 * value)
        for (_, state), average in zip(seen, expected, strict=True):
            found = optadamw.ema_of(state)["norm"]["scale"]
            np.testing.assert_allclose(found, average, rtol=3e-7)


@pytest.mark.parametrize("k", [2, 3])
def test_keras_moves_its_average_at_every_call(k):
    """semantics.md 2.4: with accumulation the first k calls copy, then k per step."""
    options = {
        "learning_rate": 0.1, "use_ema": True, "ema_momentum": 0.75,
        "gradient_accumulation_steps": k,
    }  # fmt: skip
    for compatible in (False, True):
        tx = keras.AdamW(**options, bug_compatible=compatible)
        average = np.asarray(PARAMS["norm"]["scale"], np.float64)
        steps = 0
        for call, (params, state) in enumerate(trail(tx, 4 * k)):
            value = np.asarray(params["norm"]["scale"], np.float64)
            is_step = (call + 1) % k == 0
            finished = call // k
            if compatible:
                momentum = 0.75 if finished else 0.0
                average = momentum * average + (1 - momentum) * value
            elif is_step:
                momentum = 0.75 if steps else 0.0
                average = momentum * average + (1 - momentum) * value
                steps += 1
            found = optadamw.ema_of(state)["norm"]["scale"]
            np.testing.assert_allclose(found, average, rtol=1e-6)


def test_keras_overwrites_at_every_call_of_a_window():
    options = {
        "learning_rate": 0.1, "use_ema": True, "ema_momentum": 0.75,
        "ema_overwrite_frequency": 2, "gradient_accumulation_steps": 3,
    }  # fmt: skip
    for compatible, written in ((True, {9, 10, 11}), (False, {11})):
        tx = keras.AdamW(**options, bug_compatible=compatible)
        for call, (params, state) in enumerate(trail(tx, 12)):
            average = optadamw.ema_of(state)["norm"]["scale"]
            is_equal = np.array_equal(params["norm"]["scale"], average)
            # Until the third step the average is a copy, or was written and waits.
            assert is_equal == (call < 8 or call in written), call


def test_finalize_gives_the_average_and_refuses_before_the_first_step():
    for call, module in ((keras.AdamW, keras), (tensorflow.AdamW, tensorflow)):
        tx = call(0.1, use_ema=True, ema_momentum=0.5)
        with pytest.raises(ValueError, match="no step was taken"):
            module.finalize_variable_values(tx.init(PARAMS), PARAMS)
        params, state = trained(tx)
        final = module.finalize_variable_values(state, params)
        same_trees(final, optadamw.ema_of(state))
        assert differ(final, params)
        plain = call(0.1)
        with pytest.raises(ValueError, match="average"):
            module.finalize_variable_values(plain.init(PARAMS), PARAMS)


def test_finalize_of_the_pair_of_states():
    tx = keras.AdamW(
        0.1, use_ema=True, gradient_accumulation_steps=2, bug_compatible=True
    )
    with pytest.raises(ValueError, match="no step was taken"):
        keras.finalize_variable_values(tx.init(PARAMS), PARAMS)
    params, state = trained(tx)
    same_trees(keras.finalize_variable_values(state, params), optadamw.ema_of(state))


def test_schedules_under_strict_promotion():
    tx = tensorflow_addons.AdamW(0.1, lambda: 0.1, decay=0.1)
    eta = paper.cosine_warm_restarts(4, factor=2.0, ahead=True)
    params = {"w": jnp.ones(2)}
    with jax.numpy_dtype_promotion("strict"):
        for made in (tx, paper.adamw(eta=eta)):
            jax.jit(made.step)(params, made.init(params), params)
