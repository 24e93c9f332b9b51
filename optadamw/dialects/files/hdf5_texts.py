"""Texts of variable length in the attributes of a file of HDF5, read under a limit.

h5py makes such an attribute of each text and list of texts. HDF5 takes the bytes that
a text announces, up to 4 GiB, before it compares them with those of the file, and takes
them again for each reference to one text. Here both are compared and counted first.
The layout is that of the HDF5 File Format Specification, version 3: headers of objects
(IV.A.1), attributes (IV.A.2.m) and global heaps (III.E).
"""

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from optadamw.checkpoint.bounds import Bounds
from optadamw.dialects.files.refusing import DamagedFile

ATTRIBUTE, CONTINUATION, ATTRIBUTES = 0x0C, 0x10, 0x15
"""The messages of an object header that are looked at, by their numbers."""

SHARED = 2
"""The flag of a message that lies elsewhere."""

UNDEFINED = (1 << 64) - 1

REFERENCE = struct.Struct("<IQI")
"""The length of a text, its collection, and its number there."""

ENTRY = 1 << 10
"""Bytes that are counted for a text, or a part of a header, besides its own."""

MESSAGES = 16
"""How often the bytes of an object header are counted, for messages of 8 bytes."""


class Texts:
    """The texts of an open file."""

    def __init__(
        self, file: Any, source: Path | BinaryIO, bounds: Bounds, take: Callable
    ) -> None:
        self._source = source
        self._bounds = bounds
        self._take = take
        made = file.id.get_create_plist()
        self._base = made.get_userblock()
        self._is_usual = made.get_sizes() == (8, 8)
        self._collections: dict[int, dict[int, bytes]] = {}

    def read(self, place: int, name: str, count: int) -> list[str]:
        """Return the texts of an attribute.

        Args:
          place: the address of the node.
          name: the name of the attribute.
          count: the number of texts.
        """
        if not self._is_usual:
            raise self._unread(name)
        try:
            if isinstance(self._source, Path):
                with self._source.open("rb") as file:
                    return self._texts(file, place, name, count)
            return self._texts(self._source, place, name, count)
        except (IndexError, struct.error) as error:
            raise self._damaged(name) from error

    def _texts(self, file: BinaryIO, place: int, name: str, count: int) -> list[str]:
        """Return the `count` texts to which an attribute of an open file refers."""
        data = self._data(file, place, name)
        if len(data) < count * REFERENCE.size:
            raise self._damaged(name)
        found: list[bytes] = []
        references = REFERENCE.iter_unpack(data[: count * REFERENCE.size])
        for length, address, number in references:
            text = b""
            if address:
                if address not in self._collections:
                    self._collections[address] = self._collection(file, address, name)
                held = self._collections[address].get(number)
                if held is None or len(held) != length:
                    raise self._damaged(name)
                text = held
            found.append(text)
        self._take(sum(map(len, found)))
        return [text.split(b"\0", 1)[0].decode() for text in found]

    def _data(self, file: BinaryIO, place: int, name: str) -> bytes:
        """Return the bytes of an attribute, which are its references."""
        found: list[bytes] = []
        for kind, flags, body in self._messages(file, place, name):
            if kind == ATTRIBUTES:
                # In an index, with the version of HDF5 as "latest": none of Keras.
                heap = 2 + 2 * (body[1] & 1)
                if int.from_bytes(body[heap : heap + 8], "little") != UNDEFINED:
                    raise self._unread(name)
            if kind != ATTRIBUTE:
                continue
            if flags & SHARED:
                raise self._unread(name)
            version, _, *sizes = struct.unpack_from("<BBHHH", body)
            unit = 8 if version == 1 else 1
            at = 9 if version == 3 else 8
            if body[at : at + sizes[0]].split(b"\0", 1)[0] == name.encode():
                found.append(body[at + sum(-(-n // unit) * unit for n in sizes) :])
        if len(found) != 1:
            raise self._damaged(name)
        return found[0]

    def _messages(
        self, file: BinaryIO, place: int, name: str
    ) -> Iterator[tuple[int, int, bytes]]:
        """Yield the kinds, flags and bytes of the messages of an object header."""
        head = self._bytes(file, place, 16, name)
        is_new = head[:4] == b"OHDR"
        if is_new:
            flags = head[5]
            width = 1 << (flags & 3)
            start = 6 + 16 * (flags >> 5 & 1) + 4 * (flags >> 4 & 1)
            size = int.from_bytes(
                self._bytes(file, place + start, width, name), "little"
            )
            start, lead = start + width, 6 if flags & 4 else 4
        else:
            size, start, lead = int.from_bytes(head[8:12], "little"), 16, 8
        blocks = [(place + start, size)]
        seen = set(blocks)
        while blocks:
            address, size = blocks.pop()
            self._take(ENTRY + MESSAGES * size)
            block = self._bytes(file, address, size, name)
            at = 0
            while at + lead <= len(block):
                kind, length, flags = struct.unpack_from(
                    "<BHB" if is_new else "<HHB", block, at
                )
                body = block[at + lead : at + lead + length]
                at += lead + length
                if kind != CONTINUATION:
                    yield kind, flags, body
                    continue
                more, size = struct.unpack_from("<QQ", body)
                if is_new:  # between a signature and a sum of 4 bytes each
                    more, size = more + 4, size - 8
                if (more, size) in seen or size < 0:
                    raise self._damaged(name)
                seen.add((more, size))
                blocks.append((more, size))

    def _collection(self, file: BinaryIO, address: int, name: str) -> dict[int, bytes]:
        """Return the texts of a collection of a global heap."""
        head = self._bytes(file, address, 16, name)
        if head[:5] != b"GCOL\x01":
            raise self._damaged(name)
        size = int.from_bytes(head[8:], "little")
        data = self._bytes(file, address, size, name)
        self._take(size)
        found: dict[int, bytes] = {}
        at = 16
        while at + 16 <= size:
            number, _, _, length = struct.unpack_from("<HHIQ", data, at)
            if number == 0:  # what is free, with its own 16 bytes
                at += max(length, 16)
                continue
            found[number] = data[at + 16 : at + 16 + length]
            at += 16 + -(-length // 8) * 8
        self._take(ENTRY * len(found))
        return found

    def _bytes(self, file: BinaryIO, address: int, size: int, name: str) -> bytes:
        self._take(size)
        if self._base + address >= 1 << 62:
            raise self._damaged(name)
        file.seek(self._base + address)
        found = file.read(size)
        if len(found) != size:
            raise self._damaged(name)
        return found

    def _damaged(self, name: str) -> DamagedFile:
        """Build the error for an attribute whose parts contradict one another."""
        return DamagedFile(
            f"'{self._bounds.path}' is damaged where its attribute '{name}' has text."
        )

    def _unread(self, name: str) -> DamagedFile:
        """Build the error for an attribute in a form that no Keras writes."""
        return DamagedFile(
            f"'{self._bounds.path}' keeps the text of its attribute '{name}' as Keras "
            "does not. If the file is from a source that you trust, lift the limit: "
            f"{self._bounds.remedy}."
        )
