"""The layout of an array on a mesh: divided further, divided as FSDP does, replicated.

These functions compute with shapes and specs only, so that the devices of a mesh need
not exist.
"""

import math
import warnings
from collections.abc import Sequence
from itertools import combinations
from typing import Any, Literal

import jax
from jax.sharding import (
    AbstractMesh,
    AxisType,
    Mesh,
    NamedSharding,
    PartitionSpec,
    reshard,
)

from optadamw.base.errors import at_leaf, invalid, kind_at_leaf, mistyped, some_leaves
from optadamw.base.memory import moved
from optadamw.store.block_code import BLOCK, axis_of

OnWhole = Literal["report", "raise"]
"""What happens if no dimension of a parameter can be divided."""


def axes_of(name: str, over: Any) -> tuple[str, ...]:
    """Check an axis name, or a tuple of them, that was passed as argument `name`."""
    axes = (over,) if isinstance(over, str) else over
    is_tuple = isinstance(axes, tuple | list) and len(axes) > 0
    if not is_tuple or not all(isinstance(axis, str) for axis in axes):
        raise mistyped(name, "the name of an axis of the mesh or a tuple of them", over)
    return tuple(axes)


def divided(
    path: str,
    shape: Sequence[int],
    sharding: Any,
    axes: Sequence[str],
    keeps_blocks: bool = False,
) -> NamedSharding | None:
    """Return `sharding` with `axes` added to one dimension, which they divide.

    Any dimension but the last is preferred, along which XLA's CPU backend contracts the
    products of a part otherwise than those of the whole; then one that cuts no blocks
    of 8 bits, then the largest per device.

    Args:
      path: the path of the leaf, for errors.
      shape: the shape of the array.
      sharding: the layout that is to be divided further.
      axes: the names of the axes.
      keeps_blocks: whether a dimension that cuts no blocks comes before all others.

    Returns:
      The layout; None if no dimension is divisible.

    Raises:
      TypeError: `sharding` is not on a mesh.
      ValueError: the mesh lacks an axis, or the array is divided over it already.
    """
    if not isinstance(sharding, NamedSharding):
        raise kind_at_leaf(
            path,
            f"its sharding is {sharding!r}, which is on no mesh that could divide its "
            "buffers.",
            "Put the parameter on a mesh: jax.device_put(x, NamedSharding(mesh, "
            "PartitionSpec())), or give its shape this sharding.",
        )
    mesh = sharding.mesh
    refuse_missing(path, mesh, axes)
    parts = [_axes(part) for part in sharding.spec]
    parts += [()] * (len(shape) - len(parts))
    for axis in axes:
        if any(axis in part for part in parts):
            raise at_leaf(
                path,
                f"it is divided over '{axis}' already ({sharding.spec}), so that its "
                "buffers are too.",
                "Name an axis over which the parameters are whole.",
            )
    count = _size(mesh, axes)
    local = [n // _size(mesh, part) for n, part in zip(shape, parts, strict=True)]
    fits = [
        i for i, n in enumerate(shape) if n and n % (count * _size(mesh, parts[i])) == 0
    ]
    if not fits:
        return None

    def order(i: int) -> tuple[bool, bool, bool, int, int]:
        has_blocks = i == len(shape) + axis_of(tuple(shape))
        is_whole = not has_blocks or local[i] % (BLOCK * count) == 0
        first = is_whole or not keeps_blocks
        return first, i + 1 < len(shape), is_whole, local[i], -i

    chosen = max(fits, key=order)
    parts[chosen] = (*parts[chosen], *axes)
    kind = sharding.memory_kind
    return NamedSharding(mesh, spec_of(mesh, parts), memory_kind=kind)


def refuse_missing(path: str, mesh: Mesh | AbstractMesh, axes: Sequence[str]) -> None:
    """Refuse names of axes that the mesh of a leaf does not have."""
    for axis in axes:
        if axis not in mesh.axis_names:
            raise at_leaf(
                path,
                f"its mesh has no axis '{axis}'; it has {', '.join(mesh.axis_names)}.",
                "Name one of these axes.",
            )


def report_whole(
    paths: Sequence[str], axes: Sequence[str], how: OnWhole | None
) -> None:
    """Warn of parameters whose buffers the axes do not divide, or raise.

    `how` is None for a caller that reports them itself.
    """
    if not paths or how is None:
        return
    if how == "raise":
        raise at_leaf(paths[0], _undivided(axes, 1))
    warnings.warn(remark_on_whole(paths, axes), stacklevel=4)


def remark_on_whole(paths: Sequence[str], axes: Sequence[str]) -> str:
    """Return a sentence on parameters whose buffers the axes do not divide."""
    return f"{some_leaves(paths)}: {_undivided(axes, len(paths))}"


def _undivided(axes: Sequence[str], count: int) -> str:
    its = "its" if count == 1 else "their"
    return (
        f"{', '.join(axes)} divides none of {its} dimensions, so that {its} buffers "
        "are not divided further. Pad a dimension to a multiple of the number of "
        "devices."
    )


def fsdp(
    shape: Sequence[int], mesh: Mesh | AbstractMesh, without: Sequence[str] = ()
) -> NamedSharding:
    """Return the layout of a parameter under FSDP, over as many devices as divide it.

    All axes of the mesh divide the largest dimension that they fit, the last one only
    if no other fits. If all axes together fit no dimension, fewer axes are tried, those
    with the most devices first. The axes `without` divide nothing.
    """
    whole = NamedSharding(mesh, PartitionSpec())
    names = [name for name in mesh.axis_names if name not in without]
    subsets = [c for k in range(len(names), 0, -1) for c in combinations(names, k)]
    for axes in sorted(subsets, key=lambda axes: -_size(mesh, axes)):
        found = divided("", shape, whole, axes, keeps_blocks=True)
        if found is not None:
            return found
    return whole


def everywhere(mesh: Any, rank: int) -> NamedSharding:
    """Return the sharding that replicates an array of this rank over a mesh."""
    return NamedSharding(mesh, spec_of(mesh, [()] * rank))


def laid_out_as(x: Any, like: Any) -> Any:
    """Return `x` in the layout of `like`, as far as that is known.

    A tracer has a layout on explicit axes only; elsewhere `x` is only moved to the
    memory of `like`, the device's or the host's.
    """
    if not isinstance(x, jax.Array) or not isinstance(like, jax.Array):
        return x
    if isinstance(like, jax.core.Tracer) or isinstance(x, jax.core.Tracer):
        x = in_memory_of(x, like)
        sharding = jax.typeof(like).sharding
        is_known = AxisType.Explicit in sharding.mesh.axis_types
        return reshard(x, sharding) if is_known else x
    # To the other memory first: JAX 0.10 and 0.12 bring no array that is whole in the
    # host's memory of several devices to one device.
    x = in_memory_of(x, like)
    if x.sharding.is_equivalent_to(like.sharding, x.ndim):
        return x
    return jax.device_put(x, like.sharding)


def in_memory_of(x: Any, like: Any) -> Any:
    """Return `x` in the memory in which `like` is, the device's or the host's."""
    if not isinstance(x, jax.Array) or not isinstance(like, jax.Array):
        return x
    return moved(x, jax.typeof(like).memory_space)


def in_memory(name: str, sharding: Any, kind: str) -> Any:
    """Return `sharding` in another kind of memory; errors call the argument `name`.

    Raises:
      TypeError: `kind` is no string.
      ValueError: the devices have no memory of this kind.
    """
    if not isinstance(kind, str):
        raise mistyped(name, "a kind of memory such as 'pinned_host'", kind)
    if not isinstance(getattr(sharding, "mesh", None), AbstractMesh):
        device = next(iter(sharding.device_set))
        kinds = [memory.kind for memory in device.addressable_memories()]
        # A GPU for which programs are only compiled lists none.
        if kinds and kind not in kinds:
            raise invalid(
                name,
                f"a kind of memory that {device} has ({', '.join(kinds)})",
                kind,
            )
    return sharding.with_memory_kind(kind)


def spec_of(mesh: Any, parts: Sequence[tuple[str, ...]]) -> PartitionSpec:
    """Write a spec as a compiled step writes it for its results.

    JAX compiles again for P("data", None) if it has a program for P("data"). On
    explicit axes results have an entry for each dimension, else none at the end.
    """
    entries = [
        None if not part else part[0] if len(part) == 1 else part for part in parts
    ]
    if AxisType.Explicit not in mesh.axis_types:
        while entries and entries[-1] is None:
            entries.pop()
    return PartitionSpec(*entries)


def parts_of(spec: PartitionSpec) -> list[tuple[str, ...]]:
    """Return the axes of each entry of a spec as a tuple."""
    return [_axes(part) for part in spec]


def _axes(part: Any) -> tuple[str, ...]:
    if part is None:
        return ()
    return (part,) if isinstance(part, str) else tuple(part)


def _size(mesh: Any, axes: Sequence[str]) -> int:
    return math.prod(mesh.shape[axis] for axis in axes)
