"""Shapes on the devices of a mesh, divided along their first axis, as FSDP does."""

import math
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def on(mesh: Mesh, tree: Any) -> Any:
    """Divides each array that has more than one axis; others are on every device."""

    def placed(leaf: Any) -> jax.ShapeDtypeStruct:
        divided = len(leaf.shape) > 1 and leaf.shape[0] % mesh.size == 0
        spec = PartitionSpec(*mesh.axis_names) if divided else PartitionSpec()
        sharding = NamedSharding(mesh, spec)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(placed, tree)


def size(tree: Any) -> int:
    """Adds up the bytes of a tree of arrays."""
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def count(tree: Any) -> int:
    """Adds up the elements of a tree of arrays."""
    return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))
