"""The form of a hyperparameter that the state holds: an adjustable number."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np

from optadamw.base.adjustable import times
from optadamw.base.clock import Clock
from optadamw.base.errors import invalid
from optadamw.base.horizon import horizon_of
from optadamw.base.interval import Interval


class Timed(Protocol):
    """A schedule of numbers."""

    def at(self, clock: Clock) -> Any:
        """Return the value in a step."""
        ...


@dataclass(frozen=True)
class Held:
    """A number in `state.hyperparameters`, times a number and a schedule."""

    name: str
    value: float
    """The first value."""
    legal: Interval
    """The range of the number times the factor."""
    factor: float = 1.0
    schedule: Timed | None = None

    def at(self, clock: Clock) -> Any:
        value = jnp.asarray((clock.held or {}).get(self.name, self.value), clock.dtype)
        value = value if self.factor == 1 else value * self.factor
        return value if self.schedule is None else value * self.schedule.at(clock)

    @property
    def horizon(self) -> int | None:
        """The step at which the schedule ends; None without an end."""
        return horizon_of(self.schedule)

    def check(self, value: float) -> None:
        """Refuse a value that, times the factor, is out of range."""
        # As the state holds it: 1e39 would be infinity, and 1e-60 zero.
        with np.errstate(over="ignore", under="ignore"):
            held = float(np.float32(value)) * self.factor
        if value * self.factor in self.legal and held in self.legal:
            return
        shown = "" if self.factor == 1 else f", times {self.factor!r}"
        raise invalid(self.name, f"{self.legal} in float32{shown}", value)

    def __repr__(self) -> str:
        by = times(self.factor, self.schedule)
        return f"adjustable({self.value!r}, name={self.name!r}){by}"


def first_values(numbers: Iterable[Held]) -> dict[str, np.ndarray]:
    """Return the first value of each adjustable number, as the state holds it.

    Raises:
      ValueError: two numbers have one name and other first values.
    """
    found: dict[str, float] = {}
    for number in numbers:
        other = found.setdefault(number.name, number.value)
        if other != number.value:
            raise ValueError(
                f"Two adjustable numbers are called `{number.name}`, and their first "
                f"values are {other!r} and {number.value!r}. Give one of them a name "
                f"of its own: adjustable({number.value!r}, name='another')."
            )
    return {name: np.asarray(found[name], np.float32) for name in sorted(found)}


def checked_names(values: Mapping[str, Any], known: Iterable[str]) -> None:
    """Refuse names of numbers that the state does not hold."""
    names = list(known)
    for name in values:
        if name not in names:
            listed = ", ".join(f"`{n}`" for n in names) or "none"
            meant = get_close_matches(name, names, 1)
            remedy = (
                f"Did you mean `{meant[0]}`?"
                if meant
                else "Ask for it when you make the transformation: "
                f"{name}=optadamw.adjustable(...)."
            )
            raise ValueError(
                f"`{name}` is no adjustable hyperparameter of this transformation; "
                f"those are: {listed}. {remedy}"
            )
