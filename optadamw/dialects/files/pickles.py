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
from itertools import chain
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

ENCODE = "_codecs encode"
FUNCTION = object()
"""The function of this name, where the stack is followed."""

PUTS, GETS = {"BINPUT", "LONG_BINPUT"}, {"BINGET", "LONG_BINGET"}
TUPLES = {"EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"}
FOLLOWED = TUPLES | {
    *("PROTO", "STOP", "GLOBAL", "BINPERSID", "REDUCE", "NEWOBJ", "BUILD"),
    *("EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET"),
    *("APPEND", "APPENDS", "SETITEM", "SETITEMS", "NONE", "NEWFALSE", "NEWTRUE"),
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINSTRING"),
}
"""The opcodes that PyTorch knows, with MARK, PUTS and GETS."""


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
    begin = source.tell()
    for opcode, argument in chain.from_iterable(_opcodes(source, pickles)):
        name = opcode.name
        size += CONTAINER if name in CONTAINERS else OTHER
        if size > checked + (1 << 20):
            bounds.check(size)
            checked = size
        if not isinstance(argument, str):
            continue
        if name == "GLOBAL":
            encodes |= argument == ENCODE
            if argument.endswith(" bytearray"):
                raise _of_any_size(bounds, "a bytearray")
        elif len(argument) < 20:
            plain = re.sub(r"[^a-z0-9]", "", argument.lower()).removesuffix("codec")
            if BYTES_TO_BYTES.fullmatch(plain):
                encodings.add(argument)
    bounds.check(size)
    if encodes and encodings:
        source.seek(begin)
        if not all(map(_encodes_plainly, _opcodes(source, pickles))):
            raise _of_any_size(bounds, f"bytes in the encoding '{min(encodings)}'")


Opcodes = Iterator[tuple[pickletools.OpcodeInfo, Any]]


def _opcodes(source: Any, pickles: int) -> Iterator[Opcodes]:
    """Give the opcodes of each pickle; PyTorch too stops at one that is none."""
    whole = True

    def of_one() -> Opcodes:
        nonlocal whole
        opcodes = pickletools.genops(source)
        while True:
            try:
                opcode, argument, _ = next(opcodes)
            except StopIteration:
                return
            except Exception:  # more kinds than can be listed
                whole = False
                return
            yield opcode, argument

    for _ in range(pickles):
        if whole:
            yield of_one()


def _encodes_plainly(opcodes: Opcodes) -> bool:
    """Whether a pickle encodes texts only as Python does for bytes, by "latin1".

    A configuration may have the text "hex" or "zip", and bytes beside it. The stack is
    followed with texts, tuples of up to three, and None for all else.
    """
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    try:
        return all(_is_plain(*step, stack, memo) for step in opcodes)
    except (IndexError, KeyError, TypeError, ValueError):
        return False  # PyTorch cannot load it either


def _is_plain(
    opcode: pickletools.OpcodeInfo, argument: Any, stack: list[Any], memo: dict
) -> bool:
    """Follow an opcode; False if the function that encodes is used otherwise."""
    name, before = opcode.name, opcode.stack_before
    if name in PUTS:
        memo[argument] = stack[-1]
        return True
    if name in GETS:
        stack.append(memo[argument])
        return True
    if name == "MARK":
        stack.append(pickletools.markobject)
        return True
    taken: list[Any] = []
    count = len(before)
    if pickletools.markobject in before:
        while (last := stack.pop()) is not pickletools.markobject:
            taken.append(last)
        count = before.index(pickletools.markobject)
    taken.reverse()
    taken = [stack.pop() for _ in range(count)][::-1] + taken
    if name == "REDUCE" and taken[0] is FUNCTION:
        _, encoding = taken[1] or (None, None)
        if encoding != "latin1":
            return False
    elif FUNCTION in taken:
        return False
    if name == "GLOBAL":
        stack.append(FUNCTION if argument == ENCODE else None)
    elif name in TUPLES:
        stack.append(tuple(taken) if len(taken) <= 3 else None)
    elif isinstance(argument, str):
        stack.append(argument)
    else:
        stack.extend([None] * len(opcode.stack_after))
    return name in FOLLOWED


def _of_any_size(bounds: Bounds, what: str) -> DamagedFile:
    return DamagedFile(
        f"'{bounds.path}' has {what}, whose size cannot be known before it is made. "
        "Save optimizer.state_dict() alone, of plain tensors. If the file is from a "
        f"source that you trust, lift the limit: {bounds.remedy}."
    )
