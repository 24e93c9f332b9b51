"""A small model, its gradients, and runs of a few steps."""

import jax
import jax.numpy as jnp
import numpy as np


def halving(step):
    """A schedule by name, so that what uses it pickles."""
    return 0.1 * 0.5**step


PARAMS = {
    "dense": {"kernel": jnp.array([[1.0, -2.0], [0.5, 4.0]]), "bias": jnp.ones(2)},
    "norm": {"scale": jnp.array([2.0, 3.0]), "bias": jnp.array([-1.0, 1.0])},
}


def gradients(i=0, like=None):
    """Gradients unlike at every call."""
    like = PARAMS if like is None else like
    return jax.tree.map(
        lambda p: jnp.cos(i + 1.0 + jnp.arange(p.size, dtype=jnp.float32)).reshape(
            p.shape
        ),
        like,
    )


def trained(tx, calls=4, params=None, grads=gradients):
    """Parameters and state after some calls of the jitted step."""
    params = PARAMS if params is None else params
    step, state = jax.jit(tx.step), tx.init(params)
    for i in range(calls):
        params, state = step(grads(i), state, params)
    return params, state


def same_trees(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def differ(a, b):
    return not all(
        np.array_equal(x, y)
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def moved(before, after):
    return float(before["w"][0] - after["w"][0])


def rates(tx, calls, k):
    """Return how far each call of constant gradients moves a parameter."""
    params = {"w": jnp.array([100.0])}
    state, step, found = tx.init(params), jax.jit(tx.step), []
    for _ in range(calls):
        new, state = step({"w": jnp.ones(1)}, state, params)
        found.append(moved(params, new))
        params = new
    assert all(found[i] == 0 for i in range(calls) if (i + 1) % k)
    return found[k - 1 :: k]
