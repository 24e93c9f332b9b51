"""Compare a user's functions: by value if they are hashable, else by identity.

A schedule may be an object without a hash (a dataclass, a module that holds arrays);
such a schedule is equal to itself only.
"""

from collections.abc import Callable
from typing import Any


def hash_of(function: Callable[..., Any]) -> int:
    """Return the hash of a function, or of its identity if it is not hashable."""
    try:
        return hash(function)
    except TypeError:
        return id(function)


def same(one: Callable[..., Any], other: Callable[..., Any]) -> bool:
    """Return whether two functions are one object, or hashable and equal."""
    if one is other:
        return True
    try:
        return hash(one) == hash(other) and bool(one == other)
    except TypeError:
        return False
