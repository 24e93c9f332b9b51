"""The whole signature and the whole docstring of every `from_` and `to_` function.

The source of each function says only what is its own. `reads` and `writes` add the
shared arguments to its signature and their texts to its docstring, for `help()` and
`inspect`, from `Request` and `Departure`. Type checkers and editors have the arguments
from `**options: Unpack[...]` (PEP 692).
"""

import inspect
import re
from collections.abc import Callable
from inspect import Parameter
from typing import Any, TypeVar, get_args

from optadamw.dialects.states.grouping import groups_of
from optadamw.dialects.states.leaving import Departure
from optadamw.dialects.states.peer import Peer
from optadamw.dialects.states.request import Request

Function = TypeVar("Function", bound=Callable[..., Any])
TITLES = ("Args", "Returns", "Raises", "Example")
RETURNS = """\
  A `State`; with `tx`, of the structure, dtypes and shardings of `tx.init(params)`."""


def reads(peer: Peer) -> Callable[[Function], Function]:
    """Complete the signature and the docstring of a `from_` function."""
    return lambda function: _completed(function, peer, Request)


def writes(peer: Peer) -> Callable[[Function], Function]:
    """Complete the signature and the docstring of a `to_` function."""
    return lambda function: _completed(function, peer, Departure, groups_of)


def _completed(
    function: Function, peer: Peer, call: type, *documented: Callable[..., Any]
) -> Function:
    own = inspect.signature(function)
    *named, options = own.parameters.values()
    first = [p for p in named if p.kind is Parameter.POSITIONAL_OR_KEYWORD]
    given = inspect.signature(call).parameters
    names = get_args(options.annotation)[0].__annotations__
    parameters = [*first, *(given[name] for name in names), *named[len(first) :]]
    # The function itself, not a wrapper: doctest looks for the code of its own module.
    function.__dict__["__signature__"] = own.replace(parameters=parameters)
    if function.__doc__:  # `python -OO` has removed it
        found = sections_of(function)
        shared = [sections_of(one) for one in (call, *documented)]
        texts = "\n".join(one["Args"] for one in shared).replace("the peer", peer.title)
        entries = {**_entries(texts), **_entries(found.get("Args", ""))}
        raises = shared[0]["Raises"].replace("the peer", peer.title)
        found["Args"] = "\n".join(entries[p.name] for p in parameters)
        found.setdefault("Returns", RETURNS)
        found["Raises"] = "\n".join(filter(None, (found.get("Raises"), raises)))
        shown = (f"{title}:\n{found[title]}" for title in TITLES)
        function.__doc__ = "\n\n".join([found[""], *shown]) + "\n"
    return function


def sections_of(documented: Any) -> dict[str, str]:
    """Cut a docstring into its sections; the text before the first is under ""."""
    doc = inspect.cleandoc(documented.__doc__)
    text, *parts = re.split(rf"(?m)^({'|'.join(TITLES)}):\n", doc)
    found = zip(parts[::2], parts[1::2], strict=True)
    return {"": text.rstrip(), **{title: part.rstrip() for title, part in found}}


def _entries(args: str) -> dict[str, str]:
    """Return the lines about each argument, by the name of the argument."""
    return {
        entry[1]: entry[0] for entry in re.finditer(r"  (\w+): .*(\n    .*)*", args)
    }
