"""The warm restarts of AdamWR (appendix B.2 of the paper), with periods that grow."""

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp

from optadamw.base.errors import invalid
from optadamw.base.hyperparameters import hyperparameter, switch
from optadamw.base.interval import NON_NEGATIVE
from optadamw.base.plain import python_number
from optadamw.base.types import Array
from optadamw.schedules.arguments import step_count
from optadamw.schedules.value import call_text

_END = 2**31
"""The number of steps that an int32 counts."""


class _Run(NamedTuple):
    """Periods of one length, one after another."""

    start: int
    length: int


def _runs(steps: int, factor: float) -> list[_Run]:
    """Return the periods before `_END`, the i-th of round(steps * factor**i) steps.

    A factor near 1 repeats a length many times: 10 steps times 1.0001 make 99,752
    periods. Lengths are whole numbers, because restarts that are found by logarithms
    would come a step early or late.
    """
    runs, start, i = [], 0, 0
    while start < _END:
        length = _length(steps, factor, i)
        runs.append(_Run(start, length))
        if length >= _END:
            break  # it is the last, and `_length` knows no longer one
        following = _first_longer(steps, factor, i, length)
        start, i = start + (following - i) * length, following
    return runs


def _length(steps: int, factor: float, i: int) -> int:
    if i and math.log(steps) + i * math.log(factor) > 2 * math.log(_END):
        return _END**2  # no step is in it, and its power may overflow
    return round(steps * factor**i)


def _first_longer(steps: int, factor: float, i: int, length: int) -> int:
    """Return the number of the first period after the i-th that is longer."""
    near = math.log((length + 0.5) / steps) / math.log(factor)
    found = max(i + 1, int(near))
    while found > i + 1 and _length(steps, factor, found - 1) > length:
        found -= 1
    while _length(steps, factor, found) <= length:
        found += 1
    return found


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
    _runs: tuple[_Run, ...] = field(init=False, repr=False, compare=False, default=())

    def __post_init__(self) -> None:
        runs = _runs(self.steps, self.factor) if self.factor > 1 else []
        object.__setattr__(self, "_runs", tuple(runs))

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
        starts = jnp.asarray([run.start for run in self._runs], step.dtype)
        number = jnp.searchsorted(starts, step, side="right") - 1
        since = step - starts[number]
        lengths = [min(run.length, _END - 1) for run in self._runs]
        whole = jnp.asarray(lengths, step.dtype)[number]
        return since % whole, jnp.asarray(
            [run.length for run in self._runs], jnp.float32
        )[number]


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
    steps = step_count("steps", steps)
    for name, value, legal in (
        ("factor", factor, lambda x: math.isfinite(x) and x >= 1),
        ("low", low, lambda x: math.isfinite(x) and x >= 0),
        ("high", high, lambda x: math.isfinite(x) and x >= low),
    ):
        if not legal(python_number(name, value)):
            rule = {"factor": ">= 1", "low": ">= 0", "high": ">= low"}[name]
            raise invalid(name, f"finite and {rule}", value)
        if name != "factor":
            hyperparameter(name, float(value), NON_NEGATIVE)  # also within float32
    ahead = switch("ahead", ahead)
    return CosineWarmRestarts(steps, float(factor), float(low), float(high), ahead)
