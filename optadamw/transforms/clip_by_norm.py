"""A limit on the norm of each parameter's gradient."""

from optadamw.base.hyperparameters import hyperparameter
from optadamw.base.interval import POSITIVE
from optadamw.base.types import ScalarOrSchedule
from optadamw.rules.clip import REMEDY, ClipByNorm
from optadamw.transforms.call import prints_as_call
from optadamw.transforms.transformation import Transformation, atom


@prints_as_call
def clip_by_norm(limit: ScalarOrSchedule) -> Transformation:
    """Limit the Euclidean norm of each parameter's gradient.

        g = g * min(1, limit / |g|)        for each parameter by itself

    The norm is summed in float32 (float64 for float64 parameters) and overflows only if
    it cannot be represented. A norm that is not finite limits nothing.

    Source: Keras's `clipnorm`.

    Args:
      limit: the largest norm, > 0, in units of the gradient: a number, an array, or a
        schedule of the finished optimizer steps.

    Returns:
      A transformation without buffers.

    Raises:
      ValueError, TypeError: at construction, `limit` is not positive.

    Example:
      >>> import jax.numpy as jnp, optadamw
      >>> tx = optadamw.clip_by_norm(1.0)
      >>> g = {"w": jnp.array([3.0, 4.0]), "b": jnp.array([0.5])}
      >>> tx.update(g, tx.init(g))[0]["b"].tolist()
      [0.5]
    """
    return atom(ClipByNorm(hyperparameter("limit", limit, POSITIVE, REMEDY)))
