"""Digests of arrays on their devices, the same in every layout.

A digest is a sum of hashes modulo 2**32, taken twice with other hashes. Each hash is a
bijection of an element's bits that depends on the element's index, so an array of which
one element differs has another digest. Sums of integers do not depend on their order:
a digest is independent of how many devices hold the array, and needs no gather.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optadamw.base.errors import at_leaf, kind_at_leaf, mistyped
from optadamw.base.memory import DEVICE, moved
from optadamw.base.random_bits import Site, bits_at, mixed
from optadamw.base.tree import flatten
from optadamw.base.types import Array, PyTree
from optadamw.checkpoint.damage import damaged

_KEYS = (0x1B873593, 0xE6546B64)
"""The keys of the two hashes; a part of the format."""


def digests(tree: PyTree) -> dict[str, str]:
    """Compute a digest of each array of a state, on the devices that hold it.

    Keep the digests beside a checkpoint that another library writes, such as Orbax, and
    compare the restored state with `verify`. In a training of several processes, all of
    them call the function.

    Args:
      tree: a state, or any tree of arrays; NumPy arrays are read on the host.

    Returns:
      A dict from the path of each array, such as "mu/dense/kernel", to a text of its
      dtype, shape and 16 hexadecimal digits; JSON can hold it. Equal arrays have equal
      digests in every layout. If one element differs, the digests differ; if several
      do, they agree with a probability of 2**-64.

    Raises:
      TypeError: a leaf is no array of numbers.
      ValueError: a leaf is traced, or two leaves have the same path.

    Example:
      >>> import jax.numpy as jnp
      >>> from optadamw import checkpoint
      >>> sorted(checkpoint.digests({"w": jnp.ones((2, 3)), "b": jnp.zeros(3)}))
      ['b', 'w']
      >>> checkpoint.digests(jnp.ones(2)) == checkpoint.digests(jnp.ones(3))
      False
    """
    flat = flatten(tree)
    sums = {}
    for path, leaf in zip(flat.paths, flat.arrays, strict=True):
        if path in sums:
            raise at_leaf(path, "two arrays have this path.", "Rename one of them.")
        sums[path] = _sums(_words(path, leaf))  # all are started before one is awaited
    values = jax.device_get(sums)
    return {
        path: f"{_kind(leaf)} {values[path][0]:08x}{values[path][1]:08x}"
        for path, leaf in zip(flat.paths, flat.arrays, strict=True)
    }


def verify(tree: PyTree, wanted: Mapping[str, str]) -> None:
    """Compare a restored state with the digests that were computed when it was saved.

    Args:
      tree: the state, in any layout, or the nested dicts in which Orbax restores a
        state without a target.
      wanted: the result of `digests` for the state that was saved.

    Raises:
      DamagedCheckpoint: an array differs, is missing, or was not saved. The message
        names the first such leaf, and how many there are.
      TypeError: `wanted` is no mapping; a leaf is no array of numbers.

    Example:
      >>> import jax.numpy as jnp
      >>> from optadamw import checkpoint
      >>> saved = checkpoint.digests({"w": jnp.ones(2)})
      >>> checkpoint.verify({"w": jnp.ones(2)}, saved)
      >>> try:
      ...     checkpoint.verify({"w": jnp.array([1.0, -1.0])}, saved)
      ... except checkpoint.DamagedCheckpoint as error:
      ...     print(str(error)[:46])
      Leaf 'w' of the checkpoint differs from the on
    """
    if not isinstance(wanted, Mapping):
        raise mistyped("wanted", "the dict that digests(state) returned", wanted)
    found = digests(tree)
    differing = [p for p in (*found, *wanted) if found.get(p) != wanted.get(p)]
    if not differing:
        return
    first = differing[0]
    others = len(set(differing)) - 1
    more = f" So do {others} others." if others else ""
    if first not in found:
        raise damaged(f"Leaf '{first}' was saved and is missing.{more}")
    if first not in wanted:
        raise damaged(f"Leaf '{first}' has no digest: it was not saved.{more}")
    raise damaged(
        f"Leaf '{first}' of the checkpoint differs from the one that was saved: its "
        f"digest is {found[first]}, recorded as {wanted[first]}.{more}"
    )


def _kind(leaf: Any) -> str:
    array = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
    return f"{array.dtype.name}{list(array.shape)}"


@jax.jit
def _sums(words: Array) -> Array:
    """Return the two sums of hashes of an array of uint32 words."""
    sums = []
    for key in _KEYS:
        place = bits_at(Site(jnp.uint32(key), jnp.uint32(0)), words.shape)
        # `mixed` is a bijection of the word for each place.
        sums.append(jnp.sum(mixed(words ^ place), dtype=jnp.uint32))
    return jnp.stack(sums)


def _words(path: str, leaf: Any) -> Array:
    """Return the bits of an array as uint32, with a last axis for wider numbers."""
    if isinstance(leaf, jax.core.Tracer):
        raise at_leaf(path, "its value is not known inside jit.", "Call it outside.")
    if isinstance(leaf, jax.Array):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
            raise kind_at_leaf(
                path,
                f"its dtype {leaf.dtype} has no bits of its own.",
                "Keep jax.random.key_data(key) instead.",
            )
        return _bits(moved(leaf, DEVICE))
    array = np.asarray(leaf)
    if array.dtype == object or array.dtype.kind in "SUMm":
        raise kind_at_leaf(path, f"it is no array of numbers; got {leaf!r}.")
    # Not by jnp.asarray, which narrows 64 bits without jax_enable_x64.
    size = min(array.dtype.itemsize, 4)
    words = np.ascontiguousarray(array).reshape(*array.shape, 1).view(f"u{size}")
    # NumPy has a byte for each number of 4 bits.
    words = words & (2 ** min(_width(array.dtype), 32) - 1)
    return jnp.asarray(words.reshape(_shape(array)).astype(np.uint32))


@jax.jit
def _bits(x: Array) -> Array:
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        x = jnp.stack([x.real, x.imag], axis=-1)
    if x.dtype == jnp.bool_:
        return x.astype(jnp.uint32)
    word = jnp.dtype(f"uint{min(_width(x.dtype), 32)}")
    return jax.lax.bitcast_convert_type(x, word).astype(jnp.uint32)


def _width(dtype: np.dtype) -> int:
    """Return how many bits a number has: 4 in int4, which takes a byte in NumPy."""
    if jnp.issubdtype(dtype, jnp.floating) and dtype.itemsize == 1:
        return int(jnp.finfo(dtype).bits)
    if jnp.issubdtype(dtype, jnp.integer) and dtype.itemsize == 1:
        return int(jnp.iinfo(dtype).bits)
    return 8 * dtype.itemsize


def _shape(array: np.ndarray) -> tuple[int, ...]:
    words = array.dtype.itemsize // 4
    return (*array.shape, words) if words > 1 else array.shape
