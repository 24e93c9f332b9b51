"""`step` updates and applies in one call, with any Optax transformation."""

from typing import Any

import optax

from optadamw.base.errors import no_transformation
from optadamw.base.types import PyTree
from optadamw.transforms.transformation import Transformation


def step(
    tx: optax.GradientTransformation,
    grads: PyTree,
    state: PyTree,
    params: PyTree,
    **extra: Any,
) -> tuple[PyTree, PyTree]:
    """Take one step with any Optax transformation; return `(params, state)`.

    For a transformation of this library it calls `tx.step`. For others it is this code:

        updates, state = tx.update(grads, state, params, **extra)
        return optax.apply_updates(params, updates), state

    Args:
      tx: any gradient transformation.
      grads: the gradients, a tree with the structure of `params`.
      state: the state that `tx.init(params)` or the last step returned.
      params: the parameters.
      **extra: passed to the transformation, such as `loss` or `weight`; parts that do
        not take extra arguments ignore them.

    Returns:
      The next parameters and the next state.

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
    check_transformation(tx)
    update = optax.with_extra_args_support(tx).update
    updates, state = update(grads, state, params, **extra)
    return optax.apply_updates(params, updates), state


def check_transformation(tx: Any) -> None:
    """Refuse an object without the functions `init` and `update` of Optax.

    Raises:
      TypeError: `tx` is no gradient transformation.
    """
    if not (callable(getattr(tx, "init", None)) and callable(getattr(tx, "update", 0))):
        raise no_transformation(tx)
