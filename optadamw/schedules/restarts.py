"""The warm restarts of AdamWR (appendix B.2 of the paper), with periods that grow."""

import itertools
import math
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp

from optadamw.base.errors import invalid, mistyped
from optadamw.base.types import Array
from optadamw.schedules.value import call_text

_MOST = 4096
"""Periods that are told apart; a factor of 1.001 from 10 steps on has 2,200."""


@dataclass(frozen=True, repr=False)
class CosineWarmRestarts:
    """A multiplier that falls along half a cosine and starts again, ever longer."""

    steps: int
    factor: float = 1.0
    low: float = 0.0
    high: float = 1.0
    ahead: bool = False
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
        """The length of the period that `step` is in, in steps."""
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
    r"""The schedule multiplier of AdamWR and SGDR.

        eta_t = low + (high - low) (1 + cos(pi T_cur / T_i)) / 2

    where T_cur counts the steps since the last restart, and the period T_i is `steps`
    at first and `factor` times as long after each. The moments are not reset. Use it
    as `paper.adamw(eta=...)`, or times a rate as any schedule.

    Source: arXiv 1711.05101v3, appendix B.2; arXiv 1608.03983.

    Args:
      steps: of the first period, whole, >= 1.
      factor: >= 1; periods are rounded to whole steps.
      low: the multiplier at the end of a period.
      high: at its start.
      ahead: count a batch before using it, as the authors' code does in the first
        period, whose first multiplier is then below `high` and whose last is `low`.

    Returns:
      A schedule with a method `period(step)`.

    Raises:
      ValueError, TypeError: a value out of its range.

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
