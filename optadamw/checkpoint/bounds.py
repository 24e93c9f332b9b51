"""Limits on a file from a stranger, checked before its arrays take memory.

A file of 4 MB can inflate to 4 GiB, or declare an array of 6 GiB without a byte of it.
Such sizes stand in headers, which are read first.
"""

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SMALL = 1 << 28
"""Bytes of arrays that every file may hold, whatever its size: 256 MiB."""

RATIO = 20
"""How often a larger file may hold its own size. Compressed moments that are all zero
reach 1,000; those of a run that took steps stay below 2."""


TEXT = 1 << 23
"""Bytes of text in JSON that every file may hold: 8 MiB. Read, it takes 28 times as
many in the worst case, which is 240 MB."""

COSTS = {b"{": 64, b"[": 72, b",": 10, b":": 90, b'"': 24}
"""Bytes that Python takes for what these begin or end, besides 4 for each byte. Text
that other libraries write takes 5 to 11 times its size, and is counted as 12 to 21."""


class TooLarge(ValueError):
    """A file holds more bytes of arrays than its size lets expect."""


@dataclass(frozen=True)
class Bounds:
    """The limits that hold for one file."""

    path: Path
    is_limited: bool = True
    remedy: str = "`--no-limit`"
    """The option that lifts the limits."""

    def check(self, size: int) -> None:
        """Refuse a file whose headers announce more than the limits allow.

        Args:
          size: bytes of all arrays, as the headers have them.

        Raises:
          TooLarge: more than 256 MiB, and more than 20 times the size of the file.
        """
        if not self.is_limited or size <= SMALL:
            return  # without a look at the file: sizes are checked for each part of it
        length = _length(self.path)
        if size > RATIO * length:
            raise TooLarge(
                f"'{self.path}' has {length:,} bytes and announces arrays of "
                f"{size:,} bytes, more than {RATIO} times as many. {self._remedy}"
            )

    def check_text(self, size: int, least: int = TEXT) -> None:
        """Refuse text that was deflated, before it is inflated.

        No library deflates the text that describes arrays, so that a file is larger.

        Args:
          size: bytes of the text.
          least: bytes that every file may hold. Default: 8 MiB.

        Raises:
          TooLarge: more than that, and more than the file has.
        """
        if self.is_limited and size > max(least, _length(self.path)):
            raise TooLarge(
                f"'{self.path}' has {size:,} bytes of text that describe its arrays, "
                f"more than {least >> 20} MiB and more than the file. {self._remedy}"
            )

    def check_json(self, text: bytes | str) -> None:
        """Refuse text in JSON that takes much more memory than the file has bytes.

        Raises:
          TooLarge: more than 8 MiB, and more than 256 MiB and 20 times the size of the
            file once it is parsed, by an estimate.
        """
        if not self.is_limited or len(text) <= TEXT:
            return
        data = text.encode() if isinstance(text, str) else text
        self.check_text(len(data))
        size = 4 * len(data) + sum(n * data.count(sign) for sign, n in COSTS.items())
        length = _length(self.path)
        if size > max(SMALL, RATIO * length):
            raise TooLarge(
                f"'{self.path}' has {len(data):,} bytes of text that describe its "
                f"arrays and take about {size:,} bytes when they are read, more than "
                f"{RATIO} times as many as the {length:,} of the file. {self._remedy}"
            )

    @property
    def _remedy(self) -> str:
        return (
            "If the file is from a source that you trust, lift the limit: "
            f"{self.remedy}."
        )


def check_regular(path: Path) -> None:
    """Refuse what is neither a file nor a folder: reading a pipe or device never ends.

    Raises:
      FileNotFoundError: there is nothing at `path`.
      OSError: a pipe, a socket or a device, or a link to one.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError as error:
        raise FileNotFoundError(f"There is no file '{path}'.") from error
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OSError(
            f"'{path}' is {kind_of(mode)}, and no regular file. Copy it to a file "
            "first."
        )


def nbytes(shape: Sequence[int], itemsize: int) -> int:
    """Return the bytes of an array; Python's whole numbers do not overflow."""
    size = itemsize
    for length in shape:
        size *= int(length)
    return size


def kind_of(mode: int) -> str:
    """Return what a path leads to that is neither a file nor a folder, in words."""
    for is_kind, name in (
        (stat.S_ISFIFO, "a pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
    ):
        if is_kind(mode):
            return name
    return "something else"


def _length(path: Path) -> int:
    if path.is_dir():
        return sum(p.lstat().st_size for p in path.rglob("*") if not p.is_dir())
    return path.stat().st_size
