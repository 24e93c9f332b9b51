"""One cycle: up to a peak and down to far below the start."""

from collections.abc import Sequence

from optadamw.base.errors import invalid
from optadamw.base.interval import POSITIVE, Interval
from optadamw.base.types import Number
from optadamw.schedules.arguments import number, plain_number, step_count
from optadamw.schedules.value import OptaxSchedule

_INSIDE = Interval(low=0.0, high=1.0, open_low=True, open_high=True)


def linear_onecycle_schedule(
    transition_steps: int,
    peak_value: Number,
    pct_start: float = 0.3,
    pct_final: float = 0.85,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
) -> OptaxSchedule:
    """Make three lines, up, down and further down, as `optax.linear_onecycle_schedule`.

    With `low = peak_value / div_factor` the value goes from `low` to `peak_value`, back
    to `low`, and on to `low / final_div_factor`. Source: arXiv 1708.07120.

    Args:
      transition_steps: length of the whole schedule; each line needs a step.
      peak_value: the largest value.
      pct_start: the step of the peak over `transition_steps`; 0.3 by default.
      pct_final: the step at which the value is back at `low`, over
        `transition_steps`; 0.85 by default.
      div_factor: `peak_value` over the first value; 25 by default.
      final_div_factor: the first value over the last one; 1e4 by default.

    Returns:
      A schedule; it equals every other one that is made with equal arguments.

    Raises:
      ValueError, TypeError: an argument is out of its range or of a wrong type.

    Example:
      >>> from optadamw import schedules
      >>> rate = schedules.linear_onecycle_schedule(100, 1.0)
      >>> [round(float(rate(step)), 4) for step in (0, 30, 85)]
      [0.04, 1.0, 0.04]
    """
    steps = step_count("transition_steps", transition_steps)
    start = plain_number("pct_start", pct_start, _INSIDE)
    final = plain_number("pct_final", pct_final, _INSIDE)
    if final < start:
        raise invalid("pct_final", f">= pct_start, which is {start}", pct_final)
    _check_phases(transition_steps, [int(start * steps), int(final * steps), steps])
    return OptaxSchedule.of(
        "linear_onecycle_schedule",
        transition_steps=steps,
        peak_value=number("peak_value", peak_value),
        pct_start=start,
        pct_final=final,
        div_factor=plain_number("div_factor", div_factor, POSITIVE),
        final_div_factor=plain_number("final_div_factor", final_div_factor, POSITIVE),
    ).ending_at(steps)


def cosine_onecycle_schedule(
    transition_steps: int,
    peak_value: Number,
    pct_start: float = 0.3,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
) -> OptaxSchedule:
    """Make two half cosines, up and down, as `optax.cosine_onecycle_schedule`.

    With `low = peak_value / div_factor` the value goes from `low` to `peak_value`, and
    from there to `low / final_div_factor`. Source: arXiv 1708.07120.

    Args:
      transition_steps: length of the whole schedule; each cosine needs a step.
      peak_value: the largest value.
      pct_start: the step of the peak over `transition_steps`; 0.3 by default.
      div_factor: `peak_value` over the first value; 25 by default.
      final_div_factor: the first value over the last one; 1e4 by default.

    Returns:
      A schedule; it equals every other one that is made with equal arguments.

    Raises:
      ValueError, TypeError: an argument is out of its range or of a wrong type.

    Example:
      >>> from optadamw import schedules
      >>> rate = schedules.cosine_onecycle_schedule(100, 1.0)
      >>> [round(float(rate(step)), 4) for step in (0, 15, 30, 65)]
      [0.04, 0.52, 1.0, 0.5]
    """
    steps = step_count("transition_steps", transition_steps)
    start = plain_number("pct_start", pct_start, _INSIDE)
    _check_phases(transition_steps, [int(start * steps), steps])
    return OptaxSchedule.of(
        "cosine_onecycle_schedule",
        transition_steps=steps,
        peak_value=number("peak_value", peak_value),
        pct_start=start,
        div_factor=plain_number("div_factor", div_factor, POSITIVE),
        final_div_factor=plain_number("final_div_factor", final_div_factor, POSITIVE),
    ).ending_at(steps)


def _check_phases(transition_steps: int, ends: Sequence[int]) -> None:
    """Refuse phases without a step: Optax keys its phases by their ends."""
    if ends[0] == 0 or len(set(ends)) < len(ends):
        raise invalid(
            "transition_steps",
            "enough for a step in every phase",
            transition_steps,
            f"The phases would end at the steps {', '.join(map(str, ends))}.",
        )
