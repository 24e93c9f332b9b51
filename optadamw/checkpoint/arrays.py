"""Arrays in dtypes that plain NumPy can save, and their digests.

NumPy's files know neither bfloat16 nor narrower floats (`np.savez` writes void). Such
arrays are saved as unsigned integers of the same bits; the record has their true dtype.
"""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optadamw.base.errors import at_leaf, kind_at_leaf
from optadamw.base.tree import refuse_masked
from optadamw.checkpoint.damage import damaged

_PIECE = 4 << 20
"""Number of bytes that are hashed together; a part of the format."""


def on_host(name: str, leaf: Any) -> np.ndarray:
    """Return the numbers of `leaf` in the host's memory; errors call it `name`.

    Raises:
      TypeError: the leaf is no array of numbers.
      ValueError: the leaf is traced, or parts of it are in other processes.
    """
    if isinstance(leaf, jax.core.Tracer):
        raise at_leaf(
            name,
            "its value is not known while a function is traced.",
            "Save and restore outside of jit, vmap and scan.",
        )
    if isinstance(leaf, jax.Array):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
            raise kind_at_leaf(
                name,
                f"plain NumPy has no {leaf.dtype}.",
                "Keep jax.random.key_data(key) instead.",
            )
        if leaf.is_fully_replicated:
            leaf = leaf.addressable_data(0)
        elif not leaf.is_fully_addressable:
            raise at_leaf(
                name,
                "it is sharded over several processes.",
                "Save the state with Orbax, which writes from all of them at once.",
            )
    refuse_masked(name, leaf)
    # device_get and not asarray alone: an explicit transfer passes a transfer guard.
    array = np.asarray(jax.device_get(leaf))
    dtype = array.dtype
    if not (dtype.kind in "biufc" or _is_foreign(dtype)):
        what, remedy = type(leaf).__name__, "Leave it out of the state."
        if dtype.kind == "V":
            what = f"{dtype.str}: bytes without a type, as np.savez writes bfloat16"
            remedy = "Save it by checkpoint.save, as .safetensors, or in float32."
        rule = f"it must be an array of numbers; got {what}."
        raise kind_at_leaf(name, rule, remedy)
    if not dtype.isnative:  # a record names dtypes without an order of bytes
        return array.astype(dtype.newbyteorder("="))
    return array


def plain(array: np.ndarray) -> np.ndarray:
    """Return `array` in a dtype that NumPy itself has."""
    if _is_foreign(array.dtype):
        return array.view(f"u{array.dtype.itemsize}")
    return array


def plain_dtype(dtype: np.dtype) -> np.dtype:
    """Return the dtype that `plain` gives to an array of this dtype."""
    return np.dtype(f"u{dtype.itemsize}") if _is_foreign(dtype) else dtype


def dtype_named(name: str) -> np.dtype:
    """Return the dtype with this name in a record."""
    try:
        return jnp.dtype(name)
    except TypeError as error:
        raise damaged(f"The checkpoint names an unknown dtype, {name!r}.") from error


def digests(arrays: Sequence[np.ndarray]) -> list[str]:
    """Return a digest of each array: the SHA-256 of the SHA-256s of its 4 MiB pieces.

    64 MiB take 32 ms on one core; CRC-32 takes 9 ms and misses one in 4e9 alterations
    of several bits, BLAKE2b takes 47 ms. With pieces all cores share the work, and a
    few large arrays are no slower than many small ones.
    """
    cut = [_pieces(array) for array in arrays]
    pieces = [piece for of_one in cut for piece in of_one]
    workers = min(8, os.cpu_count() or 1)
    found = [b""] * len(pieces)

    def work(first: int) -> None:
        found[first::workers] = [_sha256(p).digest() for p in pieces[first::workers]]

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(work, range(workers)))
    each = iter(found)
    return [_sha256(b"".join(islice(each, len(c)))).hexdigest() for c in cut]


def _pieces(array: np.ndarray) -> list[np.ndarray]:
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return [flat[i : i + _PIECE] for i in range(0, flat.size, _PIECE)]


def _sha256(data: Any) -> Any:
    return hashlib.sha256(data)


def _is_foreign(dtype: np.dtype) -> bool:
    return dtype.isbuiltin == 2  # registered with NumPy by another package
