"""Refuse options of `adamw` that would have no effect."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from optadamw.base.errors import reworded, shown
from optadamw.transforms.build import Values, is_asked, pairs_of
from optadamw.transforms.options import ATOMS, SEVERAL, WRAPPERS, Option, Part


def refuse_unused(given: Values, values: Values) -> None:
    """Refuse an option that the user gave for a part that nothing asks for.

    Args:
      given: the options as the user gave them.
      values: the options with those that `precision` and the guard add.

    Raises:
      ValueError: the option would have no effect.
    """
    _refuse_idle(given, values)
    for part in (*ATOMS, *WRAPPERS):
        _refuse_unneeded(part, given)
    for where, own in pairs_of(given["groups"] or ()):
        with reworded(partial(_in_group, where)):
            _refuse_idle(own, {**values, **own})


def _in_group(where: Any, message: str) -> str:
    return f"`groups[{where!r}]`: {message}"


def _refuse_idle(given: Values, values: Values) -> None:
    """Refuse an option among `given` whose part nothing in `values` asks for."""
    parts = (*ATOMS, *WRAPPERS)
    taken = {
        option.name
        for part in parts
        if is_asked(part, values)
        for option in part.options
    }
    for part in parts:
        for option in part.options:
            value = given.get(option.name)
            is_given = value is not None and value is not False and not option.asks
            if is_given and option.name not in taken:
                raise _unused(option.name, value, _askers(option.name))


def _refuse_unneeded(part: Part, given: Values) -> None:
    """Refuse an option whose `needs` is missing, also in a mapping of arguments."""
    needing = {option.argument: option for option in part.options if option.needs}
    for option in part.options:
        value = given[option.name]
        arguments: Values = {option.argument: value}
        if option.argument == SEVERAL:
            arguments = value if isinstance(value, Mapping) else {}
        for argument in needing.keys() & arguments.keys():
            needed = _option(needing[argument].needs)
            if arguments[argument] is not None and given[needed.name] is None:
                raise _unused(needing[argument].name, arguments[argument], [needed])


def _option(name: str) -> Option:
    options = [option for part in (*ATOMS, *WRAPPERS) for option in part.options]
    return next(option for option in options if option.name == name)


def _askers(name: str) -> list[Option]:
    """Return the options that ask for the parts that take the option `name`."""
    return [
        part.asked_by
        for part in (*ATOMS, *WRAPPERS)
        if part.asked_by and any(option.name == name for option in part.options)
    ]


def _unused(name: str, value: Any, askers: Sequence[Option]) -> ValueError:
    missing = " or ".join(f"`{asker.name}`" for asker in askers)
    remedies = " or ".join(asker.remedy for asker in askers)
    return ValueError(
        f"`{name}` has no effect without {missing}; got {name}={shown(value)}. "
        f"Give {remedies}, or leave it out."
    )
