"""The record of a peer's call: the source of its docstrings, its errors, its page."""

import functools
import importlib
import inspect
import re
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from optadamw.base.errors import speaking_of
from optadamw.transforms.call import Printable, prints_as_call

_P = ParamSpec("_P")
_R = TypeVar("_R")
_T = TypeVar("_T", bound=Printable)


@dataclass(frozen=True)
class Argument:
    """An argument of a peer's function."""

    text: str
    """Its description, in full sentences."""
    options: tuple[str, ...]
    """The options of `adamw` that it sets; `name=value` sets a fixed value.

    A field of a record that is given to `adamw` is written `Record.field`.
    """
    is_ours: bool
    """Whether this library adds the argument to those of the peer."""

    def described(self) -> str:
        """The description, with the options of `adamw` that the argument sets."""
        options = ", ".join(f"`{option}`" for option in self.options)
        return f"{self.text} Sets {options}." if options else self.text


def argument(text: str, *options: str) -> Argument:
    """An argument that the peer has too."""
    return Argument(text, options, is_ours=False)


def added(text: str, *options: str) -> Argument:
    """An argument that this library adds to those of the peer."""
    return Argument(text, options, is_ours=True)


Arguments = Mapping[str, Argument]

_REFUSED = argument("Arguments that the peer does not know are refused by name.")
_RETURNS = "Returns:\n  A transformation."
_RAISES = """Raises:
  ValueError, TypeError: An argument has a value or a type that is refused. The message
    names the argument, the value and the remedy."""


@dataclass(frozen=True, eq=False)
class PeerCall:
    """A peer, and the call of its AdamW in this library."""

    module: str
    """The module of `optadamw.dialects`."""
    peer: str
    """The usual name of the peer."""
    studied: str
    """The version of the peer whose sources and numbers are followed."""
    formula: str
    """One step, in the peer's own order."""
    functions: Mapping[str, Arguments]
    """Each public function of the module and its arguments; the AdamW comes first.

    A function without arguments here describes them in its own docstring.
    """
    differs: tuple[str, ...]
    """The differences between the peer's AdamW and this one."""
    state: Mapping[str, str]
    """Keys of the peer's saved state and the fields of `State` that they become."""

    @property
    def name(self) -> str:
        """The peer's name of AdamW."""
        return next(iter(self.functions))

    @property
    def arguments(self) -> Arguments:
        """The arguments of the peer's AdamW."""
        return self.functions[self.name]

    def found(self) -> tuple[Callable[..., Any], ...]:
        """The functions themselves, in the order of `functions`."""
        module = importlib.import_module(f"optadamw.dialects.{self.module}")
        return tuple(getattr(module, name) for name in self.functions)

    def transformation(self, factory: Callable[_P, _T]) -> Callable[_P, _T]:
        """As `function`, and the transformation that is returned prints as its call."""
        return prints_as_call(self.function(factory), prefix=f"{self.module}.")

    def function(self, function: Callable[_P, _R]) -> Callable[_P, _R]:
        """Add the described arguments to the docstring, and their names to errors."""
        arguments = self.functions[function.__name__]
        outer = {
            option.rpartition(".")[2]: name
            for name, argument in arguments.items()
            for option in argument.options
        }

        @functools.wraps(function)
        def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            with speaking_of(outer):
                return function(*args, **kwargs)

        differs = self.differs if function.__name__ == self.name else ()
        call.__doc__ = _documented(function, arguments, differs)
        return call


def _documented(
    function: Callable[..., Any], arguments: Arguments, differs: tuple[str, ...]
) -> str:
    """The docstring with the sections that the record knows, in the usual order."""
    titles = r"\n\n(?=(?:Returns|Raises|Example):\n)"
    text, *written = re.split(titles, inspect.getdoc(function) or "")
    sections = {section.partition(":")[0]: section for section in written}
    told = []
    for name, parameter in inspect.signature(function).parameters.items():
        stars = "**" if parameter.kind is inspect.Parameter.VAR_KEYWORD else ""
        entry = arguments.get(name, _REFUSED) if stars else arguments[name]
        told.append(_wrapped(f"{stars}{name}: {entry.described()}", "    "))
    lists = {
        "Differs": [_wrapped(f"- {difference}", "    ") for difference in differs],
        "Args": told,
    }
    parts = [
        text,
        *("\n".join([f"{title}:", *lines]) for title, lines in lists.items() if lines),
        sections.get("Returns", _RETURNS),
        sections.get("Raises", _RAISES),
        sections.get("Example", ""),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _wrapped(text: str, indent: str) -> str:
    return textwrap.fill(
        text,
        width=88,
        initial_indent="  ",
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
