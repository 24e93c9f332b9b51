"""Docstrings of the peers' calls: read in parts, completed from one another."""

import inspect
import re
import textwrap
from collections.abc import Callable, Mapping
from typing import Any

_TITLES = r"\n\n(?=(?:Differs|Args|Returns|Raises|Example):\n)"

_KWARGS = "Arguments that the peer does not know are refused by name."
_RETURNS = "Returns:\n  A transformation."
_RAISES = """Raises:
  ValueError, TypeError: An argument has a value or a type that is refused. The message
    names the argument, the value and the remedy."""


def arguments(function: Callable[..., Any]) -> dict[str, str]:
    """The description of each argument in the docstring of `function`."""
    section = _sections(function).get("Args", "")
    entries = re.findall(r"^  \**(\w+): (.*?)(?=\n  \S|\Z)", section, re.M | re.S)
    return {name: " ".join(text.split()) for name, text in entries}


def differences(function: Callable[..., Any]) -> list[str]:
    """The list of differences from the peer in the docstring of `function`."""
    section = _sections(function).get("Differs", "")
    entries = re.findall(r"^  - (.*?)(?=\n  \S|\Z)", section, re.M | re.S)
    return [" ".join(text.split()) for text in entries]


def options(text: str) -> list[str]:
    """The options of `adamw` that an argument sets, by its description.

    Such a description ends with a sentence like "Sets `b1`, `b2`."; an option with a
    fixed value, such as `eps_mode="hat"`, is left out.
    """
    last = re.search(r"Sets ((?:`[^`]+`(?:, )?)+)\.$", text)
    return re.findall(r"`(?:\w+\.)?(\w+)`", last[1]) if last else []


def completed(
    function: Callable[..., Any], shared: Mapping[str, str]
) -> tuple[str, dict[str, str]]:
    """The docstring of `function` with the sections that it left out.

    Args:
      function: A function whose docstring describes at least its own arguments.
      shared: Descriptions of arguments that another function has too.

    Returns:
      The docstring, and the description of every argument.
    """
    sections = _sections(function)
    known = {**shared, **arguments(function)}
    described, lines = {}, []
    for name, parameter in inspect.signature(function).parameters.items():
        is_open = parameter.kind is inspect.Parameter.VAR_KEYWORD
        described[name] = known.get(name, _KWARGS) if is_open else known[name]
        lines.append(_wrapped(f"{'**' if is_open else ''}{name}: {described[name]}"))
    parts = [
        sections[""],
        sections.get("Differs", ""),
        "\n".join(["Args:", *lines]),
        sections.get("Returns", _RETURNS),
        sections.get("Raises", _RAISES),
        sections.get("Example", ""),
    ]
    return "\n\n".join(filter(None, parts)) + "\n", described


def _sections(function: Callable[..., Any]) -> dict[str, str]:
    text, *sections = re.split(_TITLES, inspect.getdoc(function) or "")
    return {"": text, **{s.partition(":")[0]: s.rstrip() for s in sections}}


def _wrapped(text: str) -> str:
    return textwrap.fill(
        text,
        width=88,
        initial_indent="  ",
        subsequent_indent="    ",
        break_long_words=False,
        break_on_hyphens=False,
    )
