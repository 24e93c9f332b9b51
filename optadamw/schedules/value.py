"""A schedule of Optax as a value: the name of its factory, and the arguments.

`optax.cosine_decay_schedule(0.1, 100)` returns a closure. Two of them are never equal,
so a transformation that is built again is traced again, and none of them pickles. Here
the call itself is kept, and Optax's own function computes the number.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import jax
import optax

from optadamw.base.hyperparameters import Dynamic


@dataclass(frozen=True)
class Table:
    """A mapping that hashes, in a fixed order."""

    rows: tuple[tuple[Any, Any], ...]


@dataclass(frozen=True, eq=False, repr=False)
class OptaxSchedule:
    """A schedule that Optax computes, equal to every other of the same call.

    Calling it with a step count gives the number that the schedule of Optax gives, also
    under strict dtype promotion, which several schedules of Optax do not pass.
    """

    name: str
    """The factory in `optax.schedules`."""
    arguments: Table
    """The arguments of the call, by their names."""
    horizon: int | None = None
    """The step from which on the value stays the same because the schedule has ended;
    None (default): the schedule has no end. It follows from the call."""

    @classmethod
    def of(cls, name: str, **arguments: Any) -> Self:
        """The schedule that `optax.schedules.<name>(**arguments)` makes."""
        return cls(name, Table(tuple(arguments.items())))

    def ending_at(self, horizon: int | None) -> Self:
        """Return an equal schedule that knows the step at which it ends."""
        return replace(self, horizon=horizon)

    def __call__(self, step: Any) -> Any:
        """The value after `step` finished optimizer steps."""
        schedule = getattr(optax.schedules, self.name)(**self.given)
        # Optax multiplies integers and booleans with floats.
        with jax.numpy_dtype_promotion("standard"):
            return schedule(step)

    @property
    def given(self) -> dict[str, Any]:
        """The arguments as Optax takes them."""
        return {name: _given(value) for name, value in self.arguments.rows}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, OptaxSchedule):
            return NotImplemented
        return self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        factory = getattr(optax.schedules, self.name)
        return call_text(self.name, factory, self.given)

    def _key(self) -> tuple[Any, ...]:
        return self.name, _exact(self.arguments)


def call_text(
    name: str, factory: Callable[..., Any], arguments: Mapping[str, Any]
) -> str:
    """The call of `factory`, under `name`, as one would type it."""
    shown = []
    for parameter in inspect.signature(factory).parameters.values():
        text = repr(arguments[parameter.name])
        has_default = parameter.default is not parameter.empty
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD and not has_default:
            shown.append(text)
        elif not has_default or text != repr(parameter.default):
            shown.append(f"{parameter.name}={text}")
    return f"{name}({', '.join(shown)})"


def _given(kept: Any) -> Any:
    """An argument as Optax takes it."""
    if isinstance(kept, Table):
        return {key: _given(value) for key, value in kept.rows}
    if isinstance(kept, tuple) and not callable(kept):
        return [_given(value) for value in kept]
    return kept.value if isinstance(kept, Dynamic) else kept


def _exact(kept: Any) -> Any:
    """An argument as it is compared: `x**2` and `x**2.0` differ in the last bit."""
    if isinstance(kept, Table):
        return tuple((key, _exact(value)) for key, value in kept.rows)
    if isinstance(kept, tuple) and not callable(kept):
        return tuple(_exact(value) for value in kept)
    return (type(kept), kept) if isinstance(kept, int | float) else kept
