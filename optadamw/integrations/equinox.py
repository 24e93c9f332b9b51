"""Equinox: the whole model in and out, its inexact arrays written over."""

from typing import Any, TypeVar

import equinox as eqx
import optax

from optadamw.base.types import PyTree
from optadamw.integrations.flush import flush as flush_arrays
from optadamw.transforms.step import step as step_arrays

_M = TypeVar("_M")


def init(tx: optax.GradientTransformation, model: PyTree) -> PyTree:
    """`tx.init` of the inexact arrays of a model.

    Args:
      tx: any Optax transformation.
      model: an Equinox module, or any pytree with leaves that are not trained.

    Returns:
      The state for `step`; its buffers are models with None for what is not trained.

    Example:
      >>> import equinox, jax, optadamw
      >>> from optadamw.integrations.equinox import init
      >>> model = equinox.nn.Linear(2, 1, key=jax.random.key(0))
      >>> state = init(optadamw.adamw(1e-3), model)
      >>> state.mu.weight.tolist()
      [[0.0, 0.0]]
    """
    return tx.init(eqx.filter(model, eqx.is_inexact_array))


def step(
    tx: optax.GradientTransformation,
    grads: PyTree,
    state: PyTree,
    model: _M,
    **extra: Any,
) -> tuple[_M, PyTree]:
    """Take one step with a model: `(model, state)`.

    It is this code:

        params, static = eqx.partition(model, eqx.is_inexact_array)
        params, state = optadamw.step(tx, grads, state, params, **extra)
        return eqx.combine(params, static), state

    In place means: in a function that takes and returns the model and the state, in
    this order, before anything else, and donates them, no temporary of the size of the
    parameters is needed. jit pairs donated buffers with results in order of position:

        @eqx.filter_jit(donate="all-except-first")
        def train_step(batch, model, state):
            loss, grads = eqx.filter_value_and_grad(loss_of)(model, batch)
            model, state = step(tx, grads, state, model, loss=loss)
            return model, state, loss

    Args:
      tx: any Optax transformation. Those of this library step in place; others go
        through `update`.
      grads: what `eqx.filter_grad` returned: None where nothing is differentiated. A
        None for an inexact array leaves that array alone.
      state: what `init` or the step before returned.
      model: the model.
      **extra: passed to the transformation, such as `weight=` and `loss=`.

    Returns:
      The next model, everything but its inexact arrays as it was, and the next state.

    Raises:
      TypeError: `tx` is no transformation.
      ValueError, TypeError: gradients that do not fit, by path.

    Example:
      >>> import equinox, jax, jax.numpy as jnp, optadamw
      >>> from optadamw.integrations.equinox import init, step
      >>> model = equinox.nn.Linear(2, 1, key=jax.random.key(0))
      >>> tx = optadamw.adamw(0.5)
      >>> grads = equinox.filter_grad(lambda m: m(jnp.ones(2))[0])(model)
      >>> after, state = step(tx, grads, init(tx, model), model)
      >>> (model.bias - after.bias).round(3).tolist()
      [0.5]
    """
    params, static = eqx.partition(model, eqx.is_inexact_array)
    params, state = step_arrays(tx, grads, state, params, **extra)
    return eqx.combine(params, static), state


def flush(
    tx: optax.GradientTransformation, state: PyTree, model: _M
) -> tuple[_M, PyTree]:
    """Apply a partial window of accumulated gradients, as after the last batch.

    Args:
      tx: a transformation of this library.
      state: what `step` returned.
      model: the model.

    Returns:
      The next model and state.

    Raises:
      TypeError: `tx` is of another library.
    """
    params, static = eqx.partition(model, eqx.is_inexact_array)
    params, state = flush_arrays(tx, state, params)
    return eqx.combine(params, static), state
