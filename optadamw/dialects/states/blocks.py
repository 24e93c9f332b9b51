"""Decode moments of 8 and 4 bits: codes, a table of numbers, a scale for each block."""

from typing import Any

import numpy as np

from optadamw.base.errors import at_leaf
from optadamw.dialects.states.arrays import numbers, to_numpy


def decoded(where: str, codes: Any, table: Any, scales: Any, block: int) -> np.ndarray:
    """Return `table[code] * scale`, in the shape of the codes, float32.

    Consecutive elements share a scale; the last block may be short.

    Raises:
      TypeError, ValueError: codes that are not uint8; tables or scales that do not fit.
    """
    found = to_numpy(f"codes of {where}", codes)
    if found.dtype != np.uint8:
        raise at_leaf(where, f"its codes must be uint8; got {found.dtype}.")
    meanings = numbers(f"table of {where}", table).reshape(-1).astype(np.float32)
    if found.size and int(found.max()) >= meanings.size:
        raise at_leaf(
            where,
            f"it has the code {int(found.max())}, and its table ends at "
            f"{meanings.size - 1}.",
            "The state is damaged.",
        )
    return scaled(where, meanings[found], scales, block)


def scaled(where: str, values: np.ndarray, scales: Any, block: int) -> np.ndarray:
    """Return `values` times the scale of their block, float32.

    Raises:
      ValueError: the numbers of scales and of blocks differ.
    """
    each = numbers(f"scales of {where}", scales).reshape(-1).astype(np.float32)
    flat = values.reshape(-1)
    count = -(-flat.size // block)
    if each.size != count:
        raise at_leaf(
            where,
            f"it has {each.size} scales and {count} blocks of {block}.",
            "The state is damaged, or of another block size.",
        )
    return (flat * np.repeat(each, block)[: flat.size]).reshape(values.shape)


def nibbles(packed: np.ndarray) -> np.ndarray:
    """Return the two codes of each byte, first that of its high half."""
    return np.stack([packed >> 4, packed & 15], axis=-1).reshape(-1)
