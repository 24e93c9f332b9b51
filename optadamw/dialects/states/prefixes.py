"""Names of parameters that are equal to others, but for a prefix on one side.

`AdamW(self.net.named_parameters())` in a module of Lightning names "fc.weight", and the
model "net.fc.weight". DDP names "module.fc.weight", and the model "fc.weight".
"""

import re
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator, Sequence

_SEPARATOR = re.compile(r"[./]")

_Names = Sequence[str | None]


def flat_name(name: str) -> str:
    """Return a name with "_" for each separator, without the ":0" of TensorFlow."""
    return _SEPARATOR.sub("_", name.removesuffix(":0"))


def separators(names: Sequence[str]) -> str:
    """Return the characters that separate the parts of names.

    Keras joins the parts of a name by "_", so that no separator is left.
    """
    return "./" if any(_SEPARATOR.search(name) for name in names) else "_"


def with_one_prefix(
    paths: Sequence[str], known: Sequence[str], frozen: Collection[str] = ()
) -> list[list[int | None]]:
    """Match paths with names that are equal but for one prefix.

    All paths have the prefix, or all names have it. Equal names need no prefix, and
    come before all others.

    Args:
      paths: our paths.
      known: the names of the other library.
      frozen: those of `paths` that need no counterpart, nor the prefix.

    Returns:
      Matches, one for each prefix with which every one of `known` has a path, if they
      differ: for each path the position of its counterpart in `known`, or None.
    """
    whole = _match(paths, known)
    if whole is not None:
        return [whole]
    trained = [path for path in paths if path not in frozen]
    sides: list[tuple[_Names, _Names]]
    sides = [(_without(paths, start), known) for start in _prefixes(trained, "./")]
    sizes = {len(flat_name(path)) for path in paths}
    rests = (len(flat_name(known[0])) - size for size in sizes)
    sides += [
        (paths, _without(known, start))
        for start in _prefixes(known, separators(known), set(rests))
    ]
    found: list[list[int | None]] = []
    for ours, theirs in sides:
        match = _match(ours, theirs)
        if match is not None and match not in found:
            found.append(match)
    return found


def _match(ours: _Names, theirs: _Names) -> list[int | None] | None:
    """Return where each of `ours` is in `theirs`; None if one of these is not found."""
    places = {flat_name(name): i for i, name in enumerate(theirs) if name is not None}
    found = [None if name is None else places.get(flat_name(name)) for name in ours]
    return found if set(range(len(theirs))) <= set(found) else None


def _prefixes(
    names: Sequence[str], ends: str, sizes: Collection[int] | None = None
) -> Iterator[str]:
    """Give the prefixes that all names have, each with its separator.

    Args:
      names: the names.
      ends: the characters that separate the parts of a name.
      sizes: the only sizes that a prefix may have; None: any.
    """
    if not names:
        return
    first, last = min(names), max(names)  # what these two share, all names share
    for size, (one, other) in enumerate(zip(first, last, strict=False), 1):
        if one != other:
            return
        if one in ends and (sizes is None or size in sizes):
            yield first[:size]


def _without(names: Sequence[str], prefix: str) -> list[str | None]:
    """Return the names without a prefix; None for one that lacks it."""
    size = len(prefix)
    return [name[size:] if name.startswith(prefix) else None for name in names]


def by_ending(
    paths: Sequence[str],
    ours: Sequence[str],
    known: Sequence[str],
    others: Sequence[str],
) -> list[int | None]:
    """Match each path with the one name that is equal, or else ends with it.

    Parts of a model may have prefixes of their own, as models in a model have.

    Args:
      paths: our paths.
      ours: the flat names of `paths`.
      known: the names of the other library.
      others: the flat names of `known`.

    Raises:
      ValueError: a path that several names end with.
    """
    places, ending = places_of(others), _ending(known, others)
    found: list[int | None] = []
    for path, own in zip(paths, ours, strict=True):
        same = places.get(own, []) or ending(own)
        if len(same) > 1:
            several = ", ".join(f"'{known[i]}'" for i in same[:3])
            raise ValueError(
                f"'{path}' may be any of {several}. Say which with `names`."
            )
        found.append(same[0] if same else None)
    return found


def _ending(names: Sequence[str], flat: Sequence[str]) -> Callable[[str], list[int]]:
    """Return a function from an ending to the positions of the names that have it.

    An ending begins at a separator: "norm.weight" is none of "layer_norm.weight". The
    function searches in the names sorted from their ends: models have thousands.
    """
    turned = sorted((name[::-1], i) for i, name in enumerate(flat))
    before = separators(names)

    def ending(text: str) -> list[int]:
        start = f"_{text}"[::-1]
        first = last = bisect_left(turned, (start,))
        while last < len(turned) and turned[last][0].startswith(start):
            last += 1
        found = (i for _, i in turned[first:last])
        return sorted(i for i in found if names[i][len(flat[i]) - len(start)] in before)

    return ending


def places_of(names: Sequence[str | None]) -> dict[str | None, list[int]]:
    """Return the positions of each name."""
    places: dict[str | None, list[int]] = {}
    for i, name in enumerate(names):
        places.setdefault(name, []).append(i)
    return places


def places_called(known: Sequence[str | None]) -> Callable[[str], list[int]]:
    """Return a function from a name to its positions: exact, else of its flat name."""
    exact = places_of(known)
    flat = places_of([None if name is None else flat_name(name) for name in known])
    return lambda name: exact.get(name) or flat.get(flat_name(name), [])
