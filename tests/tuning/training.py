"""A small training for the tests of sweeps and of the range test."""

import jax
import jax.numpy as jnp

X = jnp.linspace(-1.0, 1.0, 32).reshape(-1, 1)
Y = X**3 - X / 2


def initial(seed: int = 0):
    one, two = jax.random.split(jax.random.key(seed))
    return {
        "a": jax.random.normal(one, (1, 8)),
        "b": jax.random.normal(two, (8, 1)) / 3,
    }


def loss_of(params, x=X, y=Y):
    return jnp.mean((jnp.tanh(x @ params["a"]) @ params["b"] - y) ** 2)


def train_step(tx, params, state, x=X, y=Y):
    loss, grads = jax.value_and_grad(loss_of)(params, x, y)
    params, state = tx.step(grads, state, params)
    return params, state, loss
