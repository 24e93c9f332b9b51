"""The whole signature and the whole docstring of every `from_` and `to_` function.

Each function says in its source only what is its own. `reads` and `writes` add the
arguments of `options.py` to its signature, and their texts, what is returned and what
is raised to its docstring, for `help()` and `inspect`. Type checkers and editors read
the shared arguments from `**options: Unpack[...]` (PEP 692).
"""

import inspect
import re
import textwrap
from collections.abc import Callable, Mapping
from inspect import Parameter
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

from optadamw.dialects.states.options import FROM_DEFAULTS, TO_DEFAULTS
from optadamw.dialects.states.peer import Peer

Function = TypeVar("Function", bound=Callable[..., Any])

FROM_SECTIONS = {
    "Returns": "A `State`; with `tx`, of the structure, dtypes and shardings of "
    "`tx.init(params)`.",
    "Raises": "TypeError, ValueError: `saved` is another kind of state, has other "
    "parameters, shapes or names, has numbers that are not finite, or differs from "
    "`tx` in an option. Nothing is made.",
}
TO_SECTIONS = {
    "Raises": "TypeError, ValueError: the state has a buffer that {title} has no place "
    "for or another kind of `nu_max`, `names` do not fit, or {title} cannot follow "
    "`tx`.",
}
_ORDER = ("Args", "Returns", "Raises", "Example")


def reads(peer: Peer) -> Callable[[Function], Function]:
    """Complete the signature and the docstring of a `from_` function."""
    return lambda function: _completed(function, peer, FROM_DEFAULTS, FROM_SECTIONS)


def writes(peer: Peer) -> Callable[[Function], Function]:
    """Complete the signature and the docstring of a `to_` function."""
    return lambda function: _completed(function, peer, TO_DEFAULTS, TO_SECTIONS)


def _completed(
    function: Function,
    peer: Peer,
    defaults: Mapping[str, Any],
    sections: Mapping[str, str],
) -> Function:
    own = inspect.signature(function)
    parameters = _with_shared(list(own.parameters.values()), defaults)
    plain = [p.replace(annotation=_plain(p.annotation)) for p in parameters]
    # The function itself, not a wrapper: doctest looks for the code of its own module.
    function.__dict__["__signature__"] = own.replace(parameters=plain)
    if function.__doc__:  # `python -OO` has removed it
        texts = {p.name: _text(p.annotation) for p in parameters}
        function.__doc__ = _documented(function.__doc__, peer, texts, sections)
    return function


def _with_shared(
    parameters: list[Parameter], defaults: Mapping[str, Any]
) -> list[Parameter]:
    """Put the shared arguments in the place of `**options`, before those of its own."""
    *named, options = parameters
    hints = get_type_hints(get_args(options.annotation)[0], include_extras=True)
    shared = [
        Parameter(name, Parameter.KEYWORD_ONLY, default=value, annotation=hints[name])
        for name, value in defaults.items()
    ]
    first = [p for p in named if p.kind is Parameter.POSITIONAL_OR_KEYWORD]
    return [*first, *shared, *(p for p in named if p not in first)]


def _plain(annotation: Any) -> Any:
    return (
        get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    )


def _text(annotation: Any) -> str:
    return get_args(annotation)[1] if get_origin(annotation) is Annotated else ""


def _documented(
    doc: str, peer: Peer, texts: Mapping[str, str], sections: Mapping[str, str]
) -> str:
    """The docstring with the shared texts, which its own entries replace."""
    body, *parts = re.split(
        r"(?m)^(Args|Returns|Raises|Example):\n", inspect.cleandoc(doc)
    )
    found = {
        name: text.rstrip() for name, text in zip(parts[::2], parts[1::2], strict=True)
    }
    entries = dict(
        re.findall(r"(?m)^  (\w+): ((?:.|\n(?=    ))+)", found.get("Args", ""))
    )
    args = [
        f"  {name}: {entries[name]}" if name in entries else _entry(name, text, peer)
        for name, text in texts.items()
    ]
    found["Args"] = "\n".join(args)
    for section, text in sections.items():
        shared = _wrapped(text, peer)
        before = found.get(section)
        found[section] = f"{before}\n{shared}" if before else shared
    shown = (f"{name}:\n{found[name]}" for name in _ORDER if name in found)
    return "\n\n".join([body.rstrip(), *shown]) + "\n"


def _entry(name: str, text: str, peer: Peer) -> str:
    return _wrapped(f"{name}: {text}", peer)


def _wrapped(text: str, peer: Peer) -> str:
    gaps = (
        " (None for a parameter that `params` does not have)" if peer.has_gaps else ""
    )
    for slot, value in (("name", peer.name), ("title", peer.title), ("gaps", gaps)):
        text = text.replace(f"{{{slot}}}", value)
    return textwrap.fill(
        text, 84, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False
    )
