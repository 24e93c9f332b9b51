"""Hyperparameters that are callables without arguments are asked at every step."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optadamw.dialects import keras, r_keras3, tensorflow, tensorflow_addons
from tests.dialects.training import PARAMS, gradients, moved, trained


class Asked:
    """A callable that counts how often it is asked, and answers differently."""

    def __init__(self, *answers):
        self.answers = answers
        self.count = 0

    def __call__(self):
        self.count += 1
        return self.answers[min(self.count, len(self.answers)) - 1]


ASKING = {
    "keras learning_rate": lambda f: keras.AdamW(f, weight_decay=0.0),
    "keras accumulation": lambda f: keras.AdamW(
        f, weight_decay=0.0, loss_scale_factor=1.0
    ),
    "r learning_rate": lambda f: r_keras3.optimizer_adam_w(f, weight_decay=0.0),
    "tensorflow learning_rate": lambda f: tensorflow.AdamW(f, weight_decay=0.0),
    "tfa learning_rate": lambda f: tensorflow_addons.AdamW(0.0, f),
    "tfa lr": lambda f: tensorflow_addons.AdamW(0.0, lr=f),
}


@pytest.mark.parametrize("case", ASKING)
def test_a_callable_rate_is_asked_at_every_step_under_jit(case):
    asked = Asked(0.5, 0.25, 2.0)
    tx = ASKING[case](asked)
    params = {"w": jnp.array([8.0])}
    state, step, found = tx.init(params), jax.jit(tx.step), []
    before = asked.count
    for _ in range(3):
        new, state = step({"w": jnp.ones(1)}, state, params)
        jax.block_until_ready(new)
        found.append(moved(params, new))
        params = new
    np.testing.assert_allclose(found, [0.5, 0.25, 2.0], rtol=1e-5)
    assert asked.count - before == 3


def test_a_callable_rate_is_asked_at_every_turn_of_a_scan():
    asked = Asked(0.5, 0.25, 2.0, 1.0)
    tx = keras.AdamW(asked, weight_decay=0.0)
    params = {"w": jnp.array([8.0])}

    @jax.jit
    def run(carry):
        def turn(carry, _):
            after = tx.step({"w": jnp.ones(1)}, *carry[::-1])
            return after, carry[0]["w"][0] - after[0]["w"][0]

        return jax.lax.scan(turn, carry, None, length=4)[1]

    found = run((params, tx.init(params)))
    np.testing.assert_allclose(found, [0.5, 0.25, 2.0, 1.0], rtol=1e-5)
    assert asked.count == 4


def test_a_callable_rate_is_asked_at_every_step_under_vmap():
    asked = Asked(0.5, 0.5, 2.0, 2.0)
    tx = keras.AdamW(asked, weight_decay=0.0)
    params = {"w": jnp.full((2, 1), 8.0)}
    state, step = jax.vmap(tx.init)(params), jax.jit(jax.vmap(tx.step))
    first, state = step({"w": jnp.ones((2, 1))}, state, params)
    second, state = step({"w": jnp.ones((2, 1))}, state, first)
    np.testing.assert_allclose(params["w"] - first["w"], 0.5, rtol=1e-5)
    np.testing.assert_allclose(first["w"] - second["w"], 2.0, rtol=1e-5)


def test_every_hyperparameter_of_addons_may_be_a_callable():
    numbers = {
        "weight_decay": 0.25, "learning_rate": 0.5, "beta_1": 0.5, "beta_2": 0.75,
        "epsilon": 1e-3,
    }  # fmt: skip
    asked = {name: Asked(number) for name, number in numbers.items()}
    found, _ = trained(tensorflow_addons.AdamW(**asked))
    expected, _ = trained(tensorflow_addons.AdamW(**numbers))
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=2e-6), found, expected
    )
    assert {name: f.count for name, f in asked.items()} == dict.fromkeys(asked, 4)


def test_every_hyperparameter_of_addons_may_be_a_schedule():
    numbers = {
        "weight_decay": 0.25, "learning_rate": 0.5, "beta_1": 0.5, "beta_2": 0.75,
        "epsilon": 1e-3,
    }  # fmt: skip
    schedules = {
        name: (lambda step, number=number: number + 0.0 * step)
        for name, number in numbers.items()
    }
    expected, _ = trained(tensorflow_addons.AdamW(**numbers))
    found, _ = trained(tensorflow_addons.AdamW(**schedules))
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=2e-6), found, expected
    )


def test_a_callable_of_defaults_alone_that_takes_a_step_is_a_schedule():
    tx = keras.AdamW(optax.constant_schedule(0.5), weight_decay=0.0)
    params = {"w": jnp.array([8.0])}
    after, _ = tx.step({"w": jnp.ones(1)}, tx.init(params), params)
    assert moved(params, after) == pytest.approx(0.5, rel=1e-5)


def test_what_a_callable_raises_is_not_hidden():
    def broken():
        raise RuntimeError("the moon is away")

    tx = keras.AdamW(broken)
    with pytest.raises(Exception, match="the moon is away"):
        jax.block_until_ready(jax.jit(tx.step)(gradients(), tx.init(PARAMS), PARAMS))


@pytest.mark.parametrize(
    "answer", [None, -0.1, math.nan, math.inf, "0.1", [0.1, 0.2], 1j, True and None]
)
def test_a_callable_that_answers_nonsense(answer):
    tx, params = keras.AdamW(lambda: answer), {"w": jnp.ones(2)}
    with pytest.raises(Exception, match="must return a finite number >= 0"):
        jax.block_until_ready(jax.jit(tx.step)(params, tx.init(params), params))


def test_a_callable_in_double_precision():
    with jax.enable_x64(True):
        params = {"w": jnp.ones(1, jnp.float64)}
        options = {"weight_decay": 0.0, "epsilon": 1e-12}
        found, expected = (
            tx.step(params, tx.init(params), params)[0]["w"]
            for tx in (keras.AdamW(lambda: 0.1, **options), keras.AdamW(0.1, **options))
        )
        assert abs(found[0] - expected[0]) < 1e-15
