"""Equality of functions that users give: by value where they hash, else by identity.

A schedule may be an object without a hash (a dataclass, a module that holds arrays);
it is then equal to itself alone.
"""

from collections.abc import Callable
from typing import Any


def hash_of(function: Callable[..., Any]) -> int:
    """The hash of a function, or of its identity."""
    try:
        return hash(function)
    except TypeError:
        return id(function)


def same(one: Callable[..., Any], other: Callable[..., Any]) -> bool:
    """Whether two functions are one, or equal and hashable."""
    if one is other:
        return True
    try:
        return hash(one) == hash(other) and bool(one == other)
    except TypeError:
        return False
