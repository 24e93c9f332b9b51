"""The recurrence of a running mean; `tests.campaigns.drift` takes a million steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optadamw
from optadamw.base.hyperparameters import Clock, hyperparameter
from optadamw.base.interval import FRACTION
from optadamw.base.means import mean_form, running_mean
from optadamw.rules.ema import Average
from optadamw.rules.rule import Shared
from optadamw.store.dense import dense

LARGEST = float(jnp.finfo(jnp.float32).max)


def form(keep):
    return mean_form(hyperparameter("decay", keep, FRACTION))


def test_the_form_is_known_of_numbers_alone():
    assert form(0.5) == form(0.999) == "one product"
    assert form(0.0) == form(0.4999) == "two products"
    assert form(jnp.float32(0.999)) == form(lambda t: 0.999) == "either"
    assert form(optadamw.adjustable(0.999)) == "either"
    assert mean_form("two products") == "two products"


@pytest.mark.parametrize("wraps", [float, jnp.float32])
@pytest.mark.parametrize("keep", [0.0, 1e-9, 0.01, 0.3, 0.5, 0.9, 0.999, 0.9999999])
def test_one_mean_is_exact_beside_numbers_of_any_size(keep, wraps):
    rng = np.random.default_rng(0)
    old, new = (
        (rng.choice([-1, 1], 4096) * 10.0 ** rng.uniform(-12, 12, 4096)).astype("f4")
        for _ in range(2)
    )
    old[:10], new[10:20] = 0, 0
    given = wraps(keep)
    exact_keep = float(given)
    mean = jax.jit(running_mean, static_argnums=4)(
        old, new, jnp.float32(keep), jnp.float32(1 - exact_keep), form(given)
    )
    terms = exact_keep * old.astype(float), (1 - exact_keep) * new.astype(float)
    allowed = 3 * 2.0**-24 * (np.abs(terms[0]) + np.abs(terms[1]))
    assert np.all(np.abs(np.asarray(mean, float) - sum(terms)) <= allowed)


@pytest.mark.parametrize("wraps", [float, jnp.float32])
def test_a_weight_of_zero_forgets_the_old_mean(wraps):
    given = wraps(0.0)
    old, new = jnp.float32([1e30, -1.0, LARGEST]), jnp.float32([1e-30, 3.0, -LARGEST])
    mean = running_mean(old, new, jnp.float32(0), jnp.float32(1), form(given))
    assert mean.tolist() == new.tolist()


@pytest.mark.parametrize("beta", [0.5, 0.999, 0.9999999])
@pytest.mark.parametrize("wraps", [float, jnp.float32])
def test_a_mean_of_equal_numbers_is_their_number(beta, wraps):
    x = jnp.float32(np.random.default_rng(0).normal(size=1000))
    keep, take = jnp.float32(beta), jnp.float32(1 - beta)
    mean = x
    for _ in range(100):
        mean = running_mean(mean, x, keep, take, form(wraps(beta)))
    assert mean.tolist() == x.tolist()


@pytest.mark.parametrize("decay", [0.999, 0.9999, 0.999999])
def test_the_share_of_a_new_parameter_is_exact_after_the_warm_up(decay):
    """`1 - decay` in float32 is wrong by 1.3e-5, 1.7e-4 and 0.014 of itself."""
    given = hyperparameter("decay", decay, FRACTION)
    rule = Average(given, None, False, True, dense("ema", None))
    clock = Clock.at(jnp.int32(10**9))
    take = float(rule.scalars(clock, Shared((rule,), clock))["take"])
    assert abs(take / (1 - decay) - 1) < 1e-7


def test_an_array_of_64_bits_keeps_them():
    with jax.enable_x64():
        beta = jnp.asarray(0.9999, jnp.float64)
        tx = optadamw.scale_by_adam(b1=beta, b2=beta)
        params = {"w": jnp.zeros(8, jnp.float32)}
        state = tx.init(params)
        grads = {"w": jnp.ones(8, jnp.float32)}
        step = jax.jit(
            lambda s: jax.lax.fori_loop(
                0, 50_000, lambda _, s: tx.update(grads, s, params)[1], s
            )
        )
        mean = np.asarray(step(state).mu["w"], float)
    exact = -np.expm1(50_000 * np.log(0.9999))
    assert np.max(np.abs(mean / exact - 1)) < 1e-5
