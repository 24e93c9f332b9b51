"""The schedule of the decay of AdEMAMix's slow moment."""

import math
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from optadamw.base.errors import invalid
from optadamw.base.interval import BETA
from optadamw.base.types import Array
from optadamw.schedules.arguments import plain_number, step_count
from optadamw.schedules.value import call_text


@dataclass(frozen=True, repr=False)
class SlowMomentSchedule:
    """The schedule that `slow_moment_schedule(b1, b3, steps)` returns."""

    b1: float
    b3: float
    steps: int

    def __call__(self, step: Any) -> Array:
        first, last = math.log(self.b1), math.log(self.b3)
        step = jnp.minimum(jnp.asarray(step), self.steps - 1)  # + 1 fits in int32
        done = jnp.minimum((step + 1) / self.steps, 1.0)
        decay = jnp.exp(first * last / ((1.0 - done) * last + done * first))
        return jnp.where(done < 1.0, jnp.minimum(decay, self.b3), self.b3)

    @property
    def horizon(self) -> int:
        """The step from which on the value is `b3`."""
        return self.steps - 1

    def __repr__(self) -> str:
        return call_text("slow_moment_schedule", slow_moment_schedule, vars(self))


def slow_moment_schedule(b1: float, b3: float, steps: int) -> SlowMomentSchedule:
    r"""Raise the decay of a mean so that its half-life grows linearly (AdEMAMix).

    With u = min((step + 1) / steps, 1):

        value = exp(ln(b1) ln(b3) / ((1 - u) ln(b3) + u ln(b1)))

    For the `b3` of `add_slow_moment`; `alpha` then rises by
    `linear_schedule(alpha / steps, alpha, steps - 1)`.

    Source: Pagliardini, Ablin & Grangier, arXiv 2409.03137v2, equation f_b3 and
    appendix A.1; bitsandbytes' `t_beta3`.

    Args:
      b1: the decay at the beginning, above 0 and below 1.
      b3: the decay at the end, at least `b1` and below 1.
      steps: number of steps until the end, a whole number >= 1.

    Returns:
      A schedule; it equals every other one that is made with equal arguments.

    Raises:
      ValueError, TypeError: an argument is out of its range or of a wrong type.

    Example:
      >>> from optadamw import schedules
      >>> b3 = schedules.slow_moment_schedule(0.9, 0.999, 100)
      >>> [round(float(b3(step)), 4) for step in (0, 49, 99, 500)]
      [0.9497, 0.998, 0.999, 0.999]
    """
    first = float(plain_number("b1", b1, BETA))
    last = float(plain_number("b3", b3, BETA))
    if first == 0:
        raise invalid("b1", "above 0, as its logarithm is taken", b1)
    if last < first:
        raise invalid("b3", f"at least b1, which is {first}", b3)
    if np.float32(last) == 1:
        raise invalid("b3", "below 1 in float32, in which it is used", b3)
    return SlowMomentSchedule(first, last, step_count("steps", steps))
