"""The index that an element of a device's part has in the whole parameter.

The random bits of an element depend on this index. A kernel knows the index of the
element in the part, and adds a number that is equal for neighbours: it depends on the
device, and on the row of the part in which they lie.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from optadamw.base.types import Array
from optadamw.leaf.pallas.layout import Layout
from optadamw.leaf.pallas.shards import devices_of


class Part(NamedTuple):
    """The numbers with which kernels find indices; all parts of a leaf have them."""

    inner: int
    """The elements of a part between two neighbours in a block; 1 without blocks."""
    run: int = 1
    """How many blocks that are neighbours in the part are so in the leaf."""
    skip: int = 0
    """By how much more than in the part the index grows between those neighbours."""
    factors: tuple[int, ...] = ()
    """For each axis of the mesh, by how much the index grows along its devices."""
    levels: tuple[tuple[int, int], ...] = ()
    """The axes of the part down to the last one whose stride differs from that in the
    leaf: how many blocks it has, and by how much its stride is larger."""


def part_of(layout: Layout, sharding: NamedSharding) -> Part:
    """Return the numbers of all parts of a leaf.

    Args:
      layout: the shapes of the leaf and of its scales.
      sharding: how the leaf is divided, in equal parts of whole blocks.
    """
    mesh, rank = sharding.mesh, len(layout.shape)
    names = [*devices_of(sharding), *([()] * rank)][:rank]
    counts = [math.prod(mesh.shape[name] for name in own) for own in names]
    shape = [n // count for n, count in zip(layout.shape, counts, strict=True)]
    blocks = [n // count for n, count in zip(layout.coarse, counts, strict=True)]
    strides, wide = _strides(shape), _strides(layout.shape)
    factors = dict.fromkeys(mesh.axis_names, 0)
    for axis, own in enumerate(names):
        step = shape[axis] * wide[axis]
        for name in reversed(own):
            factors[name] = step
            step *= mesh.shape[name]
    block = [1] * rank
    if layout.block > 1:
        block[layout.axis] = layout.block
    rows = zip(wide, strides, block, strict=True)
    steps = [(whole - own) * size for whole, own, size in rows]
    differ = [i for i, step in enumerate(steps) if step and blocks[i] > 1]
    depth = max(differ, default=-1) + 1
    at = layout.axis if rank else 0
    return Part(
        inner=strides[at] if layout.block > 1 else 1,
        run=max(1, math.prod(blocks[depth:])),
        skip=wide[at] - strides[at] if layout.block > 1 else 0,
        factors=tuple(factors.values()),
        levels=tuple(zip(blocks[:depth], steps[:depth], strict=True)),
    )


def device_in(mesh: jax.sharding.AbstractMesh | jax.sharding.Mesh) -> Array:
    """Return the index of this device along each axis of the mesh, uint32."""
    found = [jax.lax.axis_index(name) for name in mesh.axis_names]
    return jnp.stack([x.astype(jnp.uint32) for x in found])


def as_numbers(parts: Sequence[Part], device: int) -> tuple[int, ...]:
    """Return the parts of the leaves of a call as `c/step.h` reads them.

    Args:
      parts: of each leaf.
      device: the operand of the call that has the `device_in` the mesh.
    """
    depth = max(len(part.levels) for part in parts)
    numbers = [device, len(parts[0].factors), depth]
    for part in parts:
        # Levels of one block stand for those that a leaf has less than another.
        levels = [(1, 0)] * (depth - len(part.levels)) + list(part.levels)
        numbers += [part.run, part.skip, *part.factors, *(x for y in levels for x in y)]
    return tuple(numbers)


def _strides(shape: Sequence[int]) -> list[int]:
    """Return how far apart neighbours along each axis are."""
    return [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
