"""A limit on each element of the gradients."""

from optadamw.base.hyperparameters import hyperparameter
from optadamw.base.interval import POSITIVE
from optadamw.base.types import ScalarOrSchedule
from optadamw.rules.clip import REMEDY, ClipByValue
from optadamw.transforms.call import prints_as_call
from optadamw.transforms.transformation import Transformation, atom


@prints_as_call
def clip_by_value(limit: ScalarOrSchedule) -> Transformation:
    """Limit every element of the gradients to `[-limit, limit]`.

        g = min(max(g, -limit), limit)

    NaN stays NaN.

    Source: Keras's `clipvalue`, `optax.clip`.
    Differs from Keras: 0 and negative limits are refused; Keras accepts them in silence
    and does not clip.

    Args:
      limit: the largest magnitude, > 0, in units of the gradient: a number, an array,
        or a schedule of the finished optimizer steps.

    Returns:
      A transformation without buffers.

    Raises:
      ValueError, TypeError: at construction, `limit` is not positive.

    Example:
      >>> import jax.numpy as jnp, optadamw
      >>> tx = optadamw.clip_by_value(0.5)
      >>> g = {"w": jnp.array([3.0, -0.25])}
      >>> tx.update(g, tx.init(g))[0]["w"].tolist()
      [0.5, -0.25]
    """
    return atom(ClipByValue(hyperparameter("limit", limit, POSITIVE, REMEDY)))
