"""A constant, for where a schedule is asked for."""

from optadamw.base.types import Number
from optadamw.schedules.arguments import number
from optadamw.schedules.value import OptaxSchedule


def constant_schedule(value: Number) -> OptaxSchedule:
    """Make a schedule with one number at every step, as `optax.constant_schedule`.

    Args:
      value: the number, or a 0-d array.

    Returns:
      A schedule; it equals every other one that is made with equal arguments.

    Raises:
      ValueError, TypeError: `value` is not finite, or no number.

    Example:
      >>> from optadamw import schedules
      >>> schedules.constant_schedule(0.1)(100)
      0.1
    """
    return OptaxSchedule.of("constant_schedule", value=number("value", value))
