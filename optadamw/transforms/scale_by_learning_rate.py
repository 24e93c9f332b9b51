"""The learning rate as a transformation."""

from optadamw.base.hyperparameters import hyperparameter
from optadamw.base.interval import NON_NEGATIVE
from optadamw.base.types import ScalarOrSchedule
from optadamw.rules.rate import Rate
from optadamw.transforms.call import prints_as_call
from optadamw.transforms.transformation import Transformation, atom


@prints_as_call
def scale_by_learning_rate(learning_rate: ScalarOrSchedule) -> Transformation:
    """Multiply the direction by `-learning_rate`.

    Differs from `optax.scale_by_learning_rate`: a negative rate and `flip_sign=False`
    do not exist; to ascend, use `maximize()`.

    Args:
      learning_rate: a number, an array, or a schedule of the finished optimizer steps;
        >= 0, in units of the parameter per unit of the direction.

    Returns:
      A transformation without buffers.

    Raises:
      ValueError, TypeError: at construction, the rate is negative, or it is no number,
        array or schedule.

    Example:
      >>> import jax.numpy as jnp, optadamw
      >>> tx = optadamw.scale_by_learning_rate(0.5)
      >>> g = {"w": jnp.array([3.0])}
      >>> tx.update(g, tx.init(g))[0]["w"].tolist()
      [-1.5]
    """
    # Not "use maximize", which most functions of other libraries do not have.
    remedy = "To ascend, negate the loss, not the rate."
    rate = hyperparameter("learning_rate", learning_rate, NON_NEGATIVE, remedy)
    return atom(Rate(rate))
