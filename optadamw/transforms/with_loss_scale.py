"""Loss scaling: scale the loss, and undo the scale in the gradients."""

from typing import Any

import jax
import jax.numpy as jnp

from optadamw.base.adjustable import Adjustable
from optadamw.base.errors import invalid, mistyped
from optadamw.base.hyperparameters import Constant, Dynamic, hyperparameter
from optadamw.base.interval import POSITIVE
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
    """Undo a loss scale: divide the gradients by the factor of the loss.

    `scale_loss(state, loss)` multiplies the loss by the scale before it is
    differentiated, so that 16-bit gradients do not underflow. This wrapper undoes the
    scale in float32, before all other parts:

        g = float32(g) * (1 / scale)

    A `DynamicLossScale` adapts the scale, and adds `skip_nonfinite`. Under
    `multi_steps` the scale may change after each micro-batch, so call `scale_loss` for
    each. With `on_bad_micro_step="abort"` it changes between two windows alone, unless
    `counts="gradients"` or a `loss` that is not finite changes it at once.

    A step divides by the scale in the state that it is given. If you build the wrapper
    anew with another number, its first step divides by the old one, by which
    `scale_loss` multiplied, and puts the new one into the state for the next loss.

    Args:
      inner: a transformation of this library.
      loss_scale: a number or 0-d array in [2**-126, 2**126] (Keras's
        `loss_scale_factor`), or a `DynamicLossScale`.

    Returns:
      A transformation whose state has `loss_scale`, and `growth` if it is dynamic.

    Raises:
      TypeError, ValueError: at construction, `inner` is not from this library or has a
        loss scale already, or the scale is out of its range.

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
    if callable(loss_scale) or isinstance(loss_scale, str | Adjustable):
        rule = "a number, a 0-d array or a DynamicLossScale"
        raise mistyped("loss_scale", rule, loss_scale)
    number = hyperparameter("loss_scale", loss_scale, POSITIVE)
    assert isinstance(number, Constant | Dynamic)
    known = not (isinstance(number, Dynamic) and number.is_traced)
    if known and not SMALLEST <= float(jax.device_get(number.value)) <= LARGEST:
        rule = "in [2**-126, 2**126], where the reciprocal is no subnormal number"
        raise invalid("loss_scale", rule, loss_scale)
    return number


def scale_loss(state: PyTree, loss: Array) -> Array:
    """Multiply the loss by the loss scale in `state`, before it is differentiated.

    Args:
      state: the state of a transformation with a loss scale, or of a chain or wrapper
        of Optax around one.
      loss: a real floating array. A 16-bit loss is widened to float32, because the
        product may exceed 16-bit range.

    Returns:
      `loss * scale`, float32 or wider.

    Raises:
      ValueError: `state` has no loss scale, or more than one.
      TypeError: the loss is not real and floating.

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
