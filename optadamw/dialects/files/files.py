"""Read and write the files in which states are kept, by their suffix.

.pt .pth                   PyTorch, if it is installed
.ckpt .bin .tar            read alone: PyTorch too, as trainers name its files
.safetensors               read and written here
.npz                       NumPy
.keras .h5 .hdf5           Keras's files, if h5py is installed
a folder                   Orbax, if it is installed
"""

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from optadamw.checkpoint.bounds import Bounds, check_regular
from optadamw.checkpoint.path import path_of
from optadamw.checkpoint.replacing import replacing
from optadamw.dialects.files import hdf5, npz, orbax, packing, safetensors, torch
from optadamw.dialects.files.refusing import DamagedFile

_DIGEST = "saved.sha256"
"""The entry of the metadata of .safetensors with the digest of the outline."""


def read(path: str | os.PathLike[str], is_limited: bool = True) -> Any:
    """Read a file into the mapping or list that a `from_` function takes.

    Args:
      path: the file, or the folder of Orbax.
      is_limited: whether a file that announces far more than its size is refused; see
        `Bounds`.

    Raises:
      OSError: there is no such file, it cannot be read, or is a pipe or a device.
      DamagedFile: the file is not whole, or not of the format that its name says.
      MissingPackage: reading it takes a package that is not installed.
      TooLarge: the file announces far more bytes of arrays than it has.
      ValueError: a name without a known suffix.
    """
    path = path_of(path)
    check_regular(path)
    bounds = Bounds(path, is_limited)
    if path.is_dir():
        return orbax.read(path, bounds)
    return _by_suffix(path, READERS)(path, bounds)


def write(path: str | os.PathLike[str], saved: Any) -> None:
    """Write a state to a file, which appears whole under its name, or not at all.

    Raises:
      OSError: the file cannot be written; a file that was there before stays.
      MissingPackage: writing it takes a package that is not installed.
      ValueError, TypeError: a state that such a file cannot hold.
    """
    path = path_of(path)
    if _is_folder(path):
        orbax.write(path, saved)
        return
    writer = _by_suffix(path, WRITERS)
    # The file behind a symbolic link is replaced, not the link.
    with replacing(Path(os.path.realpath(path))) as file:
        writer(file, saved)


def check_writable(path: Path) -> None:
    """Refuse a name of a file that cannot be written, before anything is read.

    Raises:
      ValueError: a name without a known suffix, or a folder that holds more than a
        checkpoint.
    """
    if _is_folder(path):
        orbax.check_replaceable(path)
    else:
        _by_suffix(path, WRITERS)


def check_readable(path: Path) -> None:
    """Refuse a name of a file that no reader knows.

    Raises:
      ValueError: a name without a known suffix.
    """
    if not path.is_dir():
        _by_suffix(path, READERS)


def _is_folder(path: Path) -> bool:
    """Whether a name is that of a folder of Orbax, such as "state", "v1.0"."""
    return not path.suffix.strip(".0123456789")


def _by_suffix(path: Path, table: Mapping[str, Callable[..., Any]]) -> Any:
    known = table.get(path.suffix.lower())
    if known is None:
        raise ValueError(
            f"'{path}' must be a folder, or have a name that ends in "
            f"{', '.join(table)}."
        )
    return known


def _read_safetensors(path: Path, bounds: Bounds) -> Any:
    arrays, metadata = safetensors.read(path, bounds)
    outline, digest = metadata.get(packing.ENTRY), metadata.get(_DIGEST)
    if outline is None and digest is None:
        return arrays
    if outline is None or digest != hashlib.sha256(outline.encode()).hexdigest():
        raise DamagedFile(
            f"The outline '{packing.ENTRY}' of '{path}' was altered: its SHA-256 is "
            f"not the one in '{_DIGEST}'. Use another copy."
        )
    return packing.unpacked(bounds, arrays, outline)


def _write_safetensors(file: BinaryIO, saved: Any) -> None:
    arrays, outline = packing.packed(saved)
    digest = hashlib.sha256(outline.encode()).hexdigest()
    safetensors.write(file, arrays, {packing.ENTRY: outline, _DIGEST: digest})


READERS = {
    **dict.fromkeys(torch.SUFFIXES, torch.read),
    ".safetensors": _read_safetensors,
    ".npz": npz.read,
    **dict.fromkeys(hdf5.SUFFIXES, hdf5.read),
}
WRITERS = {
    ".pt": torch.write,
    ".pth": torch.write,
    ".safetensors": _write_safetensors,
    ".npz": npz.write,
    ".h5": hdf5.write,
    ".hdf5": hdf5.write,
}
