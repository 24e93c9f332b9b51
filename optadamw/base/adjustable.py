"""Ask for a number that can be changed while a training runs, without a compilation."""

import keyword
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from optadamw.base.errors import invalid, mistyped
from optadamw.base.plain import python_number


@dataclass(frozen=True)
class Adjustable:
    """A number that the state holds; `adjustable` makes it."""

    value: Any
    name: str | None = None
    """The name of the number in the state; None: that of the option it is given for."""
    factor: float = 1.0
    """A number by which it is multiplied; default: 1."""
    schedule: Callable[[Any], Any] | None = None
    """A schedule by which it is multiplied too; None (default): 1."""

    def named(self, name: str) -> "Adjustable":
        """Return this number with a name, if it has none."""
        return replace(self, name=name) if self.name is None else self

    def __mul__(self, factor: float | Callable[[Any], Any]) -> "Adjustable":
        if callable(factor):
            if self.schedule is not None:
                raise invalid("factor", "a number; there is a schedule already", factor)
            return replace(self, schedule=factor)
        factor = python_number("factor", factor, "a number or a schedule")
        return replace(self, factor=self.factor * factor)

    __rmul__ = __mul__

    def __repr__(self) -> str:
        name = "" if self.name is None else f", name={self.name!r}"
        return f"adjustable({self.value!r}{name}){times(self.factor, self.schedule)}"


def times(factor: float, schedule: Any) -> str:
    """Return the text of the factors of an adjustable number."""
    shown = [factor] if factor != 1 else []
    shown += [] if schedule is None else [schedule]
    return "".join(f" * {part!r}" for part in shown)


def adjustable(value: float, name: str | None = None) -> Adjustable:
    """Ask that a hyperparameter can be changed while a training runs.

    The number lives in the state, as a float32 scalar in the dict
    `state.hyperparameters`, and not in the compiled step: one compiled program serves
    every value. It goes where a hyperparameter goes, such as
    `adamw(adjustable(1e-3), weight_decay=adjustable(0.1))`.
    `tx.hyperparameters(state)` reads the numbers by name, and
    `tx.with_hyperparameters(state, learning_rate=1e-4)` returns a state with another
    one. Checkpoints save the numbers and restore them by name: the saved number counts,
    and not the one that was given here, which is the first value.

    A product with a number, a schedule or both follows the number:
    `adjustable(1.0, name="peak") * schedule` scales a whole schedule, and groups may
    have `rate * 0.1` and `rate * 1.0` of one `rate`.

    Differs from `optax.inject_hyperparams`: only the numbers that are asked for are in
    the state, always in float32 whatever the parameters' dtype, each checked against
    its range when it is set. A float32 holds 0.999 to within 1.3e-8, and therefore
    1 - b2 to 1.3e-5 of its size.

    Args:
      value: the first value, a number.
      name: the name in the state, a Python identifier. None (default): the name of the
        option, such as "learning_rate" (in a chain of atoms, that of the argument). Two
        numbers of one name are one number, and must have the same first value; give
        that of a group another name: `adjustable(1e-4, name="head_rate")`.

    Returns:
      A record to be passed as a hyperparameter.

    Raises:
      TypeError: `value` is no number; a traced value belongs into the state, by
        `tx.with_hyperparameters`.
      ValueError: `name` is no identifier. The range is checked by the function that
        gets the record.

    Example:
      >>> import jax.numpy as jnp, optadamw
      >>> tx = optadamw.adamw(optadamw.adjustable(1e-3))
      >>> state = tx.init(jnp.ones(2))
      >>> state = tx.with_hyperparameters(state, learning_rate=1e-4)
      >>> float(tx.hyperparameters(state)["learning_rate"])
      9.999999747378752e-05
    """
    if name is not None and not isinstance(name, str):
        raise mistyped("name", "a Python identifier, or None", name)
    if name is not None and (not name.isidentifier() or keyword.iskeyword(name)):
        raise invalid("name", "a Python identifier", name)
    return Adjustable(value, name)
