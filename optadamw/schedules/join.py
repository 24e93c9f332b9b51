"""Schedules one after another."""

from collections.abc import Iterable
from itertools import pairwise

from optadamw.base.errors import invalid, mistyped
from optadamw.base.horizon import horizon_of
from optadamw.base.types import Schedule
from optadamw.schedules.arguments import step_count
from optadamw.schedules.value import OptaxSchedule


def join_schedules(
    schedules: Iterable[Schedule], boundaries: Iterable[int]
) -> OptaxSchedule:
    """Join schedules one after another, as `optax.join_schedules`.

    From each boundary on, the next schedule gives the value; it is called with the
    number of steps since that boundary.

    Args:
      schedules: the schedules in order. Use schedules of this module to have joined
        schedules that compare equal: a Python function equals only itself.
      boundaries: for each schedule but the first, the step at which it begins.

    Returns:
      A schedule; it equals every other one that is made with equal arguments.

    Raises:
      ValueError, TypeError: no schedules, too few or many boundaries, or boundaries
        that do not increase.

    Example:
      >>> from optadamw.schedules import *
      >>> rate = join_schedules(
      ...     [linear_schedule(0.0, 1.0, 10), constant_schedule(1.0)], [10]
      ... )
      >>> rate
      join_schedules([linear_schedule(0.0, 1.0, 10), constant_schedule(1.0)], [10])
      >>> [float(rate(step)) for step in (0, 5, 10, 20)]
      [0.0, 0.5, 1.0, 1.0]
    """
    if not isinstance(schedules, Iterable):
        raise mistyped("schedules", "a list of schedules", schedules)
    schedules = tuple(schedules)
    for index, schedule in enumerate(schedules):
        if not callable(schedule) or isinstance(schedule, type):
            raise mistyped(
                f"schedules[{index}]",
                "a schedule `step -> value`",
                schedule,
                "For a number use constant_schedule.",
            )
    if not isinstance(boundaries, Iterable):
        raise mistyped("boundaries", "a list of steps", boundaries)
    boundaries = list(boundaries)
    if not schedules:
        raise invalid("schedules", "at least one schedule", schedules)
    if len(boundaries) != len(schedules) - 1:
        raise invalid(
            "boundaries",
            f"one for each of the {len(schedules)} schedules but the first",
            boundaries,
        )
    steps = tuple(
        step_count(f"boundaries[{index}]", boundary, least=0)
        for index, boundary in enumerate(boundaries)
    )
    if any(first >= second for first, second in pairwise(steps)):
        raise invalid("boundaries", "increasing", boundaries)
    own = horizon_of(schedules[-1])
    begin = steps[-1] if steps else 0
    made = OptaxSchedule.of("join_schedules", schedules=schedules, boundaries=steps)
    return made.ending_at(None if own is None else begin + own)
