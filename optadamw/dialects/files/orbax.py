"""Read and write checkpoints of Orbax, which are folders, if it is installed."""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from optadamw.checkpoint.bounds import Bounds, check_regular, nbytes
from optadamw.dialects.files.orbax_items import MARK, check_permitted, one_item
from optadamw.dialects.files.orbax_nnx import without_nnx
from optadamw.dialects.files.packages import needed
from optadamw.dialects.files.refusing import DamagedFile, refusing

MARKS = frozenset({MARK, "_CHECKPOINT_METADATA"})
"""The files of which each checkpoint of Orbax has one."""

MADE = MARKS | {
    *("_sharding", "_strings.json", "array_metadatas", "aggregate", "checkpoint"),
    *("commit_success.txt", "d", "manifest.ocdbt"),
}
"""The entries that Orbax makes in a folder, besides one for each process."""

STRUCTURES = frozenset({MARK, "aggregate", "checkpoint"})
"""The files that say what arrays a folder has; the last two are of old Orbax."""

TEXTS = MARKS | {"_sharding", "_strings.json", ".zarray", "zarr.json"}
"""The files of Orbax that are text in JSON, besides those of "array_metadatas"."""


def read(path: Path, bounds: Bounds) -> Any:
    """Read a whole checkpoint, or the only item in one, as nested dicts and lists.

    All arrays are read into NumPy's: those of JAX would need the devices on which the
    checkpoint was saved. The Variables of an `nnx.State` are their arrays.
    """
    ocp = needed("orbax.checkpoint", "orbax-checkpoint", f"Reading the folder '{path}'")
    path = one_item(path)
    bounds = replace(bounds, path=path)  # of the arrays that are read, and no others
    _check_entries(path, bounds)
    if STRUCTURES.isdisjoint(entry.name for entry in path.iterdir()):
        raise DamagedFile(
            f"'{path}' is no checkpoint of Orbax: neither it nor a folder in it has a "
            f"file '{MARK}', which says what arrays there are. Name the folder of a "
            "checkpoint, or of its steps."
        )
    what = f"'{path}' is no whole checkpoint of Orbax"
    with refusing(what), ocp.PyTreeCheckpointer() as keeper:
        tree = _tree(keeper.metadata(path.absolute()))
        bounds.check(_announced(tree))
        to_numpy, as_saved = ocp.RestoreArgs(restore_type=np.ndarray), ocp.RestoreArgs()
        args = jax.tree.map(
            lambda leaf: to_numpy if _is_array(leaf) else as_saved,
            tree,
            is_leaf=_is_array,
        )
        try:
            found = keeper.restore(path.absolute(), restore_args=args)
        except OSError as error:  # a part of the folder is missing
            raise ValueError(str(error)) from error
    return without_nnx(found)


def _check_entries(path: Path, bounds: Bounds) -> None:
    """Refuse pipes and devices, which Orbax would wait for, and links to other folders.

    Raises:
      DamagedFile: a link to what is not in the folder.
      OSError: a pipe, a socket or a device; or an entry that must not be read.
      TooLarge: text that takes far more memory than the folder has bytes.
    """
    root = path.resolve()
    check_permitted(path)
    for folder, folders, names in os.walk(path):
        for name in (*folders, *names):
            entry = Path(folder, name)
            if entry.is_symlink() and not entry.resolve().is_relative_to(root):
                raise DamagedFile(
                    f"'{entry}' is a link to what is not in the folder '{path}'. Only "
                    "folders that hold all of their arrays are read."
                )
            check_regular(entry)
            check_permitted(entry)
            if name in TEXTS or Path(folder).name == "array_metadatas":
                bounds.check_json(entry.read_bytes() if entry.is_file() else b"")


def _tree(metadata: Any) -> Any:
    """Return the tree in the metadata of a checkpoint, whose form depends on Orbax."""
    tree = getattr(metadata, "item_metadata", metadata)
    return getattr(tree, "tree", tree)


def _is_array(leaf: Any) -> bool:
    """Whether a leaf of the metadata is about an array or a number, and not a text."""
    return getattr(leaf, "shape", None) is not None


def _announced(tree: Any) -> int:
    """Return the bytes of the arrays that the metadata of a checkpoint announce."""
    shapes = [
        (leaf.shape, np.dtype(leaf.dtype).itemsize)
        for leaf in jax.tree.leaves(tree, is_leaf=_is_array)
        if _is_array(leaf) and leaf.dtype is not None
    ]
    return sum(nbytes(shape, itemsize) for shape, itemsize in shapes)


def check_replaceable(path: Path) -> None:
    """Refuse to replace a folder that holds more than a checkpoint of Orbax.

    Orbax removes the folder with all that is in it.

    Raises:
      ValueError: it does, or it is a link, or the working directory is in it.
    """
    if path.is_symlink():
        raise ValueError(f"'{path}' is a link. Name the folder itself.")
    if not path.is_dir():
        return
    if Path.cwd().is_relative_to(path.resolve()):
        raise ValueError(
            f"'{path}' holds the working directory, and would be removed. Name another "
            "folder."
        )
    names = sorted(entry.name for entry in path.iterdir())
    others = [n for n in names if n not in MADE and not n.startswith("ocdbt.process_")]
    if others or (names and not MARKS & set(names)):
        raise ValueError(
            f"'{path}' is no checkpoint of Orbax alone: it holds "
            f"'{(others or names)[0]}', which would be removed with all else in it. "
            "Name a new folder, or a file: .npz, .safetensors, .pt."
        )


def write(path: Path, saved: Any) -> None:
    """Write a state to a folder, which appears whole under its name, or not at all.

    Orbax itself removes the old folder before it writes the new one.

    Raises:
      OSError: the folder cannot be written; one that was there before stays.
      ValueError: as `check_replaceable`.
    """
    check_replaceable(path)
    ocp = needed("orbax.checkpoint", "orbax-checkpoint", f"Writing the folder '{path}'")
    path = path.absolute()
    new, old = (  # with an end, as a process may have the number 123 and another 1234
        path.with_name(f".{path.name}.{what}-{os.getpid()}-") for what in ("new", "old")
    )
    try:
        with ocp.PyTreeCheckpointer() as keeper:
            keeper.save(new, saved, force=True)
        if path.is_dir():
            path.rename(old)
        new.rename(path)
    finally:
        if old.is_dir() and not path.exists():
            old.rename(path)
        for left in list(path.parent.iterdir()) if path.parent.is_dir() else ():
            # Orbax writes beside a folder, under its name and more.
            if left == old or left.name.startswith(new.name):
                shutil.rmtree(left, ignore_errors=True)
