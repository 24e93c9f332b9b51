"""Equinox: take steps with whole models, whose inexact arrays are overwritten."""

from typing import Any, TypeVar

import equinox as eqx
import optax

from optadamw.base.types import PyTree
from optadamw.integrations.flush import flush as flush_arrays
from optadamw.transforms.step import check_transformation
from optadamw.transforms.step import step as step_arrays

_M = TypeVar("_M")


def init(tx: optax.GradientTransformation, model: PyTree) -> PyTree:
    """Make the state of the inexact arrays of a model.

    It is `tx.init(eqx.filter(model, eqx.is_inexact_array))`.

    Args:
      tx: any Optax transformation.
      model: an Equinox module, or any pytree with leaves that are not trained.

    Returns:
      The state for `step`; its buffers have the structure of the model, with None in
      place of leaves that are not trained.

    Raises:
      TypeError: `tx` is no transformation.

    Example:
      >>> import equinox, jax, optadamw
      >>> from optadamw.integrations.equinox import init
      >>> model = equinox.nn.Linear(2, 1, key=jax.random.key(0))
      >>> state = init(optadamw.adamw(1e-3), model)
      >>> state.mu.weight.tolist()
      [[0.0, 0.0]]
    """
    check_transformation(tx)
    return tx.init(eqx.filter(model, eqx.is_inexact_array))


def step(
    tx: optax.GradientTransformation,
    grads: PyTree,
    state: PyTree,
    model: _M,
    **extra: Any,
) -> tuple[_M, PyTree]:
    """Take one step with a model; return `(model, state)`.

    It is this code:

        params, static = eqx.partition(model, eqx.is_inexact_array)
        params, state = optadamw.step(tx, grads, state, params, **extra)
        return eqx.combine(params, static), state

    The step works in place in a jitted function that donates model and state and
    returns them first, in this order, because jit pairs donated buffers with results in
    order of position. No temporary of the size of the parameters is then needed:

        @eqx.filter_jit(donate="all-except-first")
        def train_step(batch, model, state):
            loss, grads = eqx.filter_value_and_grad(loss_of)(model, batch)
            model, state = step(tx, grads, state, model, loss=loss)
            return model, state, loss

    Args:
      tx: any Optax transformation. One of this library steps in place; others use
        `update` and `optax.apply_updates`.
      grads: the gradients that `eqx.filter_grad` returned, with None for leaves that
        are not differentiated. An inexact array with a gradient of None is unchanged.
      state: the state that `init` or the last step returned.
      model: the model.
      **extra: passed to the transformation, such as `weight=` and `loss=`.

    Returns:
      The next model and the next state. Leaves of the model that are no inexact arrays
      are unchanged.

    Raises:
      TypeError: `tx` is no transformation.
      ValueError, TypeError: a gradient does not fit its parameter; the message has the
        path.

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
    """Apply the gradients of a window that is not full, after the last batch.

    Args:
      tx: a transformation of this library.
      state: the state that `step` returned.
      model: the model.

    Returns:
      The next model and the next state; both unchanged if no gradient was accumulated.

    Raises:
      TypeError: `tx` is not from this library.
    """
    params, static = eqx.partition(model, eqx.is_inexact_array)
    params, state = flush_arrays(tx, state, params)
    return eqx.combine(params, static), state
