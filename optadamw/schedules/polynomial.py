"""From one value to another along a line or a power of the remaining time."""

from typing import Any

import jax
import jax.numpy as jnp

from optadamw.base.interval import NON_NEGATIVE
from optadamw.base.types import Number
from optadamw.schedules.arguments import number, step_count
from optadamw.schedules.value import OptaxSchedule

_NO_STEPS = "For a value that never changes use constant_schedule."


class Polynomial(OptaxSchedule):
    """A polynomial of Optax that ends exactly where it says.

    When a step is compiled, XLA multiplies by a rounded 1 / transition_steps. At the
    end of 120 of the first 199 lengths Optax's `1 - step / transition_steps` is then
    not 0 but -5e-8: a rate below zero, and NaN for a power such as 0.5.
    """

    def __call__(self, step: Any) -> Any:
        """The value after `step` finished optimizer steps."""
        value, given = super().__call__(step), self.given
        end = given["transition_begin"] + given["transition_steps"]
        with jax.numpy_dtype_promotion("standard"):
            return jnp.where(step < end, value, given["end_value"])


def polynomial_schedule(
    init_value: Number,
    end_value: Number,
    power: Number,
    transition_steps: int,
    transition_begin: int = 0,
) -> OptaxSchedule:
    """A power of the remaining time, as `optax.polynomial_schedule`.

        value = (init_value - end_value) (1 - u)^power + end_value,
        u = (step - transition_begin) / transition_steps, kept within [0, 1]

    From the end on the value is `end_value` exactly, as Optax's is without `jax.jit`.

    Args:
      init_value: the value at step 0.
      end_value: the value after `transition_begin + transition_steps` steps.
      power: 1 is a line; a larger power falls faster at first; 0 is a step at the end,
        where Optax keeps `init_value` for ever.
      transition_steps: length of the transition, >= 1. Optax takes 0 too, and then
        keeps `init_value` for ever.
      transition_begin: number of steps at `init_value` before it; 0 by default.

    Returns:
      A schedule; it equals every other one that is made with equal arguments.

    Raises:
      ValueError, TypeError: an argument is out of its range or of a wrong type.

    Example:
      >>> from optadamw import schedules
      >>> rate = schedules.polynomial_schedule(1.0, 0.0, 2, 10)
      >>> [round(float(rate(step)), 4) for step in (0, 5, 10, 20)]
      [1.0, 0.25, 0.0, 0.0]
    """
    steps = step_count("transition_steps", transition_steps, remedy=_NO_STEPS)
    begin = step_count("transition_begin", transition_begin, least=0)
    end = step_count("transition_begin + transition_steps", begin + steps)
    return Polynomial.of(
        "polynomial_schedule",
        init_value=number("init_value", init_value),
        end_value=number("end_value", end_value),
        power=number("power", power, NON_NEGATIVE),
        transition_steps=steps,
        transition_begin=begin,
    ).ending_at(end)


def linear_schedule(
    init_value: Number,
    end_value: Number,
    transition_steps: int,
    transition_begin: int = 0,
) -> OptaxSchedule:
    """A line from one value to another, as `optax.linear_schedule`.

        value = init_value + (end_value - init_value) u,
        u = (step - transition_begin) / transition_steps, kept within [0, 1]

    From the end on the value is `end_value` exactly, as Optax's is without `jax.jit`.

    Args:
      init_value: the value at step 0.
      end_value: the value after `transition_begin + transition_steps` steps.
      transition_steps: length of the line, >= 1. Optax takes 0 too, and then keeps
        `init_value` for ever.
      transition_begin: number of steps at `init_value` before it; 0 by default.

    Returns:
      A schedule; it equals every other one that is made with equal arguments.

    Raises:
      ValueError, TypeError: an argument is out of its range or of a wrong type.

    Example:
      >>> from optadamw import schedules
      >>> rate = schedules.linear_schedule(1.0, 0.0, 10)
      >>> rate
      linear_schedule(1.0, 0.0, 10)
      >>> [round(float(rate(step)), 4) for step in (0, 5, 10, 20)]
      [1.0, 0.5, 0.0, 0.0]
    """
    steps = step_count("transition_steps", transition_steps, remedy=_NO_STEPS)
    begin = step_count("transition_begin", transition_begin, least=0)
    end = step_count("transition_begin + transition_steps", begin + steps)
    return Polynomial.of(
        "linear_schedule",
        init_value=number("init_value", init_value),
        end_value=number("end_value", end_value),
        transition_steps=steps,
        transition_begin=begin,
    ).ending_at(end)
