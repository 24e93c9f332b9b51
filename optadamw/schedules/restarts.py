"""The warm restarts of AdamWR (appendix B.2 of the paper), with periods that grow."""

import itertools
import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax.numpy as jnp

from optadamw.base.errors import invalid, mistyped
from optadamw.base.types import Array
from optadamw.schedules.value import call_text

_MOST = 4096
"""Periods that are told apart; a factor of 1.001 from 10 steps on has 2,200."""


@dataclass(frozen=True, repr=False)
class CosineWarmRestarts:
    """The schedule that `cosine_warm_restarts` returns."""

    steps: int
    factor: float = 1.0
    low: float = 0.0
    high: float = 1.0
    ahead: bool = False
    horizon: ClassVar[None] = None
    """It has no end."""
    _lengths: tuple[int, ...] = field(init=False, repr=False, compare=False, default=())

    def __post_init__(self) -> None:
        # Periods as whole numbers: found by logarithms a restart would come a step
        # early or late.
        lengths, total = [self.steps], self.steps
        while self.factor > 1 and total < 2**31 and len(lengths) < _MOST:
            lengths.append(round(self.steps * self.factor ** len(lengths)))
            total += lengths[-1]
        object.__setattr__(self, "_lengths", tuple(lengths))

    def __call__(self, step: Any) -> Array:
        """The multiplier after `step` finished steps."""
        step = jnp.asarray(step)
        position, length = self._position(step)
        if self.ahead:
            # At a restart the authors set T_cur to 0 after they counted the batch.
            position = position + (step < self.steps).astype(position.dtype)
        fraction = position.astype(length.dtype) / length
        cosine = 0.5 * (1 + jnp.cos(jnp.pi * fraction))
        return self.low + (self.high - self.low) * cosine

    def period(self, step: Any) -> Array:
        """Return the number of steps in the period to which `step` belongs."""
        return self._position(jnp.asarray(step))[1]

    def __repr__(self) -> str:
        return call_text("cosine_warm_restarts", cosine_warm_restarts, vars(self))

    def _position(self, step: Array) -> tuple[Array, Array]:
        if self.factor == 1:
            return step % self.steps, jnp.asarray(float(self.steps))
        begun = [0, *itertools.accumulate(self._lengths[:-1])]
        starts = jnp.asarray([start for start in begun if start < 2**31], step.dtype)
        number = jnp.searchsorted(starts, step, side="right") - 1
        length = jnp.asarray(self._lengths, jnp.float32)[number]
        return step - starts[number], length


def cosine_warm_restarts(
    steps: int,
    *,
    factor: float = 1.0,
    low: float = 0.0,
    high: float = 1.0,
    ahead: bool = False,
) -> CosineWarmRestarts:
    r"""Make a cosine schedule with warm restarts, the multiplier of SGDR and AdamWR.

        eta_t = low + (high - low) (1 + cos(pi T_cur / T_i)) / 2

    T_cur counts the steps since the last restart. The first period has T_i = `steps`,
    and each period is `factor` times as long as the one before. A restart sets the
    multiplier back to `high` and leaves the moments as they are. Pass the schedule as
    `paper.adamw(eta=...)`, or multiply a learning rate by it.

    Source: arXiv 1711.05101v3, appendix B.2; arXiv 1608.03983.

    Args:
      steps: length of the first period, a whole number >= 1.
      factor: length of a period over the length of the period before, >= 1; lengths
        are rounded to whole steps. Default: 1, all periods have the same length.
      low: the multiplier at the end of a period, >= 0. Default: 0.
      high: the multiplier at the start of a period, >= `low`. Default: 1.
      ahead: True makes T_cur larger by 1 in the first period, as the authors' code
        does: its first multiplier is below `high`, and its last one is `low`. Default:
        False, T_cur is 0 at the first step of every period.

    Returns:
      A schedule: called with a step, it returns the multiplier. Its method
      `period(step)` returns the length of the period to which the step belongs.

    Raises:
      ValueError, TypeError: an argument is out of its range or of a wrong type.

    Example:
      >>> import optadamw
      >>> eta = optadamw.cosine_warm_restarts(10, factor=2)
      >>> [round(float(eta(step)), 3) for step in (0, 5, 10, 20, 30)]
      [1.0, 0.5, 1.0, 0.5, 1.0]
    """
    if isinstance(steps, bool) or not isinstance(steps, int):
        raise mistyped("steps", "a whole number of steps >= 1", steps)
    if not 1 <= steps < 2**31:
        raise invalid("steps", "a whole number of steps >= 1", steps)
    for name, value, legal in (
        ("factor", factor, lambda x: math.isfinite(x) and x >= 1),
        ("low", low, lambda x: math.isfinite(x) and x >= 0),
        ("high", high, lambda x: math.isfinite(x) and x >= low),
    ):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise mistyped(name, "a number", value)
        if not legal(value):
            rule = {"factor": ">= 1", "low": ">= 0", "high": ">= low"}[name]
            raise invalid(name, f"finite and {rule}", value)
    if not isinstance(ahead, bool):
        raise mistyped("ahead", "True or False", ahead)
    return CosineWarmRestarts(steps, float(factor), float(low), float(high), ahead)
