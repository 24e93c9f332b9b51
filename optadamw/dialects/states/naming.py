"""Match the parameters of the other library with the leaves of `params`.

The order alone cannot tell two parameters of one shape apart: if it is wrong, they
change places and nothing shows it. So the order is used only if the saved state has no
names, or `params` has none, being a plain list or tuple.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

from optadamw.base.errors import invalid, mistyped, near, some_leaves
from optadamw.dialects.states.prefixes import (
    by_ending,
    flat_name,
    places_called,
    with_one_prefix,
)

Names = Sequence[str | None] | Mapping[str, Any] | None
Missing = Literal["error", "zeros"]


class Theirs(NamedTuple):
    """One parameter of the other library."""

    label: str
    """The name of the parameter in messages."""
    name: str | None
    """The name of the parameter in the saved state; None if it has none."""
    is_kept: bool
    """Whether the parameter has a state; if not, it may be left over."""


def check_missing(missing: Any) -> None:
    """Refuse every value of `missing` but its two."""
    if missing not in get_args(Missing):
        raise invalid("missing", "'error' or 'zeros'", missing)


def matched(
    names: Names,
    paths: Sequence[str],
    theirs: Sequence[Theirs],
    missing: Missing,
    frozen: Collection[str] = (),
) -> list[int | None]:
    """Return for each of our `paths` the position of its counterpart in `theirs`.

    Args:
      names: as the `from_` functions take it.
      paths: our paths.
      theirs: the parameters of the other library.
      missing: what happens to a path without a counterpart.
      frozen: those of `paths` that need none: an optimizer that was given the trained
        parameters alone does not have them. Default: none.

    Raises:
      TypeError, ValueError: `names` that do not fit; without them, other names or
        another number of parameters; a counterpart that is left over, or missing.
    """
    if names is None:
        found = _unnamed(paths, theirs, frozen)
    elif isinstance(names, Mapping):
        found = _mapped(names, paths, theirs)
    elif isinstance(names, Sequence) and not isinstance(names, str):
        found = _listed(names, paths, theirs)
    else:
        raise mistyped_names(names)
    pairs = zip(paths, found, strict=True)
    lacking = [p for p, place in pairs if place is None and p not in frozen]
    if lacking and missing == "error":
        raise ValueError(
            f"The saved state has no counterpart of {some_leaves(lacking, 3)}. "
            "Say what it is called with `names`, leave it out of the parameters if it "
            "is not trained, or start such parameters with missing='zeros'."
        )
    _check_left_over(names, found, theirs)
    return found


def _unnamed(
    paths: Sequence[str], theirs: Sequence[Theirs], frozen: Collection[str]
) -> list[int | None]:
    known = [one.name for one in theirs]
    is_named = bool(theirs) and all(name is not None for name in known)
    # A file sorts the numbers of a list as text: 10 before 2.
    if is_named and (not _is_plain(paths) or set(known) == set(paths)):
        return _by_name(paths, [name or "" for name in known], frozen)
    trained = [path for path in paths if path not in frozen]
    if len(trained) == len(theirs) < len(paths):
        places = {path: i for i, path in enumerate(trained)}
        return [places.get(path) for path in paths]
    if len(paths) != len(theirs):
        raise ValueError(
            f"The saved state has {len(theirs)} parameters, `params` {len(paths)} "
            f"({some_leaves(paths, 3)}). Pass the parameters that were trained, or "
            "say which is which with `names`."
        )
    return list(range(len(paths)))


def _is_plain(paths: Sequence[str]) -> bool:
    """Whether the tree has no names: a list, a tuple or a single array."""
    return all(path.isdigit() or not path for path in paths)


def _by_name(
    paths: Sequence[str], known: Sequence[str], frozen: Collection[str]
) -> list[int | None]:
    """Match equal names, apart from separators and a prefix on one side.

    Returns:
      For each of `paths` the position of its counterpart in `known`; None for one that
      has none, if it is frozen or all of `known` have their paths.

    Raises:
      ValueError: names that fit in several ways, or are others.
    """
    ours, others = [flat_name(p) for p in paths], [flat_name(n) for n in known]
    for name, count in (Counter(ours) + Counter()).items():
        if count > 1:
            raise ValueError(
                f"Several of `params` are called '{name}', with '_' for each "
                "separator. Say which is which with `names`."
            )
    fitting = with_one_prefix(paths, known, frozen)
    if len(fitting) > 1:
        raise ValueError(
            f"'{known[0]}' may be several of `params`, as more than one prefix fits. "
            "Say which with `names`."
        )
    found = fitting[0] if fitting else by_ending(paths, ours, known, others)
    taken = Counter(place for place in found if place is not None)
    for place, count in taken.items():
        if count > 1:
            raise ValueError(
                f"'{known[place]}' may be several of `params`. Say which with `names`."
            )
    pairs = zip(paths, found, strict=True)
    lacking = [p for p, place in pairs if place is None and p not in frozen]
    if lacking:
        left = [name for i, name in enumerate(known) if i not in taken]
        if left:
            raise ValueError(
                f"The saved state names its parameters, and none is called "
                f"'{lacking[0]}'; near it: {near(lacking[0], left)}. Say which is "
                f"which with names={{{lacking[0]!r}: {left[0]!r}, ...}}."
            )
    return found


def _listed(
    names: Sequence[Any], paths: Sequence[str], theirs: Sequence[Theirs]
) -> list[int | None]:
    if len(names) != len(theirs):
        raise ValueError(
            f"`names` lists {len(names)} parameters and the saved state has "
            f"{len(theirs)}. List all, in the saved order, None for one that is not in "
            "`params`."
        )
    places: dict[str, int] = {}
    legal = dict.fromkeys(paths)
    for place, path in enumerate(names):
        if path is None:
            continue
        check_path(path, legal)
        if path in places:
            raise ValueError(f"`names` lists '{path}' twice. List each once.")
        places[path] = place
    _check_order(names, theirs)
    return [places.get(path) for path in paths]


def _check_order(names: Sequence[Any], theirs: Sequence[Theirs]) -> None:
    """Refuse a list of the names in the saved state, in another order than there."""
    ours = [None if path is None else flat_name(path) for path in names]
    others = [None if one.name is None else flat_name(one.name) for one in theirs]
    if ours != others and None not in ours and set(ours) == set(others):
        place = [x == y for x, y in zip(ours, others, strict=True)].index(False)
        raise ValueError(
            f"`names` lists '{names[place]}' where the saved state has "
            f"'{theirs[place].name}', and it has each of the names. List them in the "
            "saved order, or leave `names` out: equal names find each other."
        )


def _mapped(
    names: Mapping[str, Any], paths: Sequence[str], theirs: Sequence[Theirs]
) -> list[int | None]:
    known = [one.name for one in theirs]
    places = places_called(known)
    chosen: dict[str, int] = {}
    legal = dict.fromkeys(paths)
    for path, value in names.items():
        check_path(path, legal)
        if value is not None:
            chosen[path] = _place(path, value, known, places)
    for place, count in Counter(chosen.values()).items():
        if count > 1:
            both = [path for path, at in chosen.items() if at == place]
            raise ValueError(
                f"`names` gives {theirs[place].label} to '{both[0]}' and '{both[1]}'. "
                "Each has one counterpart."
            )
    return [chosen.get(path) for path in paths]


def _place(
    path: str,
    value: Any,
    known: Sequence[str | None],
    places: Callable[[str], list[int]],
) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise mistyped(f"names[{path!r}]", "a name, an index or None", value)
    if isinstance(value, int):
        if not 0 <= value < len(known):
            raise invalid(f"names[{path!r}]", f"an index below {len(known)}", value)
        return value
    same = places(value)
    if len(same) != 1:
        named = [name for name in known if name is not None]
        hint = f"Near it: {near(value, named)}." if named else "Give its index."
        many = "no parameter" if not same else f"{len(same)} parameters"
        raise ValueError(
            f"`names` says that '{path}' is '{value}', and the saved state has {many} "
            f"of that name. {hint}"
        )
    return same[0]


def check_path(path: Any, paths: Collection[str]) -> None:
    """Refuse a name in `names` that is no path of `params`."""
    if path not in paths:
        raise ValueError(
            f"`names` speaks of '{path}', and `params` has no such leaf. Near it: "
            f"{near(str(path), paths)}."
        )


def _check_left_over(
    names: Names, found: Sequence[int | None], theirs: Sequence[Theirs]
) -> None:
    taken = set(found)
    left = [i for i, one in enumerate(theirs) if one.is_kept and i not in taken]
    if isinstance(names, Sequence):
        left = [i for i in left if names[i] is not None]  # left behind, as asked
    if left:
        raise ValueError(
            f"The saved state has {theirs[left[0]].label}, which has no counterpart in "
            "`params`. Pass all parameters that were trained, or leave it behind: list "
            "None in its place in `names`."
        )


def mistyped_names(names: Any) -> TypeError:
    """Return the error for `names` of another type."""
    return mistyped(
        "names",
        "a sequence of our paths in the order of the other library, a mapping from our "
        "paths to its names or indices, or None",
        names,
    )
