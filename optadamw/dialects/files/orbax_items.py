"""The items in a folder of Orbax: its state may lie one or two folders deeper.

CheckpointManager writes `10/default`, or `10/<name>` for each item of step 10, and the
functions of `orbax.checkpoint.v1` write `state`, or `<name>` for each. Only the folder
of an item holds arrays.
"""

import os
import re
from pathlib import Path

from optadamw.base.errors import near
from optadamw.dialects.files.refusing import DamagedFile

MARK = "_METADATA"
"""The file that each folder with arrays has."""

PARAMS = "params"
"""The usual name of the item, or entry, of the parameters."""

UNFINISHED = ".orbax-checkpoint-tmp"
"""A part of the names of folders that Orbax has not written to their end."""

OTHERS = "lost+found"
"""The folder that a file system makes beside the steps, which only root reads."""

SHOWN = 6
"""The number of items that an error names."""


def items_in(path: Path) -> list[Path]:
    """Return the folders with arrays: `path` itself, or those one or two deeper.

    Raises:
      OSError: a folder that must not be read, and may be an item.
    """
    if _is_item(path):
        return [path]
    found: list[Path] = []
    for folder in _folders(path):
        if _is_item(folder):
            found.append(folder)
        elif not folder.is_symlink():  # such as `latest`, which leads to a step again
            found += filter(_is_item, _folders(folder))
    return found


def check_permitted(path: Path) -> None:
    """Refuse a file or folder that the user must not read.

    Raises:
      OSError: the permission is missing.
    """
    if not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0)):
        raise OSError(
            f"'{path}' cannot be read (Permission denied). Ask its owner for the "
            "permission, or name the folder of another item."
        )


def one_item(path: Path) -> Path:
    """Return the only item of a folder; `path` itself if it has none.

    Raises:
      DamagedFile: the item is a link to another folder.
      ValueError: several items.
    """
    items = items_in(path)
    if len(items) > 1:
        names = [_key(path, item) for item in items]
        shown = ", ".join(f"'{name}'" for name in names[:SHOWN])
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        states = [
            n for n, item in zip(names, items, strict=True) if item.name != PARAMS
        ]
        last = (states or names)[-1]
        raise ValueError(
            f"'{path}' holds {len(items)} items of Orbax: {shown}{more}. Name one, "
            f"such as '{path / last}', or for the state `--key {last}`."
        )
    return _own(path, items[0]) if items else path


def by_key(path: Path, key: str) -> tuple[Path, str | None]:
    """Return the item that a key begins with, and the rest of the key.

    Returns:
      `path` and the key as they are, if the folder has no items in it.

    Raises:
      DamagedFile: the item is a link to another folder.
      ValueError: several items, and the key names none.
    """
    items = items_in(path)
    for item in items:
        name = _key(path, item)
        if item != path and f"{key}/".startswith(f"{name}/"):
            return _own(path, item), key[len(name) + 1 :] or None
    if len(items) > 1:
        names = [_key(path, item) for item in items]
        raise ValueError(
            f"`--key`: '{path}' holds no item '{key}'. Near it: {near(key, names)}."
        )
    return path, key


def item_called(name: str, path: Path, beside: Path | None = None) -> Path | None:
    """Return the only item of this name in a folder, or None.

    Args:
      name: the name.
      path: the folder.
      beside: an item that is in the same folder. Default: in any.

    Raises:
      DamagedFile: the item is a link to another folder.
    """
    found = [
        item
        for item in items_in(path)
        if item != path
        and item.name == name
        and (beside is None or item.parent == beside.parent)
    ]
    return _own(path, found[0]) if len(found) == 1 else None


def _is_item(path: Path) -> bool:
    """Whether a folder has arrays of its own."""
    check_permitted(path)
    return os.path.lexists(path / MARK)


def _folders(path: Path) -> list[Path]:
    """Return the whole folders in a folder, steps in the order of their numbers."""
    found = [
        folder
        for folder in path.iterdir()
        if folder.is_dir() and UNFINISHED not in folder.name and folder.name != OTHERS
    ]
    return sorted(found, key=lambda folder: _by_number(folder.name))


def _by_number(name: str) -> list[tuple[int, str]]:
    parts = re.findall(r"[0-9]+|[^0-9]+", name)
    return [(int(p) if p.isascii() and p.isdigit() else -1, p) for p in parts]


def _own(path: Path, item: Path) -> Path:
    """Return an item; refuse a link to what is not in the folder."""
    if not item.resolve().is_relative_to(path.resolve()):
        raise DamagedFile(
            f"'{item}' is a link to what is not in the folder '{path}'. Name the "
            "folder itself."
        )
    return item


def _key(path: Path, item: Path) -> str:
    return item.relative_to(path).as_posix()
