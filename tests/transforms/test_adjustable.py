"""Hyperparameters in the state: set while running, one program, saved by name."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optadamw
from optadamw import adjustable, checkpoint

PARAMS = {"kernel": jnp.linspace(-1.0, 1.0, 12).reshape(4, 3), "bias": jnp.zeros(3)}
GRADS = jax.tree.map(
    lambda p: jnp.cos(jnp.arange(p.size) + 1.0).reshape(p.shape), PARAMS
)
EVERY = {
    "learning_rate": (0.01, 0.3),
    "b1": (0.9, 0.5),
    "b2": (0.99, 0.6),
    "eps": (1e-8, 1e-2),
    "eps_root": (1e-9, 1e-3),
    "weight_decay": (0.1, 0.4),
    "clip_global_norm": (1.0, 0.25),
    "clip_eps": (1e-6, 1e-2),
    "clip_norm": (2.0, 0.2),
    "clip_value": (3.0, 0.3),
    "ema_decay": (0.9, 0.2),
}
"""Every hyperparameter with a first value and another one."""


def step(tx, state, params=PARAMS):
    return jax.jit(tx.step)(GRADS, state, params)


def close(found, expected):
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=3e-6, atol=1e-9),
        found,
        expected,
    )


def plain(state):
    """The state without its adjustable numbers."""
    return state._replace(hyperparameters=None)


@pytest.mark.parametrize("name", EVERY)
def test_a_number_that_is_set_is_the_number_that_is_given(name):
    numbers = {key: first for key, (first, _) in EVERY.items()}
    tx = optadamw.adamw(**numbers | {name: adjustable(numbers[name])})
    state = tx.init(PARAMS)
    assert {k: float(v) for k, v in state.hyperparameters.items()} == {
        name: np.float32(numbers[name])
    }
    _, state = step(tx, state)
    _, expected = step(
        optadamw.adamw(**numbers), optadamw.adamw(**numbers).init(PARAMS)
    )
    close(plain(state), expected)

    other = EVERY[name][1]
    state = tx.with_hyperparameters(state, **{name: other})
    assert tx.hyperparameters(state)[name] == np.float32(other)
    then = optadamw.adamw(**numbers | {name: other})
    found, wanted = step(tx, state), step(then, expected)
    close((found[0], plain(found[1])), wanted)
    changed = step(optadamw.adamw(**numbers), expected)
    assert any(
        not np.array_equal(x, y)
        for x, y in zip(*map(jax.tree.leaves, (wanted, changed)), strict=True)
    )


def test_one_program_for_every_value():
    tx = optadamw.adamw(adjustable(0.1), weight_decay=adjustable(0.01))
    state, params = tx.init(PARAMS), jax.tree.map(jnp.array, PARAMS)
    jitted = jax.jit(tx.step)
    jitted(GRADS, state, params)
    updated = jax.jit(tx.update)
    updated(GRADS, state, params)
    for rate in (0.2, 3, np.float32(0.5), jnp.asarray(0.25)):
        state = tx.with_hyperparameters(state, learning_rate=rate)
        after = jitted(GRADS, state, params)[0]
        updates, _ = updated(GRADS, state, params)
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6),
            optax.apply_updates(params, updates),
            after,
        )
    assert jitted._cache_size() == updated._cache_size() == 1


def test_it_stays_in_the_state_and_is_donated():
    tx = optadamw.adamw(adjustable(0.1))
    params, state = jax.tree.map(jnp.array, PARAMS), tx.init(PARAMS)
    for rate in (0.1, 0.2, 0.3):
        state = tx.with_hyperparameters(state, learning_rate=rate)
        params, state = tx.jit_step(GRADS, state, params)
        held = state.hyperparameters["learning_rate"]
        assert held == np.float32(rate)
        assert held.dtype == jnp.float32 and not held.weak_type


def test_set_inside_jit_and_for_a_population():
    tx = optadamw.adamw(adjustable(0.1))
    rates = jnp.array([0.1, 0.01, 0.001])

    def member(rate):
        state = tx.with_hyperparameters(tx.init(PARAMS), learning_rate=rate)
        return tx.step(GRADS, state, PARAMS)

    found, states = jax.jit(jax.vmap(member))(rates)
    for i, rate in enumerate(rates):
        alone = optadamw.adamw(float(rate))
        expected = alone.step(GRADS, alone.init(PARAMS), PARAMS)[0]
        close(jax.tree.map(lambda x, i=i: x[i], found), expected)
    halved = tx.with_hyperparameters(states, learning_rate=rates / 2)
    np.testing.assert_array_equal(
        tx.hyperparameters(halved)["learning_rate"], rates / 2
    )
    alike = tx.with_hyperparameters(states, learning_rate=0.5)
    assert tx.hyperparameters(alike)["learning_rate"].tolist() == [0.5] * 3
    with pytest.raises(ValueError, match=r"scalar, or of shape \(3,\).*\(2,\)"):
        tx.with_hyperparameters(states, learning_rate=rates[:2])
    with pytest.raises(ValueError, match="learning_rate"):
        tx.with_hyperparameters(states, learning_rate=-rates)


def test_multiples_and_schedules_follow_it():
    rate = adjustable(0.1)
    tx = optadamw.adamw(rate, groups={"bias": {"learning_rate": 0.5 * rate}})
    state = tx.with_hyperparameters(tx.init(PARAMS), learning_rate=0.4)
    same = optadamw.adamw(0.4, groups={"bias": {"learning_rate": 0.2}})
    close(step(tx, state)[0], step(same, same.init(PARAMS))[0])

    schedule = optax.linear_schedule(1.0, 0.0, 4)
    tx = optadamw.adamw(adjustable(0.1, name="peak") * schedule)
    params, state = PARAMS, tx.init(PARAMS)
    scaled = optadamw.adamw(lambda count: 0.1 * schedule(count))
    expected, own = PARAMS, scaled.init(PARAMS)
    for _ in range(3):
        params, state = step(tx, state, params)
        expected, own = step(scaled, own, expected)
    close(params, expected)
    assert list(tx.hyperparameters(state)) == ["peak"]
    both = optadamw.adamw(adjustable(0.4, "peak") * 0.5 * schedule * 0.5)
    jax.tree.map(
        np.testing.assert_array_equal,
        step(both, both.init(PARAMS))[0],
        step(scaled, scaled.init(PARAMS))[0],
    )
    assert eval(repr(0.5 * adjustable(2.0)), {"adjustable": adjustable}).factor == 0.5
    with pytest.raises(ValueError, match="schedule already"):
        adjustable(0.1) * schedule * schedule
    with pytest.raises(TypeError, match="a number or a schedule"):
        adjustable(0.1) * True


def test_groups_have_numbers_of_their_own():
    groups = {"bias": {"learning_rate": adjustable(0.1, name="bias_rate")}}
    tx = optadamw.adamw(adjustable(0.2), groups=groups)
    state = tx.init(PARAMS)
    assert sorted(tx.hyperparameters(state)) == ["bias_rate", "learning_rate"]
    state = tx.with_hyperparameters(state, bias_rate=0.0)
    after, _ = step(tx, state)
    np.testing.assert_array_equal(after["bias"], PARAMS["bias"])
    assert not np.array_equal(after["kernel"], PARAMS["kernel"])
    with pytest.raises(ValueError, match=r"Two adj.*`learning_rate`.*0\.1 and 0\.2"):
        optadamw.adamw(
            adjustable(0.2), groups={"bias": {"learning_rate": adjustable(0.1)}}
        )


def test_saved_and_restored_by_name():
    tx = optadamw.adamw(adjustable(0.1), ema_decay=0.9)
    state = tx.with_hyperparameters(tx.init(PARAMS), learning_rate=0.025)
    params, state = step(tx, state)
    saved = checkpoint.to_portable(tx, state)
    assert saved["hyperparameters/learning_rate"] == np.float32(0.025)
    again, report = checkpoint.restore(tx, params, saved)
    jax.tree.map(np.testing.assert_array_equal, again, state)
    assert not report.left_over and not report.fresh

    more = optadamw.adamw(adjustable(0.1), weight_decay=adjustable(0.5), ema_decay=0.9)
    again, report = checkpoint.restore(more, params, saved)
    assert report.fresh == ("hyperparameters/weight_decay",)
    assert {k: float(v) for k, v in again.hyperparameters.items()} == {
        "learning_rate": np.float32(0.025),
        "weight_decay": 0.5,
    }
    # A number there and here adjustable, and the other way round.
    number = optadamw.adamw(0.1, ema_decay=0.9)
    again, report = checkpoint.restore(number, params, saved)
    assert report.left_over == ("hyperparameters/learning_rate",)
    again, report = checkpoint.restore(
        tx, params, checkpoint.to_portable(number, again)
    )
    assert report.fresh == ("hyperparameters/learning_rate",)
    assert tx.hyperparameters(again)["learning_rate"] == np.float32(0.1)


def test_tools_of_optax_find_it_and_a_wrapper_is_no_hindrance():
    inner = optadamw.adamw(adjustable(0.1))
    chained = optax.chain(optax.clip(1.0), inner)
    state = chained.init(PARAMS)
    state = inner.with_hyperparameters(state, learning_rate=0.5)
    assert optax.tree.get(state, "learning_rate") == 0.5
    assert inner.hyperparameters(state)["learning_rate"] == 0.5
    state = optax.tree.set(state, learning_rate=jnp.float32(0.0))
    updates, _ = chained.update(GRADS, state, PARAMS)
    assert not any(np.any(u) for u in jax.tree.leaves(updates))


def test_other_libraries_get_the_number_in_the_state():
    tx = optadamw.adamw(adjustable(0.1))
    _, state = step(tx, tx.with_hyperparameters(tx.init(PARAMS), learning_rate=0.5))
    saved = optadamw.interchange.to_torch(state, PARAMS, tx=tx)
    assert saved["param_groups"][0]["lr"] == 0.5
    back = optadamw.interchange.from_torch(saved, PARAMS, tx=tx)
    jax.tree.map(np.testing.assert_array_equal, plain(back), plain(state))
    assert tx.hyperparameters(back)["learning_rate"] == np.float32(0.1)


def test_it_is_a_value():
    tx = optadamw.adamw(adjustable(0.1) * 0.5, b1=adjustable(0.8, name="momentum"))
    assert pickle.loads(pickle.dumps(tx)) == tx
    assert eval(repr(tx), {"adamw": optadamw.adamw, "adjustable": adjustable}) == tx
    assert tx != optadamw.adamw(0.05, b1=0.8)
    assert "adjustable(0.1" in optadamw.describe(tx, PARAMS)
    assert tx == optadamw.adamw(0.5 * adjustable(0.1), b1=adjustable(0.8, "momentum"))


def test_statistics_and_the_guard_see_it():
    tx = optadamw.adamw(adjustable(0.1), stats=True, skip_nonfinite=True)
    state = tx.with_hyperparameters(tx.init(PARAMS), learning_rate=0.5)
    _, state = step(tx, state)
    assert float(optadamw.stats_of(state).learning_rate) == 0.5
    bad = jax.jit(lambda s, r: tx.with_hyperparameters(s, learning_rate=r))
    params, after = step(tx, bad(state, jnp.nan))
    jax.tree.map(np.testing.assert_array_equal, params, PARAMS)
    assert int(after.step) == int(state.step)


def test_errors_say_what_may_be_set():
    tx = optadamw.adamw(adjustable(0.1), b2=adjustable(0.99))
    state = tx.init(PARAMS)
    with pytest.raises(ValueError, match=r"`weight_decay` is no.*`learning_rate`.*opt"):
        tx.with_hyperparameters(state, weight_decay=0.1)
    for name, value in (
        ("learning_rate", -1.0),
        ("learning_rate", float("nan")),
        ("learning_rate", 1e39),
        ("b2", 1.0),
        ("b2", 1 - 1e-9),
    ):
        with pytest.raises(ValueError, match=f"`{name}` must be .*got"):
            tx.with_hyperparameters(state, **{name: value})
    for value in (True, "0.1", None, 1j, optax.constant_schedule(0.1)):
        with pytest.raises(TypeError, match="`learning_rate` must be a number or"):
            tx.with_hyperparameters(state, learning_rate=value)
    with pytest.raises(ValueError, match=r"`learning_rte`.*Did you mean `learning_ra"):
        tx.with_hyperparameters(state, learning_rte=0.1)
    fixed = optadamw.adamw(0.1)
    with pytest.raises(ValueError, match=r"`learning_rate` is no adjustable.*none"):
        fixed.with_hyperparameters(fixed.init(PARAMS), learning_rate=0.1)
    with pytest.raises(ValueError, match="no set of adjustable hyperparameters"):
        tx.with_hyperparameters(fixed.init(PARAMS), learning_rate=0.1)
    with pytest.raises(ValueError, match=r"`state` holds.*hyperparameters"):
        fixed.step(GRADS, state, PARAMS)


def test_what_cannot_be_adjustable_is_refused():
    for given, error in (
        ({"learning_rate": adjustable(-0.1)}, ValueError),
        ({"learning_rate": adjustable("0.1")}, TypeError),
        ({"learning_rate": adjustable(optax.constant_schedule(0.1))}, TypeError),
        ({"learning_rate": adjustable(0.1) * -1.0}, ValueError),
        ({"learning_rate": 0.1, "accumulate_steps": adjustable(2)}, TypeError),
        ({"learning_rate": 0.1, "loss_scale": adjustable(2.0)}, TypeError),
        ({"learning_rate": 0.1, "skip_spikes": {"sigmas": adjustable(2.0)}}, TypeError),
        ({"learning_rate": 0.1, "seed": adjustable(2)}, TypeError),
    ):
        with pytest.raises(error, match="`"):
            optadamw.adamw(**given)
    for name, error in (("two words", ValueError), ("for", ValueError), (3, TypeError)):
        with pytest.raises(error, match="`name` must be a Python identifier"):
            adjustable(0.1, name=name)
    with pytest.raises(TypeError, match="with_hyperparameters"):
        jax.jit(lambda r: optadamw.adamw(adjustable(r)).init(PARAMS))(0.1)
    with pytest.raises(ValueError, match="max_learning_rate"):
        optadamw.adamw(adjustable(0.1), weight_decay_mode="schedule")


@pytest.mark.parametrize("value", [jnp.nan, -1.0, jnp.inf])
def test_a_guard_skips_a_number_that_became_illegal_inside_jit(value):
    """Inside `jit` a value that is set is unknown, and its range is not checked."""
    tx = optadamw.adamw(optadamw.adjustable(1e-3), skip_nonfinite=True)
    params = {"w": jnp.ones(3)}

    @jax.jit
    def step(rate, state, params):
        state = tx.with_hyperparameters(state, learning_rate=rate)
        return tx.step(params, state, params)

    after, state = step(jnp.float32(value), tx.init(params), params)
    assert int(optadamw.stats_of(state).illegal) == 1 and int(state.step) == 0
    assert after["w"].tolist() == [1.0] * 3
    _, state = step(jnp.float32(1e-3), state, params)
    assert int(optadamw.stats_of(state).illegal) == 1 and int(state.step) == 1


@pytest.mark.parametrize("name", ["learning_rate", "weight_decay", "step", "lr"])
def test_an_attribute_of_a_transformation_is_not_set(name):
    """`optimizer.learning_rate = 1e-4` of Keras and MLX would have no effect here."""
    tx = optadamw.adamw(0.1)
    with pytest.raises(AttributeError, match=rf"`{name}` of a .*with_hyperparameters"):
        setattr(tx, name, 0.5)
    again = pickle.loads(pickle.dumps(tx))
    assert again == tx and copy.deepcopy(tx) == tx and copy.copy(tx) == tx
