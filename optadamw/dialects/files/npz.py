"""Read and write NumPy's .npz files.

The outline of a state lies in the comments of the zip file's entries, which `np.load`
does not see: Keras counts the arrays of `load_own_variables`. In files of earlier
versions it is an array.
"""

import hashlib
import re
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from optadamw.checkpoint import zipped
from optadamw.checkpoint.arrays import plain
from optadamw.checkpoint.bounds import Bounds
from optadamw.dialects.files import packing
from optadamw.dialects.files.refusing import DamagedFile, refusing

_COMMENT = re.compile(rb"optadamw ([0-9a-f]{64})\n(.*)", re.DOTALL)
"""A comment that holds an outline: its SHA-256, and itself."""


def read(path: Path, bounds: Bounds) -> Any:
    """Read the arrays by their names, or the state that `write` packed."""
    with refusing(f"'{path}' is no whole .npz file"), open(path, "rb") as file:
        arrays = zipped.read(file, bounds, (packing.ENTRY,))
        comment = zipped.comment_in(file)
    # An outline whose first or last bytes were altered is still one of these two.
    is_ours = comment.startswith(b"optadamw ")
    if is_ours or (b'{"format": ' in comment and b'"sha256": {' in comment):
        return packing.unpacked(bounds, arrays, _outline(path, comment))
    outline = arrays.pop(packing.ENTRY, None)
    if outline is None:
        return arrays
    with refusing(f"The outline '{packing.ENTRY}' of '{path}' is damaged"):
        text = outline.astype(np.uint8).tobytes()
        return packing.unpacked(bounds, arrays, text.decode())


def _outline(path: Path, comment: bytes) -> str:
    found = _COMMENT.fullmatch(comment)
    if found is None or hashlib.sha256(found[2]).hexdigest() != found[1].decode():
        raise DamagedFile(
            f"The outline of '{path}', in the comments of its entries, was altered: "
            "its SHA-256 is another. Use another copy."
        )
    return found[2].decode()


def write(file: BinaryIO, saved: Any) -> None:
    """Write a state as arrays by their paths, with an outline of the rest."""
    arrays, outline = packing.packed(saved)
    text = outline.encode()
    comment = b"optadamw %s\n%s" % (hashlib.sha256(text).hexdigest().encode(), text)
    if len(comment) > zipped.room(len(arrays)):
        arrays, comment = arrays | {packing.ENTRY: np.frombuffer(text, np.uint8)}, b""
    with zipped.writing(file, comment) as add:
        for name, array in arrays.items():
            add(name, plain(array))
