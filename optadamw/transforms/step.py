"""`step`: update and apply in one, with any Optax transformation."""

from typing import Any

import optax

from optadamw.base.errors import mistyped
from optadamw.base.types import PyTree
from optadamw.transforms.transformation import Transformation


def step(
    tx: optax.GradientTransformation,
    grads: PyTree,
    state: PyTree,
    params: PyTree,
    **extra: Any,
) -> tuple[PyTree, PyTree]:
    """Take one step with any Optax transformation: `(params, state)`.

    Transformations of this library take their own `step`; others go through `update`
    and `optax.apply_updates`.

    Args:
      tx: any gradient transformation.
      grads: gradients, a tree like `params`.
      state: what `tx.init(params)` or the step before returned.
      params: the parameters.
      **extra: passed to the transformation.

    Returns:
      The next parameters and state.

    Raises:
      TypeError: `tx` is no gradient transformation.

    Example:
      >>> import jax.numpy as jnp, optax, optadamw
      >>> params = {"w": jnp.ones(2)}
      >>> tx = optax.sgd(0.5)
      >>> params, _ = optadamw.step(tx, {"w": jnp.ones(2)}, tx.init(params), params)
      >>> params["w"].tolist()
      [0.5, 0.5]
    """
    if isinstance(tx, Transformation):
        return tx.step(grads, state, params, **extra)
    if not (callable(getattr(tx, "init", None)) and callable(getattr(tx, "update", 0))):
        raise mistyped("tx", "an Optax gradient transformation", tx)
    update = optax.with_extra_args_support(tx).update
    updates, state = update(grads, state, params, **extra)
    return optax.apply_updates(params, updates), state
