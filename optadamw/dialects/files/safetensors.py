"""The .safetensors format: eight bytes, a header in JSON, and the arrays' bytes.

    u64, little endian: n
    n bytes of JSON: {name: {"dtype", "shape", "data_offsets"}, "__metadata__": {...}}
    the arrays, little endian, row by row, at their offsets

Everything in the header is checked before a byte is read as a number.
"""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import jax.numpy as jnp
import numpy as np

from optadamw.checkpoint.arrays import plain
from optadamw.checkpoint.bounds import Bounds
from optadamw.dialects.files.refusing import DamagedFile

DTYPES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "U16": "uint16",
    "I16": "int16",
    "U32": "uint32",
    "I32": "int32",
    "U64": "uint64",
    "I64": "int64",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
    "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}
SPELLED = {name: code for code, name in DTYPES.items()}

_LARGEST_HEADER = 100_000_000
"""The limit that the format sets, in bytes."""

_MOST_AXES = 64
"""The limit that NumPy sets."""


def read(
    path: str | os.PathLike[str], bounds: Bounds | None = None
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read the arrays of a file, by name, and its metadata.

    Args:
      path: the file.
      bounds: its limits, of which the header has one; the arrays have as many numbers
        as the file has bytes. Default: the limits of a file from a stranger.

    Raises:
      OSError: there is no such file, or it cannot be read.
      DamagedFile: the file is not whole, or not of this format.
      TooLarge: the header takes far more memory than the file has bytes.
    """
    name, path = os.fspath(path), Path(path)
    with open(path, "rb") as file:
        text = _header(name, file, path.stat().st_size)
        (bounds or Bounds(path)).check_json(text)
        body = memoryview(file.read())
    try:
        header = json.loads(text.decode(), object_pairs_hook=_distinct)
    except (ValueError, RecursionError) as error:
        raise _damaged(name, f"its header is no JSON ({error})") from error
    if not isinstance(header, dict):
        raise _damaged(name, "its header is no JSON object")
    metadata = header.pop("__metadata__", None) or {}  # MLX writes null for none
    if not isinstance(metadata, dict) or not all(
        isinstance(text, str) for text in metadata.values()
    ):
        raise _damaged(name, "its metadata are not texts")
    entries = {key: _entry(name, key, entry) for key, entry in header.items()}
    _check_cover(name, entries, len(body))
    arrays = {
        key: np.frombuffer(body[begin:end], np.uint8).view(dtype).reshape(shape)
        for key, (dtype, shape, begin, end) in entries.items()
    }
    return arrays, metadata


def _header(name: str, file: BinaryIO, size: int) -> bytes:
    first = file.read(8)
    if len(first) < 8:
        raise _damaged(name, f"it has {len(first)} bytes, fewer than its first field")
    length = int.from_bytes(first, "little")
    text = file.read(length) if length <= min(size - 8, _LARGEST_HEADER) else b""
    if len(text) < length:
        raise _damaged(name, f"its header would have {length} bytes, and it has {size}")
    return text


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is there twice")
    return found


_Entry = tuple[np.dtype, tuple[int, ...], int, int]


def _entry(name: str, key: str, entry: Any) -> _Entry:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _damaged(name, f"the entry of '{key}' is not one of an array")
    code, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(code, str) or code not in DTYPES:
        raise _damaged(
            name, f"'{key}' has the dtype {code!r}; known are {', '.join(DTYPES)}"
        )
    if not _are_counts(shape) or not _are_counts(offsets) or len(offsets) != 2:
        raise _damaged(name, f"'{key}' has the shape {shape} and offsets {offsets}")
    if len(shape) > _MOST_AXES or any(length >= 2**63 for length in shape):
        raise _damaged(name, f"'{key}' has a shape that no array has, {shape[:8]}")
    dtype = jnp.dtype(DTYPES[code])
    begin, end = offsets
    if end - begin != math.prod(shape) * dtype.itemsize:
        raise _damaged(
            name, f"'{key}' is {dtype}{shape}, and has {end - begin} bytes of it"
        )
    return dtype, tuple(shape), begin, end


def _are_counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and n >= 0 for n in value)


def _check_cover(name: str, entries: Mapping[str, _Entry], length: int) -> None:
    """Refuse arrays that do not cover the file, or that leave gaps or overlap."""
    at = 0
    for key, (_, _, begin, end) in sorted(entries.items(), key=lambda e: e[1][2:]):
        if begin != at:
            what = "overlaps another" if begin < at else "leaves a gap before it"
            raise _damaged(name, f"'{key}' {what}")
        at = end
    if at != length:
        what = "is cut short" if at > length else "has bytes left over"
        raise _damaged(name, f"it {what}: {length} bytes of arrays, {at} in its header")


def write(
    file: BinaryIO, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
    """Write a file that `read`, and the package of this name, reads.

    Raises:
      TypeError: an array of a dtype that the format does not have.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    at = 0
    for name, array in arrays.items():
        code = SPELLED.get(array.dtype.name)
        if code is None:
            raise TypeError(f"'{name}': .safetensors has no dtype {array.dtype}.")
        header[name] = {
            "dtype": code,
            "shape": list(array.shape),
            "data_offsets": [at, at + array.nbytes],
        }
        at += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the arrays begin at a multiple of 8 bytes
    file.write(len(text).to_bytes(8, "little"))
    file.write(text)
    for array in arrays.values():
        little = plain(array)
        little = little.astype(little.dtype.newbyteorder("<"), copy=False)
        file.write(np.ascontiguousarray(little).tobytes())


def _damaged(name: str, what: str) -> DamagedFile:
    return DamagedFile(f"'{name}' is no whole .safetensors file: {what}.")
