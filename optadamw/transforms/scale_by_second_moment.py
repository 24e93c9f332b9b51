"""Adam's direction without a first moment, as a transformation."""

from optadamw.base.hyperparameters import hyperparameter
from optadamw.base.interval import BETA, NON_NEGATIVE
from optadamw.base.types import ScalarOrSchedule
from optadamw.rules.second_moment import OverRoot, SecondMoment
from optadamw.store.formats import Stored
from optadamw.store.moments import moment
from optadamw.transforms.call import prints_as_call
from optadamw.transforms.transformation import Transformation, atom


@prints_as_call
def scale_by_second_moment(
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    eps_root: ScalarOrSchedule = 0.0,
    *,
    nu_dtype: Stored | None = None,
) -> Transformation:
    """Divide gradients by the root of Adam's second moment, without a first moment.

    With g the gradient and t = `state.step` + 1:

        v = b2 v + (1 - b2) g^2,    d = g / (sqrt(v / (1 - b2^t) + eps_root) + eps)

    This is `scale_by_adam(b1=0)` without the buffer `mu`, for `schedule_free`, whose
    average stands in the place of momentum.

    Source: arXiv 1412.6980v9, Algorithm 1, with b1 = 0.

    Args:
      b2: decay of the second moment, in [0, 1). Default: 0.999.
      eps: added to the root, in units of the gradient, >= 0. Default: 1e-8.
      eps_root: added under the root, in units of the squared gradient, >= 0. Default:
        0.
      nu_dtype: format of the second moment in the state, as in `scale_by_adam`. None
        (default): float32 (float64 for float64 parameters).

    Returns:
      A transformation whose state has `step` and `nu`.

    Raises:
      ValueError, TypeError: at construction, a hyperparameter is out of its range or of
        a wrong type, or the moment would not change any more in its format.

    Example:
      >>> import jax.numpy as jnp, optadamw
      >>> tx = optadamw.scale_by_second_moment()
      >>> updates, state = tx.update(jnp.array([3.0, -2.0]), tx.init(jnp.zeros(2)))
      >>> [round(x, 6) for x in updates.tolist()]
      [1.0, -1.0]
    """
    second = hyperparameter("b2", b2, BETA)
    return atom(
        SecondMoment(b2=second, nu=moment("nu_dtype", nu_dtype, second)),
        OverRoot(
            eps=hyperparameter("eps", eps, NON_NEGATIVE),
            eps_root=hyperparameter("eps_root", eps_root, NON_NEGATIVE),
        ),
    )
