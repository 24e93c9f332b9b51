"""The pickles in a file of PyTorch, looked through before PyTorch loads them.

Its loader runs no code of a file, but one byte makes a list of 56 bytes, twelve bytes
make a bytearray of 2 GiB, and an encoding that doubles can be applied 30 times.
"""

import io
import mmap
import pickletools
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from optadamw.checkpoint.bounds import Bounds
from optadamw.dialects.files.refusing import DamagedFile

CONTAINER = 160
"""Bytes that a container takes, with what is noted of it when it is read here."""

CONTAINERS = {"MARK", "EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET", "REDUCE", "NEWOBJ"} | {
    f"TUPLE{count}" for count in ("", 1, 2, 3)
}
"""The opcodes that make one."""

OTHER = 60
"""Bytes that another opcode takes, which makes a number, say, or notes an object."""

DEFLATED = 1 << 20
"""Bytes of pickles that may be deflated, which PyTorch never does."""

IN_LEGACY = 5
"""The pickles before the numbers in a file of PyTorch before 1.6."""

FIRST = b"PK\x03\x04"
"""The first bytes of a zip file, by which PyTorch knows one."""

BYTES_TO_BYTES = re.compile(r"(base64|bz2|hex|quopri|quotedprintable|uu|zip|zlib)")
"""The encodings that can be applied to their own result."""


def check(path: Path, bounds: Bounds) -> None:
    """Refuse pickles of more objects than the limits allow, or of any size.

    Raises:
      DamagedFile: a bytearray, or an encoding of bytes.
      TooLarge: more objects.
      OSError, zipfile.BadZipFile: the file cannot be read.
    """
    if not bounds.is_limited:
        return
    with open(path, "rb") as file:
        is_legacy = file.read(len(FIRST)) not in (FIRST, b"")
        if is_legacy:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as source:
                _look_through(source, IN_LEGACY, bounds)
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        entries = [e for e in archive.infolist() if e.filename.endswith(".pkl")]
        bounds.check_text(sum(entry.file_size for entry in entries), DEFLATED)
        for entry in entries:
            _look_through(io.BytesIO(archive.read(entry)), 1, bounds)


def _look_through(source: Any, pickles: int, bounds: Bounds) -> None:
    size, checked = 0, 0
    encodes, encodings = False, set()
    for name, argument in _opcodes(source, pickles):
        size += CONTAINER if name in CONTAINERS else OTHER
        if size > checked + (1 << 20):
            bounds.check(size)
            checked = size
        if not isinstance(argument, str):
            continue
        if name == "GLOBAL":
            encodes |= argument == "_codecs encode"
            if argument.endswith(" bytearray"):
                raise _of_any_size(bounds, "a bytearray")
        elif len(argument) < 20:
            plain = re.sub(r"[^a-z0-9]", "", argument.lower()).removesuffix("codec")
            if BYTES_TO_BYTES.fullmatch(plain):
                encodings.add(argument)
    bounds.check(size)
    if encodes and encodings:
        raise _of_any_size(bounds, f"bytes in the encoding '{min(encodings)}'")


def _opcodes(source: Any, pickles: int) -> Iterator[tuple[str, Any]]:
    """Give the opcodes; at one that is none, PyTorch stops too, and says so."""
    for _ in range(pickles):
        opcodes = pickletools.genops(source)
        while True:
            try:
                opcode, argument, _ = next(opcodes)
            except StopIteration:
                break
            except Exception:  # more kinds than can be listed
                return
            yield opcode.name, argument


def _of_any_size(bounds: Bounds, what: str) -> DamagedFile:
    return DamagedFile(
        f"'{bounds.path}' has {what}, whose size cannot be known before it is made. "
        "Save optimizer.state_dict() alone, of plain tensors. If the file is from a "
        f"source that you trust, lift the limit: {bounds.remedy}."
    )
