"""A limit on the norm of all gradients together."""

from optadamw.base.hyperparameters import hyperparameter
from optadamw.base.interval import NON_NEGATIVE, POSITIVE
from optadamw.base.types import ScalarOrSchedule
from optadamw.rules.clip import REMEDY, ClipByGlobalNorm
from optadamw.transforms.call import prints_as_call
from optadamw.transforms.transformation import Transformation, atom


@prints_as_call
def clip_by_global_norm(
    limit: ScalarOrSchedule, *, eps: ScalarOrSchedule = 0.0
) -> Transformation:
    """Limit the norm of all gradients together.

        n = sqrt(sum over all parameters and elements of g^2)
        g = g * min(1, limit / (n + eps))

    The norm is summed in float32 (float64 if a parameter is float64) and overflows only
    if it cannot be represented. A norm that is not finite limits nothing: the element
    that caused it stays visible, and the other gradients do not become NaN (as in
    Keras) or zero (as in Optax). A caller that knows the norm of the gradients can pass
    it as `update(..., grad_norm=n)`; a clip that is first in its chain then uses it.

    Source: Pascanu et al., arXiv 1211.5063, Algorithm 1; PyTorch's `clip_grad_norm_`
    and MLX's `clip_grad_norm` have eps = 1e-6.
    Differs from `optax.clip_by_global_norm`: one scalar factor instead of a division
    and a selection on every array, which saves a temporary of the gradients' size.

    Args:
      limit: the largest norm, > 0, in units of the gradient: a number, an array, or a
        schedule of the finished optimizer steps.
      eps: added to the norm, >= 0, in units of the gradient. Default: 0. Needed only to
        reproduce PyTorch and MLX; a norm of 0 is safe without it.

    Returns:
      A transformation without buffers.

    Raises:
      ValueError, TypeError: at construction, `limit` is not positive or `eps` is
        negative.

    Example:
      >>> import jax.numpy as jnp, optadamw
      >>> tx = optadamw.clip_by_global_norm(1.0)
      >>> g = {"w": jnp.array([3.0]), "b": jnp.array([4.0])}
      >>> tx.update(g, tx.init(g))[0]
      {'b': Array([0.8], dtype=float32), 'w': Array([0.6], dtype=float32)}
    """
    return atom(
        ClipByGlobalNorm(
            hyperparameter("limit", limit, POSITIVE, REMEDY),
            hyperparameter("eps", eps, NON_NEGATIVE),
        )
    )
