"""The doors as tables: the text of docs/dialects.md and of `optadamw dialects`."""

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from optadamw.dialects.calls.call import Door

_EMPTY = inspect.Parameter.empty

Table = tuple[Sequence[str], Sequence[Sequence[str]]]
"""Headings and rows."""


_INTRODUCTION = """# Dialects

For those who come from another library: its AdamW under its own name, with its
argument names, order, defaults and numbers, and its saved state.

```python
from optadamw.dialects import torch

tx = torch.AdamW(lr=3e-4, weight_decay=0.1, clip_grad_norm=1.0)
```

A door is a row of settings and a mapping of names onto `optadamw.adamw`: no rule is
written twice, so everything that works with `adamw` works with all of them (but one:
Keras's average under accumulation with `bug_compatible=True` stands outside the step,
and the wrappers refuse the pair). What a peer accepts in silence and should not is an
error here; where it has a trap, the sane thing is done and listed below, and
`bug_compatible=True` reproduces the peer where numbers could be compared.
[numbers.md](dialects/numbers.md) has the distance from the real package for every
recorded configuration; `optadamw dialects torch` prints one door in a terminal.

This page is made from the doors' own data:
`optadamw dialects --markdown > docs/dialects.md`."""


def page(doors: Mapping[str, Door]) -> str:
    """The page, as Markdown."""
    guides = [f"[{door.peer}](dialects/{door.module}.md)" for door in doors.values()]
    sections = [
        ("", _INTRODUCTION),
        ("## Guides", f"How to move, a page for each: {', '.join(guides)}."),
        ("## Formulas", _markdown(formulas(doors.values()))),
        ("## Defaults", _markdown(defaults(doors.values()))),
        ("## Arguments", _markdown(arguments(doors.values()))),
        ("## Saved state", _markdown(states(doors.values()))),
        ("## What differs, and why", _differences(doors.values())),
    ]
    return "\n\n".join(f"{title}\n\n{text}".strip() for title, text in sections)


def shown(door: Door) -> str:
    """One door, for a terminal."""
    parts = [
        f"{door.peer} ({door.studied}): optadamw.dialects.{door.module}."
        f"{door.function.__name__}",
        f"  {door.formula}",
        _plain(arguments([door])),
    ]
    if door.state:
        parts.append(_plain(states([door])))
    parts.append("\n".join(f"  - {text}" for text in door.differs))
    names = [function.__name__ for function in door.others]
    if names:
        parts.append(f"  Also: {', '.join(names)}")
    return "\n\n".join(parts)


def formulas(doors: Iterable[Door]) -> Table:
    """One step of each peer."""
    rows = [
        (door.peer, f"`{door.module}.{door.function.__name__}`", f"`{door.formula}`")
        for door in doors
    ]
    return ("peer", "door", "one step"), rows


def defaults(doors: Iterable[Door]) -> Table:
    """What each peer does unless it is told otherwise, by what it is here."""
    columns = {
        "rate": ("learning_rate", "lr", "eta", "alpha"),
        "betas": ("betas", "beta", "beta_1", "b1"),
        "epsilon": ("epsilon", "eps"),
        "decay": ("weight_decay", "lambda_"),
    }
    rows = []
    for door in doors:
        known = door.defaults()
        known = {n: v for n, v in known.items() if v is not None}
        for first, second in (("beta_1", "beta_2"), ("b1", "b2")):
            if first in known:
                known[first] = (known[first], known.pop(second))
        cells = [
            next((repr(known[name]) for name in names if name in known), "required")
            for names in columns.values()
        ]
        rows.append((door.peer, *cells))
    return ("peer", *columns), rows


def arguments(doors: Iterable[Door]) -> Table:
    """Every argument of every peer, and what it is here."""
    rows = []
    for door in doors:
        known = door.defaults()
        for name, here in (*door.arguments.items(), *door.ours.items()):
            mark = " (ours)" if name in door.ours else ""
            default = repr(known[name]) if name in known else "required"
            rows.append((door.peer, f"`{name}`{mark}", f"`{default}`", here))
        for function in door.others:
            parameters = inspect.signature(function).parameters
            for name, here in _told(function).items():
                default = parameters[name].default
                known_default = "required" if default is _EMPTY else repr(default)
                spelled = f"`{function.__name__}`: `{name}`"
                rows.append((door.peer, spelled, f"`{known_default}`", here))
    return ("peer", "argument", "default", "here"), rows


def _told(function: Callable[..., Any]) -> dict[str, str]:
    """What a docstring says of each argument."""
    text = inspect.getdoc(function) or ""
    found = re.search(r"^Args:\n(.*?)\n\n", text, re.M | re.S)
    entries = re.findall(
        r"^  \**(\w+): (.*?)(?=\n  \S|\Z)", found[1] if found else "", re.M | re.S
    )
    return {name: " ".join(told.split()).rstrip(".") for name, told in entries}


def states(doors: Iterable[Door]) -> Table:
    """Every key of the peers' saved states."""
    rows = [
        (door.peer, f"`{key}`", here)
        for door in doors
        for key, here in door.state.items()
    ]
    return ("peer", "key", "field of State"), rows


def _differences(doors: Iterable[Door]) -> str:
    return "\n\n".join(
        f"**{door.peer}** ({door.studied})\n\n"
        + "\n".join(f"- {text}" for text in door.differs)
        for door in doors
    )


def _markdown(table: Table) -> str:
    headings, rows = table
    lines = [headings, ["---"] * len(headings), *rows]
    escaped = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)


def _plain(table: Table) -> str:
    headings, rows = table
    # A terminal shows one door: the peer's name would stand on every line.
    lines = [[c.replace("`", "") for c in line[1:]] for line in (headings, *rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  " + "  ".join(map(_padded, line, widths)).rstrip() for line in lines
    )


_padded: Callable[[Any, int], str] = str.ljust
