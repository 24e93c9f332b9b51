"""Names of parameters with a prefix that the names of an optimizer lack.

`AdamW(self.net.named_parameters())` in a module of Lightning names "fc.weight", and the
model "net.fc.weight".
"""

import re
from collections.abc import Collection, Sequence

_SEPARATOR = re.compile(r"[./]")


def flat_name(name: str) -> str:
    """Return a name with "_" for each separator, without the ":0" of TensorFlow."""
    return _SEPARATOR.sub("_", name.removesuffix(":0"))


def without_prefix(
    paths: Sequence[str], known: Sequence[str], frozen: Collection[str] = ()
) -> list[int | None] | None:
    """Match paths with names that are equal but for a prefix that all paths have.

    Args:
      paths: our paths.
      known: the names of the other library, without equal ones among the paths.
      frozen: those of `paths` that need no counterpart, nor the prefix.

    Returns:
      For each path the position of its counterpart in `known`, or None; None in the
      place of the list if no prefix gives each of `known` a path.
    """
    parts = [_SEPARATOR.split(path) for path in paths]
    trained = [
        one for one, path in zip(parts, paths, strict=True) if path not in frozen
    ]
    if not trained:
        return None
    prefix: list[str] = []
    for same in zip(*(one[:-1] for one in trained), strict=False):
        if len(set(same)) > 1:
            break
        prefix.append(same[0])
    places = {flat_name(name): i for i, name in enumerate(known)}
    for length in range(1, len(prefix) + 1):
        found = [
            places.get(flat_name("/".join(one[length:])))
            if one[:length] == prefix[:length]
            else None
            for one in parts
        ]
        if set(range(len(known))) <= set(found):
            return found
    return None
