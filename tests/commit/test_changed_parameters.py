"""A step begins from the parameter that it is given, also if it was changed since."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optadamw
from optadamw import checkpoint
from optadamw.commit.master import Master
from tests.support import trees

FORMS = {
    "nearest": {"commit": "nearest"},
    "stochastic": {"commit": "stochastic"},
    "kahan": {"commit": "kahan"},
    "master": {"commit": "master"},
    "short master": {"commit": "master", "residual_bits": 8},
}
CASES = [
    (name, dtype)
    for name in FORMS
    for dtype in ("bfloat16", "float16")
    if (name, dtype) != ("short master", "float16")
]
RATE = 0.01
GRADS = {"w": jnp.ones(8)}


def start(dtype="float16"):
    return {"w": jnp.linspace(0.5, 1.0, 8).astype(dtype)}


def run(tx, params, count=5):
    state, step = tx.init(params), jax.jit(tx.step)
    for _ in range(count):
        params, state = step(GRADS, state, params)
    return params, state


def values(params):
    return np.asarray(params["w"], np.float32)


@pytest.mark.parametrize("route", ["step", "update"])
@pytest.mark.parametrize(("form", "dtype"), CASES)
def test_a_change_between_two_steps_is_kept(form, dtype, route):
    tx = optadamw.adamw(RATE, weight_decay=0.0, **FORMS[form])
    params, state = run(tx, start(dtype))
    changed = {"w": params["w"].at[:4].set(-2.0)}
    if route == "step":
        after, _ = jax.jit(tx.step)(GRADS, state, changed)
    else:
        updates, _ = jax.jit(tx.update)(GRADS, state, changed)
        after = optax.apply_updates(changed, updates)
    unit = float(jnp.finfo(dtype).eps)
    wanted = values(changed) - RATE
    # "kahan" adds the rounding error of the old value, half a unit of it.
    np.testing.assert_allclose(values(after), wanted, atol=2 * unit)


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf])
def test_a_change_to_what_is_not_finite_is_seen(value):
    tx = optadamw.adamw(RATE, commit="master")
    params, state = run(tx, start())
    after, _ = tx.step(GRADS, state, {"w": params["w"].at[0].set(value)})
    assert not np.isfinite(values(after)[0]) and np.isfinite(values(after)[1:]).all()


@pytest.mark.parametrize("how", [jax.jit, lambda f: f], ids=["jit", "eager"])
def test_a_copy_of_float16_is_kept_with_all_its_bits(how):
    """Over all exponents, ties, both zeros, subnormals, and beyond float16."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, 200_000, dtype=np.uint32)
    ties = np.arange(-65504, 65504, 7).astype(np.float32) + np.float32(2**-12)
    small = np.float32(2.0**-24) * rng.uniform(-3000, 3000, 20_000).astype(np.float32)
    zeros = np.array([0.0, -0.0], np.float32)
    numbers = np.concatenate([bits.view(np.float32), ties, small, zeros])
    written, kept = Master().write(
        jnp.asarray(numbers), jnp.zeros(numbers.shape, jnp.float16), {}, None
    )
    read = how(lambda param, buffers: Master().read(param, buffers))
    back = np.asarray(read(written, kept))
    known = ~np.isnan(numbers)
    np.testing.assert_array_equal(
        back[known].view(np.uint32), numbers[known].view(np.uint32)
    )
    assert np.isnan(back[~known]).all()
    # optax.apply_updates may turn the sign of a zero.
    positive = jnp.abs(written)
    is_zero = np.asarray(written) == 0
    again = np.asarray(read(positive, kept))
    np.testing.assert_array_equal(again[is_zero], numbers[is_zero])


def test_two_steps_in_one_program_keep_the_copy():
    """XLA may leave out the rounding between them, and must not take the copy for
    another number than the parameter."""
    tx = optadamw.adamw(1e-5, commit="master", weight_decay=0.1)
    params = start()

    def several(params, state):
        for _ in range(4):
            params, state = tx.step(GRADS, state, params)
        return params, state

    trees.assert_same_bits(
        jax.jit(several)(params, tx.init(params)), run(tx, params, count=4)
    )


def test_parameters_of_another_run_are_restored():
    tx = optadamw.adamw(RATE, commit="master", weight_decay=0.0)
    _, state = run(tx, start())
    other = {"w": jnp.full(8, 2.0, jnp.float16)}
    restored, _ = checkpoint.restore(tx, other, checkpoint.to_portable(tx, state))
    after, _ = tx.step(GRADS, restored, other)
    np.testing.assert_allclose(values(after), 2 - RATE, atol=1e-3)


def test_a_run_goes_on_from_its_average():
    tx = optadamw.adamw(RATE, commit="master", weight_decay=0.0, ema_decay=0.9)
    params, state = run(tx, start(), count=20)
    average = optadamw.finalize(state, params)
    assert (values(average) > values(params) + 5 * RATE).all()
    after, _ = tx.step(GRADS, state, average)
    np.testing.assert_allclose(values(after), values(average) - RATE, atol=1e-3)


def test_a_periodic_overwrite_has_all_bits_of_the_average():
    options = {"weight_decay": 0.0, "ema_decay": 0.9, "ema_overwrite_every": 5}
    tx, wide = (
        optadamw.adamw(RATE, commit=commit, **options) for commit in ("master", None)
    )
    exact, _ = run(wide, jax.tree.map(lambda p: p.astype("float32"), start()), 7)
    params, state = run(tx, start(), count=7)
    trees.assert_same_bits(state.residual["w"], exact["w"])
    trees.assert_same_bits(params["w"], exact["w"].astype("float16"))


def test_a_flush_begins_from_the_parameter():
    tx = optadamw.adamw(RATE, commit="master", weight_decay=0.0, accumulate_steps=4)
    params, state = run(tx, start(), count=6)
    changed = {"w": params["w"].at[:4].set(-2.0)}
    after, _ = tx.flush(state, changed)
    np.testing.assert_allclose(values(after), values(changed) - RATE, atol=2e-3)


def test_parameters_that_are_kept_nonnegative_come_back():
    """Before, the copy went far below 0 while the parameter stood there."""
    nonnegative = optax.keep_params_nonnegative()
    tx = optax.chain(optadamw.adamw(0.1, commit="master"), nonnegative)
    update = jax.jit(tx.update)
    params, state = start(), tx.init(start())
    for sign in [1.0] * 12 + [-1.0] * 14:
        grads = jax.tree.map(lambda g, sign=sign: sign * g, GRADS)
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
        assert (values(params) >= 0).all()
    assert (values(params) > 0.3).all()
