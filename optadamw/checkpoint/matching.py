"""Match the leaves of a new state with the saved leaves."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

from optadamw.base.errors import at_leaf, near
from optadamw.checkpoint.names import AROUND, PARAMS, Name, is_in, parents
from optadamw.store.state import is_buffer


def matched(
    names: Sequence[Name],
    saved: Collection[str],
    fresh: Mapping[str, Collection[str]],
    old: Mapping[str, str | None],
) -> list[str | None]:
    """Return for each new leaf the name of its saved leaf; None: it starts afresh.

    Args:
      names: the leaves of the new state.
      saved: the names of the saved leaves.
      fresh: by scope, the fields that start afresh although they were saved.
      old: the saved path of each parameter by its present one, see `old_paths`.

    Raises:
      ValueError: a leaf was not saved and a saved leaf of its buffer has no place, so
        that the parameter may have been renamed; or `rename` gives a path that was not
        saved.
    """
    saved = dict.fromkeys(saved)  # ordered as before, and found by hash
    by_name, was = sorted(saved), set(old.values())
    found: list[str | None] = []
    for name in names:
        if name.field in fresh.get(name.scope, ()):
            found.append(None)
            continue
        path = old[name.path] if is_renamable(name) else name.path
        if is_around(name):
            path = _old_around(name, old, was, saved)
        source = None if path is None else str(name._replace(path=path))
        if source is not None and source not in saved:
            # A parameter that was frozen was saved without buffers.
            was_frozen = str(Name(PARAMS, "", path or "")) in saved
            if path != name.path and not was_frozen:
                raise at_leaf(
                    str(name),
                    f"`rename` takes it from '{source}', which was not saved.",
                    f"Saved names near it: {near(source, saved)}.",
                )
            _check_form(str(name), saved, by_name)
            source = None
        found.append(source)
    _check_losses(names, found, saved, fresh, old)
    return found


def _old_around(
    name: Name,
    old: Mapping[str, str | None],
    was: Collection[str | None],
    saved: Collection[str],
) -> str | None:
    """Return the saved path of a leaf of an Optax wrapper.

    Optax keeps trees of the parameters too, such as the gradients that `MultiSteps` has
    accumulated, so the path of a leaf may end with that of a renamed parameter.
    """
    parts = name.path.split("/")
    for start in range(1, len(parts)):
        tail = "/".join(parts[start:])
        if tail in old:
            # The longest end: "part/w" is another parameter than "w".
            own = old[tail]
            if own is None:
                return None
            path = "/".join([*parts[:start], own])
            if str(name._replace(path=path)) in saved:
                return path
            # It was not saved, or the leaf is none of a parameter.
            return None if tail in was else name.path
    return name.path


def is_renamable(name: Name) -> bool:
    """Return whether the path of a leaf is the path of a parameter."""
    return name.scope == PARAMS or is_buffer(name.field)


def _check_form(name: str, saved: Collection[str], by_name: Sequence[str]) -> None:
    """Refuse a buffer that was saved as another number of leaves.

    A search in the sorted names instead of a look at each: a state may have thousands
    of new leaves beside thousands that were saved.
    """
    place = bisect_left(by_name, f"{name}/")
    others = [n for n in by_name[place : place + 1] if n.startswith(f"{name}/")]
    others += [parent for parent in reversed(parents(name)) if parent in saved]
    if others:
        raise at_leaf(
            name,
            f"it was saved in another form, as '{others[0]}'.",
            "Restore into the form that it had, or start its field afresh.",
        )


def _check_losses(
    names: Sequence[Name],
    found: Sequence[str | None],
    saved: Collection[str],
    fresh: Mapping[str, Collection[str]],
    old: Mapping[str, str | None],
) -> None:
    """Refuse a buffer with leaves that are new and saved leaves that have no place."""
    used = {source for source in found if source is not None}
    new = defaultdict(list)
    for name, source in zip(names, found, strict=True):
        starts = name.field in fresh.get(name.scope, ())
        asked = starts or not is_renamable(name) or old[name.path] is None
        if source is None and not asked:
            new[name.scope, name.field].append(name)
    for (scope, field), leaves in new.items():
        prefix = str(Name(scope, field, "")) + "/"
        lost = [n for n in saved if n.startswith(prefix) and n not in used]
        if lost:
            path, was = leaves[0].path, lost[0].removeprefix(prefix)
            near_it = near(path, [n.removeprefix(prefix) for n in lost])
            raise at_leaf(
                str(leaves[0]),
                f"it was not saved, and '{lost[0]}' has no place here: a parameter may "
                "have been renamed.",
                f"Say which it was, rename={{{path!r}: {was!r}}} (left over: "
                f"{near_it}), or that it is new, rename={{{path!r}: None}}.",
            )


def left_over(saved: Collection[str], used: Collection[str]) -> tuple[str, ...]:
    """Return the saved leaves of a state that were not used."""
    return tuple(name for name in saved if name not in used and not is_in(name, PARAMS))


def is_around(name: Name) -> bool:
    """Return whether a leaf belongs to an Optax wrapper around the State."""
    return name.scope == AROUND
