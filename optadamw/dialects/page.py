"""The peers' calls as tables: docs/reference/dialects.md and `optadamw dialects`."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from optadamw.dialects.calls import docstring
from optadamw.dialects.calls.call import PeerCall

Table = tuple[Sequence[str], Sequence[Sequence[str]]]
"""Headings and rows."""


_INTRODUCTION = """# Dialects

Users of another library find its AdamW here under its own name, with its argument
names, order, defaults and numbers, and its saved state.

```python
from optadamw.dialects import torch

tx = torch.AdamW(lr=3e-4, weight_decay=0.1, clip_grad_norm=1.0)
```

Each call sets options of `optadamw.adamw`: no rule is written twice, so everything that
works with `adamw` works with all of them. (There is one exception: Keras's average
under accumulation with `bug_compatible=True` stands outside the step, and the wrappers
refuse the pair.) An argument that a peer accepts in silence and should not is an error
here. The message of an error begins with the peer's own words, and code that catches
the peer's exception catches it. Traps of the peers are avoided and listed below;
`bug_compatible=True` reproduces those whose numbers could be compared.
[numbers.md](dialects/numbers.md) has the distance from the real package for every
recorded configuration; `optadamw dialects torch` prints one peer in a terminal.

This page is made from the records and docstrings of the calls:
`optadamw dialects --markdown > docs/reference/dialects.md`."""

_ARGUMENTS = """An argument sets options of `optadamw.adamw`. Arguments marked (ours)
are additions to those of the peer."""


def page(calls: Mapping[str, PeerCall]) -> str:
    """The page, as Markdown."""
    peers = calls.values()
    guides = [f"[{call.peer}](dialects/{call.module}.md)" for call in peers]
    differences = [
        f"**{call.peer}** ({call.studied})\n\n"
        + "\n".join(f"- {text}" for text in docstring.differences(call.function))
        for call in peers
    ]
    sections = [
        ("", _INTRODUCTION),
        ("## Guides", f"How to move, a page for each: {', '.join(guides)}."),
        ("## Formulas", _markdown(formulas(peers))),
        ("## Defaults", _markdown(defaults(peers))),
        ("## Arguments", f"{_ARGUMENTS}\n\n{_markdown(arguments(peers))}"),
        ("## Saved state", _markdown(states(peers))),
        ("## Differences, and why", "\n\n".join(differences)),
    ]
    return "\n\n".join(f"{title}\n\n{text}".strip() for title, text in sections)


def shown(call: PeerCall) -> str:
    """One peer, for a terminal."""
    parts = [
        f"{call.peer} ({call.studied}): optadamw.dialects.{call.module}.{call.name}",
        f"  {call.formula}",
        _plain(arguments([call])),
    ]
    if call.state:
        parts.append(_plain(states([call])))
    listed = docstring.differences(call.function)
    parts.append("\n".join(f"  - {text}" for text in listed))
    others = [function.__name__ for function in call.others]
    if others:
        parts.append(f"  Also: {', '.join(others)}")
    return "\n\n".join(parts)


def formulas(calls: Iterable[PeerCall]) -> Table:
    """One step of each peer."""
    rows = [
        (call.peer, f"`{call.module}.{call.name}`", f"`{call.formula}`")
        for call in calls
    ]
    return ("peer", "call", "one step"), rows


def defaults(calls: Iterable[PeerCall]) -> Table:
    """The main defaults of each peer, under the names of `adamw`."""
    columns = {
        "rate": ("learning_rate", "lr", "eta", "alpha"),
        "betas": ("betas", "beta", "beta_1", "b1"),
        "epsilon": ("epsilon", "eps"),
        "decay": ("weight_decay", "lambda_"),
    }
    rows = []
    for call in calls:
        known = {n: v for n, v in _defaults(call.function).items() if v is not None}
        for first, second in (("beta_1", "beta_2"), ("b1", "b2")):
            if first in known:
                known[first] = (known[first], known.pop(second))
        cells = [
            next((repr(known[name]) for name in names if name in known), "required")
            for names in columns.values()
        ]
        rows.append((call.peer, *cells))
    return ("peer", *columns), rows


def arguments(calls: Iterable[PeerCall]) -> Table:
    """Every argument of every function, its default and its description."""
    rows = []
    for call in calls:
        for function in (call.function, *call.others):
            of = "" if function is call.function else f"`{function.__name__}`: "
            described = docstring.arguments(function)
            described.pop("kwargs", None)
            known = _defaults(function)
            for name, text in described.items():
                mark = " (ours)" if name in call.ours else ""
                default = repr(known[name]) if name in known else "required"
                rows.append((call.peer, f"{of}`{name}`{mark}", f"`{default}`", text))
    return ("peer", "argument", "default", "description"), rows


def _defaults(function: Callable[..., Any]) -> dict[str, Any]:
    """The default of every argument that has one."""
    parameters = inspect.signature(function).parameters
    return {
        name: parameter.default
        for name, parameter in parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }


def states(calls: Iterable[PeerCall]) -> Table:
    """Every key of the peers' saved states."""
    rows = [
        (call.peer, f"`{key}`", field)
        for call in calls
        for key, field in call.state.items()
    ]
    return ("peer", "key", "field of State"), rows


def _markdown(table: Table) -> str:
    headings, rows = table
    lines = [headings, ["---"] * len(headings), *rows]
    escaped = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)


def _plain(table: Table) -> str:
    headings, rows = table
    # A terminal shows one peer, whose name would stand on every line.
    lines = [[c.replace("`", "") for c in line[1:]] for line in (headings, *rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  " + "  ".join(map(_padded, line, widths)).rstrip() for line in lines
    )


_padded: Callable[[Any, int], str] = str.ljust
