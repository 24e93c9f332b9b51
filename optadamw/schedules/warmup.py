"""A linear warm-up, and then a constant, half a cosine or an exponential decay."""

from typing import Any

import jax
import optax

from optadamw.base.errors import invalid, mistyped
from optadamw.base.hyperparameters import Dynamic
from optadamw.base.interval import NON_NEGATIVE, POSITIVE
from optadamw.base.types import Number
from optadamw.schedules.arguments import number, plain_number, step_count
from optadamw.schedules.exponential import exponential_decay
from optadamw.schedules.polynomial import linear_schedule
from optadamw.schedules.value import OptaxSchedule


class WarmupConstant(OptaxSchedule):
    """A warm-up of Optax that ends exactly where it says, as `Polynomial` does."""

    def __call__(self, step: Any) -> Any:
        """The value after `step` finished optimizer steps."""
        given = self.given
        line = linear_schedule(
            given["init_value"], given["peak_value"], given["warmup_steps"]
        )
        return line(step)


class WarmupCosine(OptaxSchedule):
    """A warm-up and half a cosine of Optax, also from a peak of 0 to another end.

    Optax multiplies the peak by a factor: a peak of 0 stays 0 for ever, whatever the
    end. It also asks in a compiled step whether an array is 0, which JAX refuses.
    """

    def __call__(self, step: Any) -> Any:
        """The value after `step` finished optimizer steps."""
        given = self.given
        first, peak, end, warmup, exponent = (
            given[name]
            for name in (
                "init_value",
                "peak_value",
                "end_value",
                "warmup_steps",
                "exponent",
            )
        )
        length = given["decay_steps"] - warmup
        cosine = optax.schedules.cosine_decay_schedule

        def from_zero(step: Any) -> Any:
            return end - cosine(end, length, exponent=exponent)(step)

        with jax.numpy_dtype_promotion("standard"):
            rising = optax.schedules.linear_schedule(first, peak, warmup)
            falling = cosine(peak, length, end / peak, exponent) if peak else from_zero
            return optax.schedules.join_schedules([rising, falling], [warmup])(step)


class WarmupStaircase(OptaxSchedule):
    """A warm-up, and then an exponential decay whose jumps come at their steps."""

    def __call__(self, step: Any) -> Any:
        """The value after `step` finished optimizer steps."""
        given = self.given
        first, peak, warmup = (
            given.pop(name) for name in ("init_value", "peak_value", "warmup_steps")
        )
        rising = optax.schedules.linear_schedule(first, peak, warmup)
        joined = optax.schedules.join_schedules(
            [rising, exponential_decay(peak, **given)], [warmup]
        )
        with jax.numpy_dtype_promotion("standard"):
            return joined(step)


def warmup_constant_schedule(
    init_value: Number, peak_value: Number, warmup_steps: int
) -> OptaxSchedule:
    """A linear warm-up to a constant, as `optax.warmup_constant_schedule`.

        value = init_value + (peak_value - init_value) min(step / warmup_steps, 1)

    From the end on the value is `peak_value` exactly, as Optax's is without `jax.jit`.

    Args:
      init_value: the value at step 0.
      peak_value: the value from `warmup_steps` on.
      warmup_steps: length of the warm-up, >= 1. Optax takes 0 too, and then keeps
        `init_value` for ever.

    Returns:
      A schedule; it equals every other one that is made with equal arguments.

    Raises:
      ValueError, TypeError: an argument is out of its range or of a wrong type.

    Example:
      >>> from optadamw import schedules
      >>> rate = schedules.warmup_constant_schedule(0.0, 1.0, 10)
      >>> [round(float(rate(step)), 4) for step in (0, 5, 10, 20)]
      [0.0, 0.5, 1.0, 1.0]
    """
    remedy = "Without a warm-up use constant_schedule(peak_value)."
    return WarmupConstant.of(
        "warmup_constant_schedule",
        init_value=number("init_value", init_value),
        peak_value=number("peak_value", peak_value),
        warmup_steps=step_count("warmup_steps", warmup_steps, remedy=remedy),
    )


def warmup_cosine_decay_schedule(
    init_value: Number,
    peak_value: Number,
    warmup_steps: int,
    decay_steps: int,
    end_value: Number = 0.0,
    exponent: Number = 1.0,
) -> OptaxSchedule:
    """A linear warm-up, then half a cosine, as `optax.warmup_cosine_decay_schedule`.

        value = init_value + (peak_value - init_value) step / warmup_steps
                                                     for step < warmup_steps, then
        value = end_value + (peak_value - end_value) ((1 + cos(pi u)) / 2)^exponent,
        u = (step - warmup_steps) / (decay_steps - warmup_steps), at most 1

    The numbers are Optax's, but for a `peak_value` of 0, where Optax stays for ever.

    Args:
      init_value: the value at step 0.
      peak_value: the value after the warm-up; an array must not be traced.
      warmup_steps: length of the warm-up, >= 0.
      decay_steps: length of the whole schedule, the warm-up included,
        > `warmup_steps`.
      end_value: the value from `decay_steps` on; 0 by default.
      exponent: the power to which the half cosine is raised; 1 by default.

    Returns:
      A schedule; it equals every other one that is made with equal arguments.

    Raises:
      ValueError, TypeError: an argument is out of its range or of a wrong type.

    Example:
      >>> from optadamw import schedules
      >>> rate = schedules.warmup_cosine_decay_schedule(0.0, 1.0, 10, 30, 0.1)
      >>> [round(float(rate(step)), 4) for step in (0, 5, 10, 20, 30)]
      [0.0, 0.5, 1.0, 0.55, 0.1]
    """
    warmup = step_count("warmup_steps", warmup_steps, least=0)
    decay = step_count("decay_steps", decay_steps)
    if decay <= warmup:
        raise invalid(
            "decay_steps",
            f"> warmup_steps, which is {warmup}",
            decay_steps,
            "It is the length of the whole schedule, the warm-up included.",
        )
    peak = number("peak_value", peak_value)
    if isinstance(peak, Dynamic) and peak.is_traced:
        raise mistyped(
            "peak_value",
            "known when the schedule is made, since Optax divides by it unless it is 0",
            peak_value,
            "Join linear_schedule and cosine_decay_schedule, which take a traced one.",
        )
    return WarmupCosine.of(
        "warmup_cosine_decay_schedule",
        init_value=number("init_value", init_value),
        peak_value=peak,
        warmup_steps=warmup,
        decay_steps=decay,
        end_value=number("end_value", end_value),
        exponent=number("exponent", exponent, NON_NEGATIVE),
    ).ending_at(decay)


def warmup_exponential_decay_schedule(
    init_value: Number,
    peak_value: Number,
    warmup_steps: int,
    transition_steps: int,
    decay_rate: float,
    transition_begin: int = 0,
    staircase: bool = False,
    end_value: Number | None = None,
) -> OptaxSchedule:
    """A linear warm-up, then `exponential_decay`, with the name that Optax gives it.

    After `warmup_steps` steps the value is that of
    `exponential_decay(peak_value, ...)`, whose steps are counted from there; each jump
    of a `staircase` comes at its step.

    Args:
      init_value: the value at step 0.
      peak_value: the value after the warm-up.
      warmup_steps: length of the warm-up, >= 0.
      transition_steps: the steps in which the value is multiplied by `decay_rate`
        once, >= 1.
      decay_rate: the factor, > 0.
      transition_begin: number of steps at `peak_value` first; 0 by default.
      staircase: True: the value falls in jumps, every `transition_steps` steps. By
        default it falls at every step.
      end_value: the value does not fall below it (with a `decay_rate` of 1 or more,
        does not rise above it). None, the default: no limit.

    Returns:
      A schedule; it equals every other one that is made with equal arguments.

    Raises:
      ValueError, TypeError: an argument is out of its range or of a wrong type.

    Example:
      >>> from optadamw import schedules
      >>> rate = schedules.warmup_exponential_decay_schedule(0.0, 1.0, 10, 5, 0.5)
      >>> [round(float(rate(step)), 4) for step in (0, 5, 10, 15, 20)]
      [0.0, 0.5, 1.0, 0.5, 0.25]
    """
    if not isinstance(staircase, bool):
        raise mistyped("staircase", "True or False", staircase)
    kind = WarmupStaircase if staircase else OptaxSchedule
    return kind.of(
        "warmup_exponential_decay_schedule",
        init_value=number("init_value", init_value),
        peak_value=number("peak_value", peak_value),
        warmup_steps=step_count("warmup_steps", warmup_steps, least=0),
        transition_steps=step_count("transition_steps", transition_steps),
        decay_rate=plain_number("decay_rate", decay_rate, POSITIVE),
        transition_begin=step_count("transition_begin", transition_begin, least=0),
        staircase=staircase,
        end_value=None if end_value is None else number("end_value", end_value),
    )
