"""The form of a hyperparameter that the state holds: an adjustable number."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np

from optadamw.base.clock import Clock
from optadamw.base.errors import invalid
from optadamw.base.interval import Interval


class Timed(Protocol):
    """A number, or a schedule of numbers."""

    def at(self, clock: Clock) -> Any:
        """Return the value in a step."""
        ...


@dataclass(frozen=True)
class Held:
    """A number in `state.hyperparameters`, times a number or a schedule."""

    name: str
    value: float
    """The first value."""
    legal: Interval
    """The range of the product."""
    factor: Timed | None = None

    def at(self, clock: Clock) -> Any:
        value = jnp.asarray((clock.held or {}).get(self.name, self.value), clock.dtype)
        return value if self.factor is None else value * self.factor.at(clock)

    def check(self, value: float, constant: float | None) -> None:
        """Refuse a value that is out of range here, times a factor if it is known."""
        product = value if constant is None else value * constant
        # As the state holds it: 1e39 would be infinity, and 1e-60 zero.
        with np.errstate(over="ignore", under="ignore"):
            held = float(np.float32(product))
        if product in self.legal and held in self.legal:
            return
        shown = "" if constant in (None, 1.0) else f", to be multiplied by {constant!r}"
        raise invalid(self.name, f"{self.legal} in float32{shown}", value)

    def __repr__(self) -> str:
        by = "" if self.factor is None else f" * {self.factor!r}"
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
            raise ValueError(
                f"`{name}` is no adjustable hyperparameter of this transformation; "
                f"those are: {listed}. Ask for it when you make the transformation: "
                f"{name}=optadamw.adjustable(...)."
            )
