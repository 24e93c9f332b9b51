"""Put the leaves of `params` into the order of the other library."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from optadamw.base.errors import invalid, mistyped
from optadamw.dialects.states.naming import Names, check_path, mistyped_names


class Place(NamedTuple):
    """A parameter in the order of the other library."""

    leaf: int | None
    """The index of its leaf; None for a parameter that `params` does not have."""
    name: str | None
    """The name that `names` gives it; None without."""


def ordered(names: Names, paths: Sequence[str]) -> list[Place]:
    """Put our leaves into the order of the other library.

    Raises:
      TypeError, ValueError: `names` that do not fit.
    """
    if names is None:
        return [Place(i, None) for i in range(len(paths))]
    index = {path: i for i, path in enumerate(paths)}
    if not isinstance(names, Mapping):
        if isinstance(names, str) or not isinstance(names, Sequence):
            raise mistyped_names(names)
        given = [path for path in names if path is not None]
        _check_all(given, paths)
        return [Place(None if p is None else index[p], None) for p in names]
    _check_all(list(names), paths)
    values = list(names.values())
    if all(isinstance(v, str) for v in values):
        if len(set(values)) != len(values):
            raise invalid("names", "made of different names", values)
        return [Place(index[path], name) for path, name in names.items()]
    if not all(isinstance(v, int) and not isinstance(v, bool) for v in values):
        raise mistyped("names", "a mapping to names only, or to indices only", names)
    if sorted(values) != list(range(len(values))):
        raise invalid("names", f"made of the indices 0 to {len(values) - 1}", values)
    by_index = sorted(names, key=lambda path: names[path])
    return [Place(index[path], None) for path in by_index]


def _check_all(given: Sequence[Any], paths: Sequence[str]) -> None:
    legal = dict.fromkeys(paths)
    for path in given:
        check_path(path, legal)
    if sorted(given) != sorted(paths):
        known = set(given)
        lacking = [path for path in paths if path not in known]
        what = f"'{lacking[0]}' is missing" if lacking else "one is there twice"
        raise ValueError(
            f"`names` must have each of the {len(paths)} parameters once; {what}."
        )
