"""Read and write NumPy's .npz files."""

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from optadamw.checkpoint import zipped
from optadamw.checkpoint.arrays import plain
from optadamw.checkpoint.bounds import Bounds
from optadamw.dialects.files import packing
from optadamw.dialects.files.refusing import refusing


def read(path: Path, bounds: Bounds) -> Any:
    """Read the arrays by their names, or the state that `write` packed."""
    with refusing(f"'{path}' is no whole .npz file"), open(path, "rb") as file:
        arrays = zipped.read(file, bounds.check)
    outline = arrays.pop(packing.ENTRY, None)
    if outline is None:
        return arrays
    with refusing(f"The outline '{packing.ENTRY}' of '{path}' is damaged"):
        text = outline.astype(np.uint8).tobytes().decode()
    return packing.unpacked(path, arrays, text)


def write(file: BinaryIO, saved: Any) -> None:
    """Write a state as arrays by their paths, with an outline of the rest."""
    arrays, outline = packing.packed(saved)
    with zipped.writing(file) as add:
        for name, array in arrays.items():
            add(name, plain(array))
        add(packing.ENTRY, np.frombuffer(outline.encode(), np.uint8))
