"""The arrays in a mapping, which may be a file that is read array by array."""

import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from optadamw.checkpoint.arrays import dtype_named, plain_dtype
from optadamw.checkpoint.damage import damaged
from optadamw.checkpoint.record import Entry
from optadamw.checkpoint.zipped import NAMES, names_by_entry

_UNREADABLE = (
    *(EOFError, OSError, RuntimeError, ValueError),
    *(zipfile.BadZipFile, zlib.error),
)
"""The errors of zip files, and of NumPy's in them, that are cut or altered. They come
when an entry is read; an array of JAX is fetched afterwards."""


def entry_of(portable: Mapping[str, Any], name: str) -> np.ndarray:
    """Return an array, which a mapping such as that of np.load reads only now.

    Raises:
      DamagedCheckpoint: the file behind the mapping is cut or altered.
    """
    try:
        array = portable[name]
    except _UNREADABLE as error:
        why = f"{type(error).__name__}: {error}"
        raise damaged(
            f"The entry '{name}' of the checkpoint cannot be read ({why})."
        ) from error
    return np.asarray(jax.device_get(array))


def renamed_in(portable: Mapping[str, Any]) -> dict[str, str]:
    """Return the entries of arrays whose names no file can hold, by these names.

    Raises:
      DamagedCheckpoint: the list of them is altered.
    """
    if NAMES not in portable:
        return {}
    text = entry_of(portable, NAMES)
    try:
        return {name: entry for entry, name in names_by_entry(text).items()}
    except ValueError as error:
        raise damaged(f"The entry '{NAMES}' of the checkpoint is altered.") from error


def checked_entry(
    portable: Mapping[str, Any], name: str, entry: Entry, place: str
) -> np.ndarray:
    """Return an array whose dtype and shape are those of its record.

    Args:
      portable: the mapping.
      name: the name of the array.
      entry: its record.
      place: the key of the array in the mapping.

    Raises:
      DamagedCheckpoint: it is missing, cannot be read, or has another dtype or shape.
    """
    dtype = plain_dtype(dtype_named(entry.dtype))
    if 0 in entry.shape:
        return np.zeros(entry.shape, dtype)
    if place not in portable:
        raise damaged(f"The checkpoint has no entry '{name}', which its record lists.")
    array = entry_of(portable, place)
    if array.dtype != dtype or array.shape != entry.shape:
        hint = "JAX narrows 64 bits without jax_enable_x64. "
        raise damaged(
            f"Leaf '{name}' of the checkpoint is {array.dtype}{list(array.shape)}, "
            f"recorded as {dtype}{list(entry.shape)}. "
            f"{hint if dtype.itemsize >= 8 else ''}".rstrip()
        )
    return array
