"""Loss scaling around a transformation, and the scaled loss."""

from typing import Any

import jax
import jax.numpy as jnp

from optadamw.base.errors import invalid, mistyped
from optadamw.base.hyperparameters import POSITIVE, Constant, Dynamic, hyperparameter
from optadamw.base.types import Array, Number, PyTree
from optadamw.control.loss_scale import (
    LARGEST,
    SMALLEST,
    DynamicLossScale,
    StaticLossScale,
)
from optadamw.store.state import state_with
from optadamw.transforms.call import prints_as_call
from optadamw.transforms.transformation import Transformation, controlled


@prints_as_call
def with_loss_scale(
    inner: Transformation, loss_scale: Number | DynamicLossScale
) -> Transformation:
    """Divide the gradients by the factor that the loss was multiplied by.

    The loss is multiplied by `scale_loss(state, loss)` before it is differentiated, so
    that 16-bit gradients do not underflow; here they are divided by the same factor,
    in float32, before anything else looks at them:

        g = float32(g) * (1 / scale)

    A `DynamicLossScale` finds its factor by itself, and brings `skip_nonfinite` with
    it. It is judged and moves as that is told to: at each micro-batch, or at each
    window with `on_bad_micro_step="abort"`.

    Args:
      inner: a transformation of this library.
      loss_scale: a number > 0 (Keras's `loss_scale_factor`), or a `DynamicLossScale`.

    Returns:
      A transformation whose state has `loss_scale`, and `growth` if it is dynamic.

    Raises:
      TypeError, ValueError: at construction, for an `inner` from elsewhere or one that
        has a loss scale already, or a scale out of its range.

    Example:
      >>> import jax, jax.numpy as jnp, optadamw
      >>> tx = optadamw.with_loss_scale(optadamw.adamw(0.1), 1024.0)
      >>> params = jnp.ones(2, jnp.float16)
      >>> state = tx.init(params)
      >>> def loss(params):
      ...     return optadamw.scale_loss(state, jnp.sum(params * 1e-6))
      >>> params, state = tx.step(jax.grad(loss)(params), state, params)
    """
    scale: StaticLossScale | DynamicLossScale
    if isinstance(loss_scale, DynamicLossScale):
        scale = loss_scale
    else:
        scale = StaticLossScale(_static(loss_scale))
    return controlled("with_loss_scale", inner, loss_scale=scale)


def _static(loss_scale: Any) -> Constant | Dynamic:
    if callable(loss_scale) or isinstance(loss_scale, str):
        rule = "a number, a 0-d array or a DynamicLossScale"
        raise mistyped("loss_scale", rule, loss_scale)
    number = hyperparameter("loss_scale", loss_scale, POSITIVE)
    assert isinstance(number, Constant | Dynamic)
    known = not (isinstance(number, Dynamic) and number.is_traced)
    if known and not SMALLEST <= float(jax.device_get(number.value)) <= LARGEST:
        rule = "in [2**-126, 2**127], where float32 is exact"
        raise invalid("loss_scale", rule, loss_scale)
    return number


def scale_loss(state: PyTree, loss: Array) -> Array:
    """The loss times the loss scale in `state`, to be differentiated.

    Args:
      state: the state of a transformation with a loss scale, or of a chain or wrapper
        of Optax around one.
      loss: a real array; 16-bit ones are widened to float32, which the product may
        need.

    Returns:
      `loss * scale`, float32 or wider.

    Raises:
      ValueError: there is no loss scale in `state`, or more than one.
      TypeError: the loss is complex or an integer.

    Example:
      >>> import jax.numpy as jnp, optadamw
      >>> tx = optadamw.adamw(1e-3, loss_scale=512.0)
      >>> float(optadamw.scale_loss(tx.init(jnp.ones(2)), jnp.float16(2.0)))
      1024.0
    """
    remedy = "Ask for it with adamw(..., loss_scale=DynamicLossScale())."
    scale = state_with(state, "loss_scale", "loss scale", "", remedy).loss_scale
    assert scale is not None
    loss = jnp.asarray(loss)
    if not jnp.issubdtype(loss.dtype, jnp.floating):
        raise mistyped("loss", "real and floating", loss.dtype)
    wide = loss.dtype if loss.dtype.itemsize >= 4 else jnp.dtype(jnp.float32)
    return loss.astype(wide) * scale.astype(wide)
