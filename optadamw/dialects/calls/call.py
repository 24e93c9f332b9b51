"""What a door says of itself: the one source of its page, its help and its tests."""

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar

import optax

from optadamw.transforms.call import prints_as_call

_P = ParamSpec("_P")
_R = TypeVar("_R")
_T = TypeVar("_T", bound=optax.GradientTransformationExtraArgs)


@dataclass(frozen=True, eq=False)
class Door:
    """A peer, and how it is spoken here."""

    module: str
    """The module of `optadamw.dialects`."""
    peer: str
    """How people call the peer."""
    studied: str
    """Its version whose sources and numbers this follows."""
    function: Callable[..., Any]
    """The door itself, of the peer's own name."""
    formula: str
    """One step, in the peer's own order."""
    arguments: Mapping[str, str]
    """Every argument of the peer and what it is here."""
    differs: tuple[str, ...]
    """Where the sane thing is not what the peer does."""
    state: Mapping[str, str]
    """Keys of the peer's saved state and the fields of `State` that they become."""
    ours: Mapping[str, str] = field(default_factory=dict)
    """Arguments that the peer does not have, and why they are here."""
    others: tuple[Callable[..., Any], ...] = ()
    """What else stands in the module under a name of the peer's."""

    def defaults(self) -> dict[str, Any]:
        """The default of every argument; those without one are missing."""
        parameters = inspect.signature(self.function).parameters
        return {
            name: parameter.default
            for name, parameter in parameters.items()
            if parameter.default is not inspect.Parameter.empty
        }


def door(module: str, **renamed: str) -> Callable[[Callable[_P, _T]], Callable[_P, _T]]:
    """Make what a door returns print as its call, and errors speak of its arguments.

    `renamed` says what the door calls an argument of ours.
    """

    def decorate(factory: Callable[_P, _T]) -> Callable[_P, _T]:
        return prints_as_call(speaking(renamed)(factory), prefix=f"{module}.")

    return decorate


def speaking(
    renamed: Mapping[str, str],
) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Put the caller's name of an argument into the errors that begin with ours."""

    def decorate(function: Callable[_P, _R]) -> Callable[_P, _R]:
        @functools.wraps(function)
        def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            try:
                return function(*args, **kwargs)
            except (TypeError, ValueError) as error:
                told = str(error)
                first = re.match(r"(`groups\[.*?\]`: )?`(\w+)`", told)
                ours = first[2] if first else ""
                if first is None or ours not in renamed or type(error) not in _PLAIN:
                    raise
                start, end = first.span(2)
                told = told[:start] + renamed[ours] + told[end:]
                raise type(error)(told) from error

        return call

    return decorate


_PLAIN = (TypeError, ValueError)
