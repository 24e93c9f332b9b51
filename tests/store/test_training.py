"""Training goes on with moments in 8 and 16 bits: long runs, hostile gradients."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optadamw
from tests.store.runs import EIGHT, FORMS, PARAMS, SIXTEEN, each_form, eight, run
from tests.support import trees


def run_updates(tx, grads, params, state=None):
    """The last updates and the state; the parameters stay."""
    update = jax.jit(tx.update)
    state, updates = tx.init(params) if state is None else state, None
    for g in grads:
        updates, state = update(g, state, params)
    return updates, state


# --- Long runs -----------------------------------------------------------------------


def long_run(make, forms, steps, start):
    """The state of each form, after the same gradients in a scan."""
    params = {"w": jnp.zeros((64, 64))}

    def body(states, step):
        size = jnp.where(step < start, 1.0, 0.01)
        noise = jax.random.normal(jax.random.fold_in(jax.random.key(0), step), (64, 64))
        grads = {"w": size * (0.5 + noise)}
        after = {n: make(f).step(grads, states[n], params)[1] for n, f in forms.items()}
        return after, None

    states = {name: make(form).init(params) for name, form in forms.items()}
    scan = jax.jit(lambda s: jax.lax.scan(body, s, jnp.arange(steps))[0])
    return {n: optadamw.dequantize(s) for n, s in scan(states).items()}


def assert_unbiased(found, exact):
    error = np.asarray(found, np.float64) - np.asarray(exact, np.float64)
    assert abs(error.mean()) < 3 * error.std() / np.sqrt(error.size)
    assert error.std() > 0


def test_ten_thousand_steps_freeze_nothing_and_lean_nowhere():
    """Gradients fall 100-fold on the way, and the second moments follow."""
    forms = {"wide": None, **FORMS}
    states = long_run(
        lambda form: eight(form=form, skip_nonfinite=True), forms, 10_000, start=4_000
    )
    exact = states["wide"]
    assert np.mean(exact.nu["w"]) < 0.005
    for name in FORMS:
        found = states[name]
        mean, expected = float(np.mean(found.nu["w"])), float(np.mean(exact.nu["w"]))
        assert mean == pytest.approx(expected, rel=0.05)
        assert_unbiased(found.nu["w"], exact.nu["w"])
        assert_unbiased(found.mu["w"], exact.mu["w"])


def test_an_average_in_16_bits_follows_for_ten_thousand_steps():
    params = {"w": jnp.ones((64, 64))}
    grads = {"w": -jnp.ones((64, 64))}

    def average(form):
        rate = optadamw.scale_by_learning_rate(1e-4)
        tx = optadamw.chain(rate, optadamw.ema_params(0.999, dtype=form))

        def body(pair, _):
            return tuple(tx.step(grads, pair[1], pair[0])), None

        scan = jax.jit(lambda pair: jax.lax.scan(body, pair, length=10_000)[0])
        return optadamw.ema_of(scan((params, tx.init(params)))[1])["w"]

    exact, found = average(None), average(SIXTEEN)
    assert found.dtype == jnp.bfloat16
    assert np.mean(exact) > 1.85
    assert_unbiased(found.astype(jnp.float32), exact)


# --- Robustness ----------------------------------------------------------------------


@functools.cache
def updater(kinds, shapes, form, steps):
    """One program for all kinds of gradients: the largest |update| of each leaf."""
    params = {str(shape): jnp.zeros(shape) for shape in shapes}
    tx = eight(1.0, form, weight_decay=0.0, skip_nonfinite=True)

    @jax.jit
    def scan(kind):
        def body(state, step):
            def grads_of(grads_at):
                return lambda: {str(shape): grads_at(step, shape) for shape in shapes}

            grads = jax.lax.switch(kind, [grads_of(f) for f in kinds])
            updates, state = tx.update(grads, state, params)
            largest = jax.tree.map(lambda u: jnp.max(jnp.abs(u), initial=0.0), updates)
            return state, largest

        return jax.lax.scan(body, tx.init(params), jnp.arange(steps))

    return scan


def assert_bounded(kind, kinds, shapes, form, steps):
    """Twice float32's, as the moments' errors of an eighth add up over their time."""
    found = {}
    for kept in (None, form):
        state, largest = updater(kinds, shapes, kept, steps)(kind)
        assert int(state.step) == steps
        found[kept] = {key: np.max(x) for key, x in largest.items()}
    for key, largest in found[form].items():
        assert np.isfinite(largest), key
        assert largest <= 2 * found[None][key] + 1e-6, key


def noise_at(step, shape):
    return jax.random.normal(jax.random.fold_in(jax.random.key(1), step), shape)


def outlier(step, shape):
    """1e4 beside numbers of about 1: always in one place, now and then in another."""
    place = jnp.arange(math.prod(shape)).reshape(shape)
    size = jnp.where(place == 0, 1e4, 1.0)
    is_now = (place == 5) & (step % 100 == 50)
    return noise_at(step, shape) * jnp.where(is_now, 1e4, size)


def rare_rows(step, shape):
    """An embedding: each row has a gradient once in 300 steps."""
    rows = jnp.arange(math.prod(shape)).reshape(shape) // max(math.prod(shape[-1:]), 1)
    return jnp.where((rows * 7) % 300 == step % 300, noise_at(step, shape), 0.0)


def rare_columns(step, shape):
    """An element has a gradient once in 300 steps, beside others in its block."""
    place = jnp.arange(math.prod(shape)).reshape(shape)
    return jnp.where((place * 7) % 300 == step % 300, noise_at(step, shape), 0.0)


def wide_range(step, shape):
    """Sizes that stay from 1e-9 to 1 within each block."""
    size = jnp.logspace(-9, 0, math.prod(shape)).reshape(shape)
    return noise_at(step, shape) * size


def once(step, shape):
    return jnp.where(step == 0, noise_at(step, shape), 0.0)


def denormal(step, shape):
    return jnp.full(shape, 1e-40, jnp.float32)


def tiny(step, shape):
    return noise_at(step, shape) * 1e-18


GRADIENTS = (
    *(noise_at, outlier, rare_rows, rare_columns),
    *(wide_range, once, denormal, tiny),
)


@each_form
@pytest.mark.parametrize(
    "kind", range(len(GRADIENTS)), ids=[f.__name__ for f in GRADIENTS]
)
def test_the_largest_update_stays_bounded(kind, form):
    assert_bounded(kind, GRADIENTS, ((64, 64),), form, steps=900)


def test_every_shape_trains_as_bounded():
    shapes = ((), (1,), (3,), (5, 7), (0, 4), (2, 3, 50), (2, 37), (131,))
    assert_bounded(0, (noise_at,), shapes, EIGHT, steps=300)


def test_zero_gradients_change_nothing():
    params = PARAMS
    zeros = jax.tree.map(jnp.zeros_like, params)
    tx = eight(weight_decay=0.0)
    after, state = run(tx, [zeros] * 3, params)
    trees.assert_same_bits(after, params)
    for x in jax.tree.leaves(optadamw.dequantize(state)._replace(step=0, events=None)):
        assert not np.any(x)


def test_a_second_moment_that_is_not_zero_never_becomes_zero():
    """Beside one 1e14 times as large, and while it decays for 3,000 steps."""
    params = {"w": jnp.zeros((2, 64))}
    grads = {"w": jnp.full((2, 64), 1e-6).at[0, 0].set(1e8).at[1, 3].set(0.0)}
    tx = eight()
    _, state = run(tx, [grads], params)

    def body(state, step):
        idle = {"w": jnp.zeros((2, 64)).at[0, 0].set(1.0)}
        return tx.step(idle, state, params)[1], None

    state = jax.jit(lambda s: jax.lax.scan(body, s, length=3_000)[0])(state)
    nu = np.asarray(optadamw.dequantize(state).nu["w"])
    assert nu[1, 3] == 0
    assert np.all(nu[grads["w"] != 0] > 0)


@each_form
def test_a_maximum_does_not_climb(form):
    """Of second moments that are exact; nor does it forget what it was."""
    params = {"w": jnp.zeros((8, 64))}
    size = 10.0 ** np.random.default_rng(0).uniform(-2, 2, (8, 64))
    grads, zeros = {"w": jnp.asarray(size, jnp.float32)}, {"w": jnp.zeros((8, 64))}
    tx = optadamw.skip_nonfinite(
        optadamw.chain(optadamw.scale_by_adam(), optadamw.amsgrad_max(dtype=form))
    )
    _, state = run_updates(tx, [grads], params)
    top = optadamw.dequantize(state).nu_max["w"]
    _, state = run_updates(tx, [zeros] * 50, params, state)
    np.testing.assert_array_equal(optadamw.dequantize(state).nu_max["w"], top)
