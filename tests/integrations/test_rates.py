"""A loop that sets the learning rate, and the rates of groups beside it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optadamw
from optadamw import adamw, schedules
from optadamw.integrations.rates import plain_rate, with_rate

PARAMS = {"w": jnp.array([1.0, -2.0]), "b": jnp.ones(2)}
GRADS = {"w": jnp.array([0.5, -0.25]), "b": jnp.ones(2)}


def stepped(tx):
    params, state = PARAMS, tx.init(PARAMS)
    for _ in range(2):
        params, state = tx.step(GRADS, state, params)
    return params


def assert_close(one, two):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), one, two)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weight_decay": 0.3},
        {"weight_decay": 0.3, "weight_decay_mode": "independent"},
        {"ema_decay": 0.9},
    ],
    ids=str,
)
@pytest.mark.parametrize("rate", [0.1, 0.02, 0.0])
def test_a_rate_that_is_set_is_the_rate_of_the_step(rate, options):
    tx = with_rate(adamw(0.1, **options), jnp.float32(rate))
    assert_close(stepped(tx), stepped(adamw(rate, **options)))


@pytest.mark.parametrize("mode", ["schedule", "corrected"])
def test_the_decay_of_the_paper_follows_a_rate_that_is_set(mode):
    options = {"weight_decay": 0.3, "weight_decay_mode": mode}
    tx = with_rate(adamw(0.1, **options), jnp.float32(0.05))
    by_schedule = adamw(lambda step: 0.05, max_learning_rate=0.1, **options)
    assert_close(stepped(tx), stepped(by_schedule))


FORMS = {
    "number": lambda rate: rate,
    "NumPy": np.float64,
    "array of NumPy": np.array,
    "JAX": jnp.float32,
    "adjustable": lambda rate: optadamw.adjustable(rate, name="own"),
    "adjustable schedule": lambda rate: (
        optadamw.adjustable(rate, name="own") * schedules.linear_schedule(1.0, 0.0, 4)
    ),
    "schedule": lambda rate: schedules.linear_schedule(rate, 0.0, 4),
    "function": lambda rate: lambda step: rate / (1 + step),
}


def grouped(base, own, **options):
    return adamw(base, groups={"b": {"learning_rate": own}}, **options)


@pytest.mark.parametrize("base", [0.1, 0.0, 1e-42, np.float32(0.3), jnp.float32(0.3)])
@pytest.mark.parametrize("form", FORMS)
def test_groups_have_their_own_rates_until_the_rate_is_set(form, base):
    """Also beside a rate of 0, which trains the groups alone."""
    tx = grouped(base, FORMS[form](0.01), weight_decay=0.0)
    new = stepped(with_rate(tx, jnp.float32(plain_rate(tx))))
    jax.tree.map(np.testing.assert_array_equal, new, stepped(tx))
    assert (new["b"] != PARAMS["b"]).all()


@pytest.mark.parametrize("form", FORMS)
def test_the_rates_of_groups_change_by_the_same_factor(form):
    own = FORMS[form]
    new = stepped(with_rate(grouped(0.1, own(0.02)), jnp.float32(0.05)))
    assert_close(new, stepped(grouped(0.05, own(0.01))))


@pytest.mark.parametrize("base", [0.0, 1e-42])
@pytest.mark.parametrize("form", FORMS)
def test_beside_a_rate_of_zero_groups_keep_their_own(form, base):
    own = FORMS[form](0.02)
    new = stepped(with_rate(grouped(base, own), jnp.float32(0.05)))
    assert_close(new, stepped(grouped(0.05, own)))


def test_a_group_without_a_rate_follows_the_rate():
    tx = adamw(0.0, groups={"b": {"weight_decay": 0.0}})
    new = stepped(with_rate(tx, jnp.float32(0.05)))
    assert_close(new, stepped(adamw(0.05, groups={"b": {"weight_decay": 0.0}})))


@pytest.mark.parametrize("mode", ["schedule", "corrected"])
@pytest.mark.parametrize("base", [0.1, 0.0])
def test_the_decay_of_a_group_is_that_of_its_own_rate(mode, base):
    tx = grouped(base, 0.01, weight_decay=0.3, weight_decay_mode=mode)
    assert_close(stepped(with_rate(tx, jnp.float32(base))), stepped(tx))


@pytest.mark.parametrize("mode", ["schedule", "corrected"])
def test_the_decay_beside_a_rate_of_zero_has_no_peak(mode):
    options = {"weight_decay": 0.3, "weight_decay_mode": mode}
    new = stepped(with_rate(adamw(0.0, **options), jnp.float32(0.05)))
    assert_close(new, stepped(adamw(0.05, **options)))


def test_the_adjustable_rate_of_a_group_is_no_schedule():
    """The schedule-free average refuses schedules."""
    own = optadamw.adjustable(0.02, name="own")

    def made(rate, own):
        chains = [optadamw.schedule_free_adamw(r) for r in (rate, own)]
        return optadamw.param_groups(chains[0], {"b": chains[1]})

    new = stepped(with_rate(made(0.1, own), jnp.float32(0.05)))
    assert_close(new, stepped(made(0.05, 0.01)))


def test_a_rate_that_is_set_twice_multiplies_twice():
    """Equal transformations of equal factors share the compiled step."""
    own = schedules.linear_schedule(0.02, 0.0, 4)

    def twice(tx, rate):
        return with_rate(with_rate(tx, jnp.float32(0.05)), jnp.float32(rate))

    tx = grouped(0.1, own)
    new = stepped(twice(tx, 0.2))
    assert_close(new, stepped(grouped(0.2, schedules.linear_schedule(0.04, 0.0, 4))))
    assert twice(tx, 0.2) == twice(tx, 0.2) != twice(tx, 0.3)
    assert hash(twice(tx, 0.2)) == hash(twice(tx, 0.2))


def test_the_rate_of_a_schedule_is_no_number():
    assert plain_rate(adamw(schedules.constant_schedule(0.1))) is None
    assert plain_rate(adamw(jnp.float32(0.5))) == 0.5
    with pytest.raises(ValueError, match=r"scale_by_adam.*has no learning rate"):
        plain_rate(optadamw.scale_by_adam())
