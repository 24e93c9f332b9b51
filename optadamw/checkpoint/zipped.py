r"""Arrays by their names in one .npz file, which `np.load` reads too.

An array is the entry "<name>.npy", as `np.savez` writes it. Some names cannot be an
entry: a zip file cannot hold a NUL, a lone surrogate or more than 65,535 bytes,
`np.load` strips ".npy", and zipfile on Windows turns "\" into "/". An array with such a
name is the entry "optadamw.entry.<number>.npy", and "optadamw.names.npy" has its name.
"""

import json
import math
import re
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np

from optadamw.checkpoint.bounds import TEXT, Bounds

NAMES = "optadamw.names"
"""The entry with the names that a zip file cannot hold."""

_OURS = re.compile(r"optadamw\.(names|entry\.\d+)")

_LONGEST = 60_000
"""Bytes of a name or comment of an entry: 65,535, less the suffix and the folder of a
copy."""

_HEADERS: dict[tuple[int, int], Callable[..., Any]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def room(count: int) -> int:
    """Return the bytes of a comment that so many arrays can have beside them."""
    return count * _LONGEST


@contextmanager
def writing(
    file: BinaryIO, comment: bytes = b""
) -> Iterator[Callable[[str, np.ndarray], None]]:
    """Give a function that writes one array by its name, until the block ends.

    Args:
      file: the file.
      comment: bytes that `np.load` does not see, at most the `room` of the arrays. They
        lie in pieces with the entries. Default: none.
    """
    renamed: dict[str, str] = {}
    left = comment
    with zipfile.ZipFile(file, "w") as archive:

        def add(name: str, array: np.ndarray) -> None:
            nonlocal left
            entry = name
            if not _is_plain(name):
                entry = f"optadamw.entry.{len(renamed)}"
                renamed[entry] = name
            _write(archive, entry, array, left[:_LONGEST])
            left = left[_LONGEST:]

        yield add
        if renamed:
            text = json.dumps(renamed).encode()
            _write(archive, NAMES, np.frombuffer(text, np.uint8), left[:_LONGEST])
            left = left[_LONGEST:]
        if left:
            raise ValueError(f"{len(left)} bytes of the comment have no entry")


def _write(
    archive: zipfile.ZipFile, entry: str, array: np.ndarray, comment: bytes
) -> None:
    """Write one entry as np.savez does, but without a time stamp."""
    info = zipfile.ZipInfo(f"{entry}.npy")
    info.comment = comment
    with archive.open(info, "w", force_zip64=True) as target:
        np.lib.format.write_array(target, array, allow_pickle=False)


def read(
    file: BinaryIO, bounds: Bounds, texts: Collection[str] = ()
) -> dict[str, np.ndarray]:
    """Read the arrays by their names.

    Args:
      file: the file.
      bounds: the limits on the bytes of all arrays, which are checked before one is
        read.
      texts: the names of the entries that are text in JSON besides `NAMES`. Default:
        there are none.

    Raises:
      TooLarge: the file announces more than `bounds` allows.
      ValueError, zipfile.BadZipFile: the file is not whole, or holds other things.
    """
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if len({entry.filename for entry in entries}) != len(entries):
            raise ValueError("a name is there twice")
        for entry in entries:
            is_stored = entry.compress_type == zipfile.ZIP_STORED
            if is_stored and entry.compress_size != entry.file_size:
                raise ValueError(f"the size of '{entry.filename}' was altered")
        bounds.check(sum(entry.file_size for entry in entries))
        written = {f"{name}.npy" for name in (NAMES, *texts)}
        sizes = [entry.file_size for entry in entries if entry.filename in written]
        bounds.check_text(sum(sizes))
        found = {
            entry.filename.removesuffix(".npy"): _read(archive, entry)
            for entry in entries
        }
    for name in (NAMES, *texts):
        if name in found and found[name].nbytes > TEXT:
            bounds.check_json(found[name].tobytes())
    return _named(found)


def comment_in(file: BinaryIO) -> bytes:
    """Return the comment with which the entries of a zip file were written."""
    with zipfile.ZipFile(file) as archive:
        return b"".join(entry.comment for entry in archive.infolist())


def names_in(file: BinaryIO) -> list[str]:
    """Return the names of the entries of a zip file, without reading the arrays."""
    with zipfile.ZipFile(file) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def _read(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    if not entry.filename.endswith(".npy"):
        raise ValueError(f"the entry '{entry.filename}' is no array")
    with archive.open(entry) as source:
        version = np.lib.format.read_magic(source)
        if version not in _HEADERS:
            raise ValueError(f"'{entry.filename}' has the format {version} of .npy")
        shape, _, dtype = _HEADERS[version](source)
        if dtype.hasobject:
            raise ValueError(
                f"'{entry.filename}' has objects, which allow_pickle reads"
            )
        # The header alone decides how much memory NumPy takes.
        if source.tell() + math.prod(shape) * dtype.itemsize != entry.file_size:
            raise ValueError(
                f"'{entry.filename}' is {dtype}{list(shape)} in its header, and has "
                f"{entry.file_size} bytes"
            )
    with archive.open(entry) as source:
        array = np.lib.format.read_array(source, allow_pickle=False)
        source.read()  # to the end, at which zipfile compares the checksum
    return array


def _named(found: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    if NAMES not in found:
        return dict(found)
    renamed = names_by_entry(found[NAMES])
    return {
        renamed.get(entry, entry): array
        for entry, array in found.items()
        if entry != NAMES
    }


def names_by_entry(array: np.ndarray) -> dict[str, str]:
    """Read the entry `NAMES`: the name of the array in each entry that it lists.

    Raises:
      ValueError: it is no such list.
    """
    why = f"the entry '{NAMES}' is altered"
    try:
        found = json.loads(array.astype(np.uint8).tobytes())
    except (TypeError, RecursionError) as error:
        raise ValueError(why) from error
    if not isinstance(found, dict) or not all(
        isinstance(n, str) for n in found.values()
    ):
        raise ValueError(why)
    return found


def _is_plain(name: str) -> bool:
    try:
        size = len(name.encode())
    except UnicodeEncodeError:  # a lone surrogate
        return False
    is_taken = name.endswith(".npy") or _OURS.fullmatch(name)
    return size <= _LONGEST and not is_taken and not set(name) & {"\0", "\\"}
