"""Run a kernel on each shard of a leaf.

XLA does not divide a kernel over devices but would gather its operands, so the kernel
runs inside `shard_map`. The random bits of an element depend on its index in the leaf:
a kernel gets the index of the first element of its shard.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from optadamw.leaf.pallas.layout import Layout

Run = Callable[..., Sequence[Any]]
"""Runs the kernel: `run(whole, starts, *operands)`."""


def divides(layout: Layout, sharding: NamedSharding) -> bool:
    """Return whether a sharding cuts a leaf into equal parts of whole blocks."""
    parts = devices_of(sharding)
    if len(parts) > len(layout.coarse):
        return False
    return all(
        size % math.prod(sharding.mesh.shape[name] for name in names) == 0
        for names, size in zip(parts, layout.coarse, strict=False)
    )


def on_shards(
    run: Run, layout: Layout, sharding: NamedSharding, kinds: Any, *operands: Any
) -> list[Any]:
    """Run a kernel on each shard of its operands.

    Args:
      run: the kernel.
      layout: the shapes of the leaf and of its scales.
      sharding: the sharding of the leaf, which `divides` it.
      kinds: the types of the results.
      operands: the arrays of the leaf, and scalars.
    """
    parts = devices_of(sharding)

    def shard(*values: Any) -> list[Any]:
        firsts = [jnp.uint32(0) for _ in layout.shape]
        for axis, names in enumerate(parts):
            count = math.prod(sharding.mesh.shape[name] for name in names)
            if count > 1:
                size = layout.shape[axis] // count
                place = jax.lax.axis_index(names).astype(jnp.uint32)
                firsts[axis] = place * jnp.uint32(size)
        return list(run(layout.shape, jnp.stack(firsts), *values))

    def spec(x: Any) -> PartitionSpec:
        own = tuple(x.shape) in (layout.shape, layout.coarse)
        return sharding.spec if own else PartitionSpec()

    call = jax.shard_map(
        shard,
        mesh=sharding.mesh,
        in_specs=tuple(spec(x) for x in operands),
        out_specs=[spec(x) for x in kinds],
        check_vma=False,
    )
    return list(call(*operands))


def devices_of(sharding: NamedSharding) -> list[tuple[str, ...]]:
    """Return the axes of the mesh over which each axis of a leaf is divided."""
    spec = sharding.spec
    return [(part,) if isinstance(part, str) else tuple(part or ()) for part in spec]
