"""Exponential decay."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from optadamw.base.errors import mistyped
from optadamw.base.interval import POSITIVE
from optadamw.base.types import Number
from optadamw.schedules.arguments import number, plain_number, step_count
from optadamw.schedules.value import OptaxSchedule


class Staircase(OptaxSchedule):
    """An exponential decay of Optax whose jumps come at their steps.

    When a step is compiled, XLA multiplies by a rounded 1 / transition_steps. For 23 of
    the first 199 lengths Optax's `floor(step / transition_steps)` is then 0 at the
    first jump, and the value falls one step late. A division of whole numbers is exact.
    """

    def __call__(self, step: Any) -> Any:
        """The value after `step` finished optimizer steps."""
        given = self.given
        length, begin = given["transition_steps"], given["transition_begin"]
        jumps = optax.schedules.exponential_decay(
            given["init_value"], 1, given["decay_rate"], end_value=given["end_value"]
        )
        with jax.numpy_dtype_promotion("standard"):
            return jumps((jnp.asarray(step) - begin) // length)


def exponential_decay(
    init_value: Number,
    transition_steps: int,
    decay_rate: float,
    transition_begin: int = 0,
    staircase: bool = False,
    end_value: Number | None = None,
) -> OptaxSchedule:
    """A factor for every so many steps, as `optax.exponential_decay`.

        value = init_value decay_rate^u,
        u = (step - transition_begin) / transition_steps, 0 before `transition_begin`

    With `staircase` each jump comes at its step, as Optax's does without `jax.jit`.

    Args:
      init_value: the value at step 0.
      transition_steps: the steps in which the value is multiplied by `decay_rate`
        once, >= 1.
      decay_rate: the factor, > 0.
      transition_begin: number of steps at `init_value` first; 0 by default.
      staircase: True: round `u` down, so that the value falls in jumps. By default it
        falls at every step.
      end_value: the value does not fall below it (with a `decay_rate` of 1 or more,
        does not rise above it). None, the default: no limit.

    Returns:
      A schedule; it equals every other one that is made with equal arguments.

    Raises:
      ValueError, TypeError: an argument is out of its range or of a wrong type.

    Example:
      >>> from optadamw import schedules
      >>> rate = schedules.exponential_decay(1.0, 10, 0.5, end_value=0.2)
      >>> [round(float(rate(step)), 4) for step in (0, 10, 20, 30)]
      [1.0, 0.5, 0.25, 0.2]
    """
    if not isinstance(staircase, bool):
        raise mistyped("staircase", "True or False", staircase)
    kind = Staircase if staircase else OptaxSchedule
    return kind.of(
        "exponential_decay",
        init_value=number("init_value", init_value),
        transition_steps=step_count("transition_steps", transition_steps),
        decay_rate=plain_number("decay_rate", decay_rate, POSITIVE),
        transition_begin=step_count("transition_begin", transition_begin, least=0),
        staircase=staircase,
        end_value=None if end_value is None else number("end_value", end_value),
    )
