"""Nested dicts and lists with records at their leaves, as MLX and Julia keep them."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from optadamw.base.errors import at_leaf, kind_at_leaf
from optadamw.dialects.states.leaving import Departure


def flattened(
    tree: Any, is_record: Callable[[Any], bool], path: str = ""
) -> dict[str, Any]:
    """Return the records in a nested state by their paths, in their order.

    A parameter without state has None for a record.

    Raises:
      TypeError: a node that is no record, and no dict or list of records.
      ValueError: two records of one path.
    """
    if tree is None or is_record(tree):
        return {path: tree}
    if isinstance(tree, Mapping):
        children = [(str(key).replace(".", "/"), child) for key, child in tree.items()]
    elif isinstance(tree, Sequence) and not isinstance(tree, str):
        children = [(str(i), child) for i, child in enumerate(tree)]
    else:
        raise kind_at_leaf(
            path, f"the saved state has {type(tree).__name__} there, and no moments."
        )
    found: dict[str, Any] = {}
    for key, child in children:
        below = flattened(child, is_record, f"{path}/{key}" if path else key)
        for name, record in below.items():
            if name in found:
                raise at_leaf(name, "the saved state has it twice.")
            found[name] = record
    return found


MOST = 10_000
"""The largest number of gaps that a list is filled with; other keys are no indices."""


def text_dicts(leaving: Departure) -> Collection[str]:
    """Return the paths of dicts that stay dicts, even if their keys are numbers.

    If `params` has lists, or dicts with integers as keys as NNX's for lists, then its
    dicts with texts as keys are dicts of the model too. Otherwise such a dict may be a
    list of modules whose names were split, and `names` of the peer have no dicts.
    """
    if any(place.name is not None for place in leaving.places):
        return ()
    found: set[str] = set()
    has_lists = False
    for entries, _ in jax.tree_util.tree_leaves_with_path(leaving.params):
        keys = [jax.tree_util.keystr((entry,), simple=True) for entry in entries]
        for i, entry in enumerate(entries):
            if not isinstance(entry, jax.tree_util.DictKey):
                has_lists |= isinstance(entry, jax.tree_util.SequenceKey)
            elif isinstance(entry.key, str):
                found.add("/".join(keys[:i]))
            else:
                has_lists |= isinstance(entry.key, int)
    return found if has_lists else ()


def nested(
    flat: Mapping[str, Any],
    fills_gaps: bool = False,
    dicts: Collection[str] = (),
    path: str = "",
) -> Any:
    """Nest values by their paths, in dicts, or in lists if the keys are 0, 1, 2, ...

    Args:
      flat: the values by their paths.
      fills_gaps: whether keys such as 1, 4 make a list too, with empty dicts between,
        as in MLX for modules without trained parameters. Default: they make a dict.
      dicts: the paths that are dicts whatever their keys. Default: none is known.
      path: the path of `flat`. Default: it is the root.

    Raises:
      ValueError: a path that is both a record and leads to others.
    """
    if set(flat) == {""}:
        return flat[""]
    children: dict[str, dict[str, Any]] = {}
    for name, value in flat.items():
        key, _, rest = name.partition("/")
        children.setdefault(key, {})[rest] = value
    for key, below in children.items():
        if "" in below and len(below) > 1:
            raise at_leaf(key, "it is a parameter and holds others.", "Rename one.")
    made = {
        key: nested(below, fills_gaps, dicts, f"{path}/{key}" if path else key)
        for key, below in children.items()
    }
    if path in dicts:
        return made
    if fills_gaps and all(key == str(_number(key)) for key in made):
        count = max(map(_number, made)) + 1
        if count <= len(made) + MOST:
            return [made.get(str(i), {}) for i in range(count)]
    if sorted(made, key=_number) == [str(i) for i in range(len(made))]:
        return [made[str(i)] for i in range(len(made))]
    return made


def dotted(tree: Any, path: str = "") -> dict[str, Any]:
    """Return the arrays of nested dicts and lists by their paths, with dots.

    These are the names of `mlx.utils.tree_flatten`, which `tree_unflatten` takes apart.

    Raises:
      ValueError: two arrays of one name.
    """
    if isinstance(tree, Mapping):
        children = [(str(key), child) for key, child in tree.items()]
    elif isinstance(tree, list):
        children = [(str(i), child) for i, child in enumerate(tree)]
    else:
        return {path: tree}
    found: dict[str, Any] = {}
    for key, child in children:
        for name, array in dotted(child, f"{path}.{key}" if path else key).items():
            if name in found:
                raise at_leaf(name, "two parameters have this name with dots.")
            found[name] = array
    return found


def _number(key: str) -> int:
    return int(key) if key.isdecimal() else -1


def moments_by_path(leaving: Departure) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return both moments of each parameter, by the path that `names` gives it.

    Raises:
      TypeError: two parameters of one path.
    """
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    columns = leaving.column("mu"), leaving.column("nu")
    for (leaf, name), mu, nu in zip(leaving.places, *columns, strict=True):
        assert leaf is not None and mu is not None and nu is not None
        path = leaving.paths[leaf] if name is None else name.replace(".", "/")
        if path in found:
            raise kind_at_leaf(path, "`names` calls two parameters so.")
        found[path] = (mu, nu)
    return found
