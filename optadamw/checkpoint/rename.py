"""Translate the present path of a parameter to the path under which it was saved."""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping

from optadamw.base.errors import mistyped, near
from optadamw.checkpoint.names import parents

Renaming = Mapping[str, str | None] | Callable[[str], str | None] | None
"""Maps the present path of a parameter to its saved path; None: it starts afresh."""

_FORMS = "a mapping from new paths to old ones, or a function of the new path"


def old_paths(
    rename: Renaming,
    paths: Iterable[str],
    frozen: Iterable[str] = (),
    *,
    has_trees: bool = False,
) -> dict[str, str | None]:
    """Return the saved path of each present path.

    Args:
      rename: as `restore` takes it.
      paths: the present paths.
      frozen: more paths that `rename` may have: of parameters without buffers. Default:
        there are none.
      has_trees: whether trees of Optax around the State may have these, so that a
        function is asked for them too. Default: False.

    Raises:
      TypeError: `rename`, or a path in it, has a type that is not allowed.
      ValueError: a key is neither the path of a parameter nor of a subtree.
    """
    present = list(dict.fromkeys(paths))
    if rename is None:
        return {path: path for path in present}
    every = [*dict.fromkeys((*present, *frozen))]
    if isinstance(rename, Mapping):
        _check_keys(rename, every)
        return {path: _mapped(rename, path) for path in every}
    if not callable(rename):
        raise mistyped("rename", _FORMS, rename)
    asked = every if has_trees else present
    return {path: _text(rename(path)) for path in asked}


def is_replaced(path: str, rename: Renaming, old: Mapping[str, str | None]) -> bool:
    """Return whether new parameters take the place of a saved path.

    Args:
      path: a saved path.
      rename: as `params_of` takes it.
      old: the saved path of each present one, see `old_paths`.
    """
    chosen = rename if isinstance(rename, Mapping) else old
    around = (path, *parents(path))
    return any(one in chosen and chosen[one] is None for one in around)


def _mapped(rename: Mapping[str, str | None], path: str) -> str | None:
    """Translate a path by the longest key that is the path or one of its parents."""
    for key in (path, *parents(path)):
        if key in rename:
            old = _text(rename[key])
            return None if old is None else old + path[len(key) :]
    return path


def _check_keys(rename: Mapping[str, str | None], paths: list[str]) -> None:
    present, by_name = set(paths), sorted(paths)
    for key in rename:
        if not isinstance(key, str):
            raise mistyped("rename", _FORMS, key)
        place = bisect_left(by_name, f"{key}/")
        inside = [p for p in by_name[place : place + 1] if p.startswith(f"{key}/")]
        if key not in present and not inside:
            raise ValueError(
                f"`rename` has the key '{key}', which is neither a parameter nor a "
                "subtree. Its keys are present paths; near it: "
                f"{near(key, paths)}."
            )


def _text(path: str | None) -> str | None:
    if path is not None and not isinstance(path, str):
        raise mistyped("rename", _FORMS, path)
    return path
