"""Steps of a transformation, from parameters and gradients that the cases share."""

import jax
import jax.numpy as jnp


def steps(tx, params, grads, count=1):
    """The parameters and states after each of so many steps with these gradients."""
    step, state, found = jax.jit(tx.step), tx.init(params), []
    for _ in range(count):
        params, state = step(grads, state, params)
        found.append((params, state))
    return found


START = jnp.array([[3.0, 4.0], [5.0, 6.0]])
ONES = jnp.ones((2, 2))
