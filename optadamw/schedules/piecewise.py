"""Factors at given steps, with jumps or with lines or cosines between them."""

from collections.abc import Mapping

from optadamw.base.errors import invalid
from optadamw.base.types import Number
from optadamw.schedules.arguments import number, scales
from optadamw.schedules.value import OptaxSchedule

_INTERPOLATIONS = ("linear", "cosine")


def piecewise_constant_schedule(
    init_value: Number, boundaries_and_scales: Mapping[int, float] | None = None
) -> OptaxSchedule:
    """Jumps by factors at given steps, as `optax.piecewise_constant_schedule`.

        value = init_value times every scale whose boundary is <= step

    Args:
      init_value: the value before the first boundary.
      boundaries_and_scales: for each boundary, in steps, the factor (>= 0) from there
        on. None, the default: no boundaries.

    Returns:
      A schedule; it equals every other one that is made with equal arguments.

    Raises:
      ValueError, TypeError: an argument is out of its range or of a wrong type.

    Example:
      >>> from optadamw import schedules
      >>> rate = schedules.piecewise_constant_schedule(1.0, {10: 0.5, 20: 0.1})
      >>> [round(float(rate(step)), 4) for step in (9, 10, 20)]
      [1.0, 0.5, 0.05]
    """
    return OptaxSchedule.of(
        "piecewise_constant_schedule",
        init_value=number("init_value", init_value),
        boundaries_and_scales=scales("boundaries_and_scales", boundaries_and_scales),
    )


def piecewise_interpolate_schedule(
    interpolate_type: str,
    init_value: Number,
    boundaries_and_scales: Mapping[int, float] | None = None,
) -> OptaxSchedule:
    """Lines or cosines between steps, as `optax.piecewise_interpolate_schedule`.

    The value at a boundary is `init_value` times every scale up to there; between two
    boundaries it is interpolated, and after the last one it stays.

    Args:
      interpolate_type: "linear" or "cosine".
      init_value: the value at step 0.
      boundaries_and_scales: for each boundary, in steps, the factor (>= 0) by which
        the value there differs from the one before. None, the default: no boundaries.

    Returns:
      A schedule; it equals every other one that is made with equal arguments.

    Raises:
      ValueError, TypeError: an argument is out of its range or of a wrong type.

    Example:
      >>> from optadamw import schedules
      >>> rate = schedules.piecewise_interpolate_schedule("linear", 1.0, {10: 0.5})
      >>> [round(float(rate(step)), 4) for step in (0, 5, 10, 20)]
      [1.0, 0.75, 0.5, 0.5]
    """
    if interpolate_type not in _INTERPOLATIONS:
        rule = "'linear' or 'cosine'"
        raise invalid("interpolate_type", rule, interpolate_type)
    factors = scales("boundaries_and_scales", boundaries_and_scales)
    return OptaxSchedule.of(
        "piecewise_interpolate_schedule",
        interpolate_type=interpolate_type,
        init_value=number("init_value", init_value),
        boundaries_and_scales=factors,
    ).ending_at(factors.rows[-1][0] if factors and factors.rows else None)
