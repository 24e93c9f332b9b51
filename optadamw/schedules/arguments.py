"""Checks of the arguments of schedules."""

from collections.abc import Mapping
from typing import Any

import jax

from optadamw.base.errors import invalid, mistyped
from optadamw.base.hyperparameters import Constant, Dynamic, hyperparameter
from optadamw.base.interval import NON_NEGATIVE, Interval
from optadamw.base.plain import python_number
from optadamw.schedules.value import Table

FINITE = Interval()


def number(name: str, value: Any, legal: Interval = FINITE) -> int | float | Dynamic:
    """Check a number or a 0-d array; an array comes back wrapped, equal by value."""
    if isinstance(value, jax.Array):
        made = hyperparameter(name, value, legal)
        assert isinstance(made, Dynamic)
        return made
    return plain_number(name, value, legal, "a number or a 0-d array")


def plain_number(
    name: str, value: Any, legal: Interval = FINITE, forms: str = "a number"
) -> int | float:
    """Check a number that must be known when the schedule is made."""
    value = python_number(name, value, forms)
    made = hyperparameter(name, value, legal)
    assert isinstance(made, Constant)
    # The number as it was given: Optax computes x**2 and x**2.0 in two ways.
    return value


def step_count(name: str, value: Any, least: int = 1, remedy: str = "") -> int:
    """Check a whole number of steps, which 1e4 is too."""
    rule = f"a whole number of steps >= {least}"
    value = python_number(name, value, rule, remedy)
    if value != value or value < least or value % 1:
        raise invalid(name, rule, value, remedy)
    if value >= 2**31:
        raise invalid(name, "below 2**31, since steps are counted in int32", value)
    return int(value)


def scales(name: str, value: Any) -> Table | None:
    """Check a mapping of step counts to factors, or None for an empty one."""
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise mistyped(name, "a mapping of steps to factors, or None", value)
    rows = (
        (
            step_count(f"{name}: a boundary", step, least=0),
            plain_number(f"{name}[{step!r}]", scale, NON_NEGATIVE),
        )
        for step, scale in value.items()
    )
    return Table(tuple(sorted(rows)))
