"""A peer's call: its record, and the decorator that makes it one."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from optadamw.base.errors import renamed
from optadamw.dialects.calls import docstring
from optadamw.dialects.calls.phrases import Phrases, speaking
from optadamw.transforms.call import Printable, prints_as_call

_P = ParamSpec("_P")
_R = TypeVar("_R")
_T = TypeVar("_T", bound=Printable)


@dataclass(frozen=True, eq=False)
class PeerCall:
    """A peer, and its AdamW as it is called in this library.

    The docstring of the function describes its arguments and its differences from the
    peer; docs/reference/dialects.md is printed from both.
    """

    module: str
    """The module of `optadamw.dialects`."""
    peer: str
    """The usual name of the peer."""
    studied: str
    """The version of the peer whose sources and numbers are followed."""
    formula: str
    """One step, in the peer's own order."""
    function: Callable[..., Any]
    """The peer's AdamW."""
    state: Mapping[str, str]
    """Keys of the peer's saved state and the fields of `State` that they become."""
    ours: tuple[str, ...] = ()
    """Arguments of the functions that the peer does not have."""
    others: tuple[Callable[..., Any], ...] = ()
    """The other functions of the module that have a name of the peer's."""

    @property
    def name(self) -> str:
        """The name of the function."""
        return self.function.__name__


def call(
    module: str, like: Callable[..., Any] | None = None, phrases: Phrases | None = None
) -> Callable[[Callable[_P, _T]], Callable[_P, _T]]:
    """Make what a peer's function returns print as its call, and do as `described`.

    Args:
      module: The module of `optadamw.dialects`.
      like: See `described`.
      phrases: See `described`.
    """

    def decorate(factory: Callable[_P, _T]) -> Callable[_P, _T]:
        return prints_as_call(described(like, phrases)(factory), prefix=f"{module}.")

    return decorate


def described(
    like: Callable[..., Any] | None = None, phrases: Phrases | None = None
) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Complete the docstring of a peer's function, and name its arguments in errors.

    An argument whose description ends with "Sets `b1`." is named in errors about the
    option `b1` of `adamw`. (Python's `-OO` drops docstrings; errors then name options.)

    Args:
      like: A function whose docstring describes the arguments that the docstring of the
        decorated function leaves out.
      phrases: The peer's own words for values that it refuses.
    """
    shared = {} if like is None else docstring.arguments(like)

    def decorate(function: Callable[_P, _R]) -> Callable[_P, _R]:
        if function.__doc__ is None:
            return function
        text, arguments = docstring.completed(function, shared)
        names = {
            option: name
            for name, description in arguments.items()
            for option in docstring.options(description)
        }

        @functools.wraps(function)
        def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            with speaking(phrases or {}, lambda message: renamed(message, names)):
                return function(*args, **kwargs)

        call.__doc__ = text
        return call

    return decorate
