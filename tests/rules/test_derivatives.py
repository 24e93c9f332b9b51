"""Derivatives with respect to hyperparameters, at numbers where a rule selects."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optadamw

PARAMS, GRADS = jnp.array([1.0, -2.0, 3.0]), jnp.array([0.1, -0.2, 0.3])


def moved(library, steps=2, **options):
    tx = library.adamw(**{"learning_rate": 0.1} | options)
    state, total = tx.init(PARAMS), 0.0
    for i in range(steps):
        updates, state = tx.update((i + 1) * GRADS, state, PARAMS)
        total += updates.sum()
    return total


def derivative(library, name, at, **options):
    return jax.grad(lambda x: moved(library, **{**options, name: x}))(at)


@pytest.mark.parametrize("at", [0.0, 1e-30, 0.1])
@pytest.mark.parametrize("name", ["weight_decay", "learning_rate"])
def test_decay_and_rate_of_zero(name, at):
    options = {} if name == "weight_decay" else {"weight_decay": 0.5}
    found, wanted = (
        derivative(library, name, at, **options) for library in (optadamw, optax)
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


@pytest.mark.parametrize("cautious", [False, True])
@pytest.mark.parametrize("mode", ["lr", "independent"])
def test_modes_of_decay(mode, cautious):
    """At zero the derivative is that of a small decay: the step is linear in it."""
    options = {"weight_decay_mode": mode, "cautious_weight_decay": cautious}
    zero, small = (
        derivative(optadamw, "weight_decay", at, **options) for at in (0.0, 1e-20)
    )
    assert float(zero) == float(small) != 0


def test_the_derivatives_of_the_share_and_of_the_parameter():
    """Forward and reverse mode, once and twice."""

    def after(decay, params):
        tx = optadamw.adamw(0.1, weight_decay=decay)
        return tx.step(GRADS, tx.init(PARAMS), params)[0]

    slope = jax.jacfwd(after)(0.0, PARAMS)
    np.testing.assert_allclose(slope, -0.1 * PARAMS, rtol=1e-6)
    by_param = jax.jacrev(after, argnums=1)(0.5, PARAMS)
    np.testing.assert_allclose(by_param, 0.95 * np.eye(3), rtol=1e-6)
    twice = jax.jacfwd(jax.jacrev(after, argnums=1))(0.0, PARAMS)
    np.testing.assert_allclose(twice, -0.1 * np.eye(3), rtol=1e-6)


@pytest.mark.parametrize("at", [0.0, 1e-6, 0.5])
@pytest.mark.parametrize("name", ["b1", "b2"])
def test_betas_of_zero(name, at):
    found, wanted = (derivative(library, name, at) for library in (optadamw, optax))
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


def test_a_decay_is_learned_from_zero():
    def loss(decay):
        tx, params = optadamw.adamw(0.1, weight_decay=decay), PARAMS
        state = tx.init(params)
        for _ in range(3):
            params, state = tx.step(0 * params, state, params)
        return (params**2).sum()

    assert float(jax.grad(loss)(0.0)) < -1


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_the_derivative_by_an_infinite_parameter(decay):
    params, ones = jnp.array([jnp.inf, 1.0]), jnp.ones(2)
    tx = optadamw.adamw(0.1, weight_decay=decay)
    state = tx.init(ones)
    _, slope = jax.jvp(lambda p: tx.step(ones, state, p)[0], (params,), (ones,))
    np.testing.assert_allclose(slope, (1 - 0.1 * decay) * ones)
