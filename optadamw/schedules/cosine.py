"""Cosine decay."""

from optadamw.base.interval import NON_NEGATIVE
from optadamw.base.types import Number
from optadamw.schedules.arguments import number, step_count
from optadamw.schedules.value import OptaxSchedule


def cosine_decay_schedule(
    init_value: Number,
    decay_steps: int,
    alpha: Number = 0.0,
    exponent: Number = 1.0,
) -> OptaxSchedule:
    """Half a cosine, as `optax.cosine_decay_schedule`.

        value = init_value ((1 - alpha) ((1 + cos(pi u)) / 2)^exponent + alpha),
        u = step / decay_steps, at most 1

    Source: arXiv 1608.03983.

    Args:
      init_value: the value at step 0.
      decay_steps: the steps until the end, >= 1.
      alpha: the value at the end, as a fraction of `init_value`; 0 by default.
      exponent: the power to which the half cosine is raised; 1 by default.

    Returns:
      A schedule; it equals every other one that is made with equal arguments.

    Raises:
      ValueError, TypeError: an argument is out of its range or of a wrong type.

    Example:
      >>> from optadamw import schedules
      >>> rate = schedules.cosine_decay_schedule(1.0, 10, alpha=0.1)
      >>> rate
      cosine_decay_schedule(1.0, 10, alpha=0.1)
      >>> [round(float(rate(step)), 4) for step in (0, 5, 10, 20)]
      [1.0, 0.55, 0.1, 0.1]
    """
    steps = step_count("decay_steps", decay_steps)
    return OptaxSchedule.of(
        "cosine_decay_schedule",
        init_value=number("init_value", init_value),
        decay_steps=steps,
        alpha=number("alpha", alpha),
        exponent=number("exponent", exponent, NON_NEGATIVE),
    ).ending_at(steps)
