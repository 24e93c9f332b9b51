"""Read and write checkpoints of Orbax, which are folders, if it is installed."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from optadamw.checkpoint.bounds import Bounds, nbytes
from optadamw.dialects.files.packages import needed
from optadamw.dialects.files.refusing import refusing


def read(path: Path, bounds: Bounds) -> Any:
    """Read a whole checkpoint as nested dicts and lists."""
    ocp = needed("orbax.checkpoint", "orbax-checkpoint", f"Reading the folder '{path}'")
    what = f"'{path}' is no whole checkpoint of Orbax"
    with refusing(what), ocp.PyTreeCheckpointer() as keeper:
        bounds.check(_announced(keeper.metadata(path.absolute())))
        try:
            return keeper.restore(path.absolute())
        except OSError as error:  # a part of the folder is missing
            raise ValueError(str(error)) from error


def _announced(metadata: Any) -> int:
    """Return the bytes of the arrays that the metadata of a checkpoint announce."""
    tree = getattr(metadata, "item_metadata", metadata)
    tree = getattr(tree, "tree", tree)
    shapes = [
        (leaf.shape, np.dtype(leaf.dtype).itemsize)
        for leaf in jax.tree.leaves(tree, is_leaf=lambda x: hasattr(x, "shape"))
        if getattr(leaf, "shape", None) is not None and leaf.dtype is not None
    ]
    return sum(nbytes(shape, itemsize) for shape, itemsize in shapes)


def write(path: Path, saved: Any) -> None:
    """Write a state to a folder, which Orbax replaces as a whole."""
    ocp = needed("orbax.checkpoint", "orbax-checkpoint", f"Writing the folder '{path}'")
    with ocp.PyTreeCheckpointer() as keeper:
        keeper.save(path.absolute(), saved, force=True)
