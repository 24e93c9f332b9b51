"""How this library words its errors: what is wrong, what was received, what to do."""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager


def invalid(name: str, rule: str, value: object, remedy: str = "") -> ValueError:
    """An argument whose value breaks its rule."""
    return ValueError(_sentence(f"`{name}` must be {rule}; got {value!r}.", remedy))


def mistyped(name: str, rule: str, value: object, remedy: str = "") -> TypeError:
    """An argument of a type that can never be right."""
    received = f"{value!r} of type {type(value).__name__}"
    return TypeError(_sentence(f"`{name}` must be {rule}; got {received}.", remedy))


def misplaced(what: str, remedy: str) -> ValueError:
    """Rules chained in an order in which they would not mean what they say."""
    return ValueError(_sentence(what, remedy))


def at_leaf(path: str, what: str, remedy: str = "") -> ValueError:
    """A leaf of a pytree that does not fit; `path` names it as patterns do."""
    return ValueError(_sentence(f"Leaf '{path or '(the root)'}': {what}", remedy))


def kind_at_leaf(path: str, what: str, remedy: str = "") -> TypeError:
    """A leaf of a pytree of a kind that can never fit."""
    return TypeError(_sentence(f"Leaf '{path or '(the root)'}': {what}", remedy))


def near(wanted: str, candidates: Iterable[str], most: int = 5) -> str:
    """The candidates most like `wanted`, quoted, for the end of a message."""
    pool = list(dict.fromkeys(candidates))
    bare = wanted.lstrip("!").replace("*", "").strip("/")
    matches = difflib.get_close_matches(bare, pool, n=most, cutoff=0.3)
    matches += [c for c in pool if c not in matches and bare and bare in c]
    chosen = matches[:most] or pool[:most]
    return ", ".join(f"'{c}'" for c in chosen)


@contextmanager
def speaking_of(names: Mapping[str, str]) -> Iterator[None]:
    """Let the errors of a call inside name its arguments as an outer caller does.

    Args:
      names: for each argument of the inner call its name outside.
    """
    try:
        yield
    except (TypeError, ValueError) as error:
        told = re.sub(r"`(\w+)`", lambda m: f"`{names.get(m[1], m[1])}`", str(error))
        if type(error) not in (TypeError, ValueError) or told == str(error):
            raise
        raise type(error)(told) from error


def _sentence(what: str, remedy: str) -> str:
    return f"{what} {remedy}".rstrip()
