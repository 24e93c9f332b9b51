"""AdEMAMix's slow moment as a transformation."""

from optadamw.base.hyperparameters import hyperparameter
from optadamw.base.interval import BETA, NON_NEGATIVE
from optadamw.base.types import ScalarOrSchedule
from optadamw.rules.slow_moment import SlowMoment
from optadamw.store.formats import Stored
from optadamw.store.moments import moment
from optadamw.transforms.call import prints_as_call
from optadamw.transforms.transformation import Transformation, atom


@prints_as_call
def add_slow_moment(
    b3: ScalarOrSchedule = 0.9999,
    alpha: ScalarOrSchedule = 5.0,
    *,
    dtype: Stored | None = None,
) -> Transformation:
    """Add a second, slow mean of the gradients to Adam's direction (AdEMAMix).

    With g the gradient and m, v the moments of the `scale_by_adam` right before it:

        m2 = b3 m2 + (1 - b3) g
        d  = (m / (1 - b1^t) + alpha m2) / (sqrt(v / (1 - b2^t) + eps_root) + eps)

    The slow mean has no bias correction. It starts at zero, and its part in the
    direction grows over some 1 / (1 - b3) steps. The paper starts long trainings with a
    small alpha and b3: `schedules.linear_schedule(5.0 / steps, 5.0, steps - 1)` and
    `schedules.slow_moment_schedule(0.9, 0.9999, steps)`.

    Source: Pagliardini, Ablin & Grangier, arXiv 2409.03137v2, Algorithm 1.
    Differs from `optax.contrib.ademamix`: bias corrections are accurate, the slow mean
    of 16-bit parameters is float32, and it may be kept in 16 or 8 bits.

    Args:
      b3: decay of the slow mean, in [0, 1): a number, an array, or a schedule of the
        finished optimizer steps. Default: 0.9999. An array or a schedule is a float32,
        in which 1 - b3 of 0.9999 is off by up to 3e-4 of its size.
      alpha: the weight of the slow mean, >= 0. Default: 5, as in the paper.
      dtype: format of the slow mean in the state, with the choices of `mu_dtype` in
        `scale_by_adam`. A dtype in which the mean would not change any more is refused.
        None (default): float32 (float64 for float64 parameters).

    Returns:
      A transformation whose state has `custom["mu_slow"]`, a buffer for each parameter.

    Raises:
      ValueError, TypeError: at construction, an argument is out of its range or of a
        wrong type; in a chain, no `scale_by_adam` stands right before the atom, or one
        with eps_mode="hat".

    Example:
      >>> import jax.numpy as jnp, optadamw
      >>> tx = optadamw.adamw(0.1, weight_decay=0.0, b3=0.75, slow_alpha=2.0)
      >>> params, state = tx.step(jnp.ones(2), tx.init(jnp.zeros(2)), jnp.zeros(2))
      >>> [round(x, 6) for x in params.tolist()]  # -0.1 (1 + 2 * 0.25)
      [-0.15, -0.15]
    """
    slow = hyperparameter("b3", b3, BETA)
    return atom(
        SlowMoment(
            b3=slow,
            alpha=hyperparameter("alpha", alpha, NON_NEGATIVE),
            mu_slow=moment("dtype", dtype, slow, letter="b3"),
        )
    )
