"""A cautious decay has equal bits in every program, as a plain one has."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optadamw

SIZE, STEPS = 858, 4


def normal(seed, low, high):
    rng = np.random.default_rng(seed)
    sizes = 10.0 ** rng.uniform(low, high, SIZE)
    return jnp.asarray((rng.normal(size=SIZE) * sizes).astype(np.float32))


def after(step, split=lambda x: x, joined=lambda x: x):
    params = split(normal(0, -6, 2))
    state = None
    for i in range(1, 1 + STEPS):
        params, state = step(split(normal(i, -5, 3)), state, params)
    return np.asarray(joined(params))


@pytest.mark.parametrize("kernel", [None, "xla"])
@pytest.mark.parametrize("mode", ["lr", "schedule", "independent", "corrected"])
def test_step_update_vmap_and_leaves(mode, kernel):
    tx = optadamw.adamw(
        3e-3,
        **{"weight_decay": 0.1, "weight_decay_mode": mode, "kernel": kernel},
        cautious_weight_decay=True,
    )

    def step(grads, state, params):
        return jitted(grads, tx.init(params) if state is None else state, params)

    def by_update(grads, state, params):
        state = tx.init(params) if state is None else state
        updates, state = update(grads, state, params)
        return optax.apply_updates(params, updates), state

    def by_vmap(grads, state, params):
        state = jax.vmap(tx.init)(params) if state is None else state
        return mapped(grads, state, params)

    jitted, update = jax.jit(tx.step), jax.jit(tx.update)
    mapped = jax.jit(jax.vmap(tx.step))
    wanted = after(step)
    np.testing.assert_array_equal(after(by_update), wanted)
    pair = after(by_vmap, lambda x: jnp.stack([x, x]))
    np.testing.assert_array_equal(pair, np.stack([wanted, wanted]))
    parts = after(step, lambda x: [x[:300], x[300:]], jnp.concatenate)
    np.testing.assert_array_equal(parts, wanted)
