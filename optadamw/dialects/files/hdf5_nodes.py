"""Read groups, attributes and arrays of a file of HDF5 within the limits on its size.

HDF5 has no such limits: a file of 3 KB can announce 33 million chunks, each of which
takes 350 bytes, and one of 1 MB can refer 4,096 times to one text of 1 MB. Keras writes
neither. Bytes are counted by the headers of the file before HDF5 takes them.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import jax.numpy as jnp
import numpy as np

from optadamw.checkpoint.arrays import digests
from optadamw.checkpoint.bounds import Bounds, nbytes
from optadamw.dialects.files.hdf5_chunks import check_chunks
from optadamw.dialects.files.hdf5_texts import Texts
from optadamw.dialects.files.packages import needed
from optadamw.dialects.files.refusing import DamagedFile

DIGEST = "optadamw_sha256"
"""The attribute of a dataset with its digest, in the files that are written here."""

NODE = 6 << 10
"""Bytes that a member of a group takes with its array: 600 and its name."""

CHUNK = 1 << 12
"""Bytes that HDF5 takes for a chunk of an array that is read: 350."""

NUMBERS = "biufcV"
"""The kinds of dtypes without text, objects and references; bfloat16 is a V."""


class Nodes:
    """An open file, and the bytes that what was found in it takes."""

    def __init__(self, file: Any, source: Path | BinaryIO, bounds: Bounds) -> None:
        self._h5py = needed("h5py", "h5py", f"Reading '{bounds.path}'")
        self.file = file
        self.bounds = bounds
        self.taken = 0
        self._kept = Texts(file, source, bounds, self.take)

    def take(self, size: int) -> None:
        """Count bytes.

        Raises:
          TooLarge: the file holds more than its limits allow.
        """
        self.taken += size
        self.bounds.check(self.taken)

    def names(self, group: Any) -> list[str]:
        """Return the names of the members of a group."""
        self.bounds.check(self.taken + len(group) * NODE)
        found: list[str] = []

        def add(name: bytes) -> None:
            self.take(NODE + len(name))  # members can share the bytes of a long name
            found.append(name.decode("utf-8", "surrogateescape"))

        group.id.links.iterate(add)
        return found

    def child(self, group: Any, name: str) -> Any:
        """Return a member of a group; None without. Links elsewhere are refused."""
        if name not in group:
            return None
        self._check_link(group, name)
        return group[name]

    def _check_link(self, group: Any, name: str) -> None:
        """Refuse a link to another file, and one by a path.

        Raises:
          KeyError: there is no such member.
        """
        h5l = self._h5py.h5l
        kind = group.id.links.get_info(name.encode()).type
        if kind == h5l.TYPE_SOFT:
            raise DamagedFile(
                f"'{self.bounds.path}' has a link in place of '{name}', which Keras "
                "does not write. Only files that hold their arrays by name are read."
            )
        if kind != h5l.TYPE_HARD:
            file = group.get(name, getlink=True).filename
            raise DamagedFile(
                f"'{self.bounds.path}' links to another file, '{file}', under "
                f"'{name}'. Only files that hold all of their arrays are read."
            )

    def group(self, parent: Any, name: str) -> Any:
        """Return a group in a group; None without."""
        found = self.child(parent, name)
        if found is not None and not self.is_group(found):
            raise DamagedFile(
                f"'{self.bounds.path}' has an array in place of '{name}'."
            )
        return found

    def is_group(self, node: Any) -> bool:
        """Return whether a node holds other nodes, as a folder does."""
        return isinstance(node, self._h5py.Group)

    def is_array(self, node: Any) -> bool:
        """Return whether a node is an array."""
        return isinstance(node, self._h5py.Dataset)

    def place(self, node: Any) -> int:
        """Return where a node lies in the file, under whatever name it was found."""
        return int(self._h5py.h5o.get_info(node.id).addr)

    def text(self, node: Any, name: str) -> str | None:
        """Return an attribute that is one text; None without."""
        if name not in node.attrs:
            return None
        held = node.attrs.get_id(name)
        if held.shape != () or self._h5py.check_string_dtype(held.dtype) is None:
            raise DamagedFile(
                f"'{self.bounds.path}' has something else than one text in its "
                f"attribute '{name}'."
            )
        return self._read_texts(node, name, held)[0]

    def texts(self, node: Any, name: str) -> list[str]:
        """Return an attribute that is a list of texts.

        Keras cuts more than 64,512 bytes into the attributes name0, name1, ...

        Raises:
          KeyError: there is none.
        """
        if name in node.attrs:
            return self._texts(node, name)
        found = self._texts(node, f"{name}0")
        number = 1
        while f"{name}{number}" in node.attrs:
            found += self._texts(node, f"{name}{number}")
            number += 1
        return found

    def _texts(self, node: Any, name: str) -> list[str]:
        """Return the texts of an attribute of a node, within the limit on memory."""
        held = node.attrs.get_id(name)
        shape: Sequence[int] = held.shape or ()
        size = nbytes(shape, held.dtype.itemsize)
        is_text = self._h5py.check_string_dtype(held.dtype) is not None
        if len(shape) != 1 or (size and not is_text):
            raise DamagedFile(
                f"'{self.bounds.path}' has something else than a list of names in its "
                f"attribute '{name}'."
            )
        self.take(size + NODE * shape[0])
        return self._read_texts(node, name, held) if size else []

    def _read_texts(self, node: Any, name: str, held: Any) -> list[str]:
        """Return the texts of an attribute, which has one or a list of one axis."""
        if held.dtype.kind == "O" and self.bounds.is_limited:
            count = held.shape[0] if held.shape else 1
            return self._kept.read(self.place(node), name, count)
        found = np.atleast_1d(np.asarray(node.attrs[name], object))
        return [text.decode() if isinstance(text, bytes) else text for text in found]

    def announce(self, group: Any, name: str) -> None:
        """Count the bytes of an array by its header, before it is read.

        Raises:
          DamagedFile: there are no numbers under this path, or in another file.
          KeyError: there is nothing.
        """
        found = self._array(group, name)
        made = found.get_create_plist()
        layout, h5d = made.get_layout(), self._h5py.h5d
        if layout == h5d.VIRTUAL or made.get_external_count():
            raise DamagedFile(
                f"'{self.bounds.path}' keeps the numbers of '{name}' in other files. "
                "Only files that hold all of their arrays are read."
            )
        shape, dtype = found.shape, found.dtype
        if shape is None:
            raise self._no_array(name)
        if dtype.hasobject or dtype.base.kind not in NUMBERS:
            raise DamagedFile(
                f"'{self.bounds.path}' has {dtype} under '{name}', which are no "
                "numbers."
            )
        if layout != h5d.CHUNKED:
            self.take(nbytes(shape, dtype.itemsize))
            return
        chunk = made.get_chunk()
        counts = [-(-n // part) for n, part in zip(shape, chunk, strict=True)]
        # HDF5 reads the whole of a chunk, also of one that is larger than its array.
        size = nbytes(chunk, dtype.itemsize)
        self.take(math.prod(counts) * (size + CHUNK))
        if self.bounds.is_limited:
            check_chunks(name, found, made, self.bounds)

    def _array(self, group: Any, name: str) -> Any:
        """Open an array by HDF5's own functions: h5py's take six times as long."""
        *parts, last = name.split("/")
        for part in parts:
            group = self.group(group, part)
            if group is None:
                raise KeyError(name)
        self._check_link(group, last)
        found = self._h5py.h5o.open(group.id, last.encode())
        if not isinstance(found, self._h5py.h5d.DatasetID):
            raise self._no_array(name)
        return found

    def _no_array(self, name: str) -> DamagedFile:
        return DamagedFile(f"'{self.bounds.path}' has no array under '{name}'.")

    def read(self, places: Mapping[str, str]) -> dict[str, np.ndarray]:
        """Read arrays that were announced, by their paths, and compare digests."""
        arrays: dict[str, np.ndarray] = {}
        kept: dict[str, str] = {}
        h5py = self._h5py
        for name, path in places.items():
            found = h5py.h5d.open(self.file.id, path.encode())
            arrays[name] = np.empty(found.shape, found.dtype)
            if arrays[name].size:
                found.read(h5py.h5s.ALL, h5py.h5s.ALL, arrays[name])
            if h5py.h5a.exists(found, DIGEST.encode()):
                kept[name] = self.text(h5py.Dataset(found), DIGEST) or ""
            elif arrays[name].dtype == "V2" and self._is_bfloat16(found):
                arrays[name] = arrays[name].view(jnp.bfloat16)
        sums = digests([arrays[name] for name in kept])
        for (name, wanted), sum_ in zip(kept.items(), sums, strict=True):
            if wanted != sum_:
                raise DamagedFile(
                    f"'{self.bounds.path}' is damaged: its variable '{name}' was "
                    "altered. Use another copy."
                )
        return arrays

    def _is_bfloat16(self, found: Any) -> bool:
        """Whether Keras wrote an array, which h5py gives as bytes, in bfloat16."""
        return self.text(self._h5py.Dataset(found), "dtype") == "bfloat16"
