"""A learning rate, times a number: also of a schedule or an adjustable number."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from optadamw.base.adjustable import Adjustable
from optadamw.base.equality import hash_of, same
from optadamw.base.horizon import horizon_of
from optadamw.base.types import ScalarOrSchedule


@dataclass(frozen=True, eq=False)
class Scaled:
    """A schedule whose values are multiplied by a number; equal by value."""

    schedule: Callable[[Any], Any]
    factor: float

    def __call__(self, step: Any) -> Any:
        """The value after `step` finished optimizer steps."""
        return self.schedule(step) * self.factor

    @property
    def horizon(self) -> int | None:
        """The step at which the schedule ends; None without an end."""
        return horizon_of(self.schedule)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Scaled):
            return NotImplemented
        return self.factor == other.factor and same(self.schedule, other.schedule)

    def __hash__(self) -> int:
        return hash((self.factor, hash_of(self.schedule)))


def scaled(value: ScalarOrSchedule, factor: float) -> ScalarOrSchedule:
    """Return a hyperparameter that is `factor` times another in every step."""
    if isinstance(value, Adjustable) or not callable(value):
        # A float of Python, so that no dtype of NumPy widens an array.
        return value * float(factor)
    return Scaled(value, float(factor)) if factor != 1 else value
