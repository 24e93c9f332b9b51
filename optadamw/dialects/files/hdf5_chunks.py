"""Check the chunks of a filtered array in a file of HDF5 before the array is read.

HDF5 does not limit what a chunk inflates to: one of 64 bytes can take 1 GiB.
"""

import itertools
import zlib
from collections.abc import Sequence
from typing import Any

from optadamw.checkpoint.bounds import Bounds, nbytes
from optadamw.dialects.files.refusing import DamagedFile

DEFLATE = 1
FILTERS = {DEFLATE, 2, 3}
"""The filters that are read: deflate, shuffle and fletcher32, by HDF5's numbers."""


def check_chunks(name: str, found: Any, made: Any, bounds: Bounds) -> None:
    """Refuse unknown filters, and chunks that inflate to more than their size.

    Args:
      name: the name of the array, for the error.
      found: the array, an `h5py.h5d.DatasetID` whose layout is chunked.
      made: its creation property list.
      bounds: the limits of the file.

    Raises:
      DamagedFile: a filter or a chunk may have a result of any size, or the file has
        more chunks than the shape of the array.
    """
    filters = [made.get_filter(i)[0] for i in range(made.get_nfilters())]
    if set(filters) - FILTERS or filters.count(DEFLATE) > 1:
        raise DamagedFile(
            f"'{bounds.path}' keeps '{name}' with filters of HDF5 whose result can "
            "have any size. If the file is from a source that you trust, lift the "
            f"limit: {bounds.remedy}."
        )
    if DEFLATE not in filters:
        return
    skipped = 1 << filters.index(DEFLATE)
    chunk = made.get_chunk()
    size = nbytes(chunk, found.dtype.itemsize)
    room = size + 4 * len(filters)  # fletcher32 adds a sum of four bytes
    for start in stored_chunks(name, found, chunk, bounds):
        mask, stored = found.read_direct_chunk(start)
        if mask & skipped:
            continue
        inflating = zlib.decompressobj()
        inflating.decompress(stored, room)
        if inflating.decompress(inflating.unconsumed_tail, 1):
            raise DamagedFile(
                f"'{bounds.path}' has a chunk of '{name}' that inflates to more than "
                f"its {size:,} bytes."
            )


def stored_chunks(
    name: str, found: Any, chunk: Sequence[int], bounds: Bounds
) -> set[tuple[int, ...]]:
    """Return where the chunks of an array begin that the file has."""
    axes = zip(found.shape, chunk, strict=True)
    starts = set(itertools.product(*(range(0, n, part) for n, part in axes)))
    if not hasattr(found, "chunk_iter"):
        # Each goes through all chunks: 16,384 take 11 s, not 1 s as below.
        info = found.get_chunk_info_by_coord
        return {at for at in starts if info(at).byte_offset is not None}
    stored: list[tuple[int, ...]] = []

    def add(info: Any) -> bool | None:
        stored.append(info.chunk_offset)
        return True if len(stored) > len(starts) else None

    if found.chunk_iter(add):
        raise DamagedFile(
            f"'{bounds.path}' has more chunks of '{name}' than its shape."
        )
    return starts.intersection(stored)
