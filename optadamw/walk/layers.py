"""Stacked parameters: the layers of a model along the first axis of each array."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from optadamw.base.errors import at_leaf
from optadamw.base.random_bits import Site
from optadamw.base.types import Array
from optadamw.store.blockwise import BlockStore
from optadamw.walk.plan import LeafPlan


class Layer(NamedTuple):
    """The place of one layer in stacked parameters."""

    number: Array
    """The index along the first axis, int32."""
    shapes: tuple[tuple[int, ...], ...]
    """The shapes of the stacked parameters."""


def count_layers(paths: Iterable[str], shapes: Sequence[tuple[int, ...]]) -> int:
    """Return the length of the first axis, which stacked parameters share.

    Raises:
      ValueError: a parameter has another first axis, or none.
    """
    for path, shape in zip(paths, shapes, strict=True):
        if not shape or shape[0] != shapes[0][0]:
            raise at_leaf(
                path,
                f"its shape is {shape}, and stacked layers share the length of their "
                f"first axis, here {shapes[0][0] if shapes[0] else 'none'}.",
                "Stack the parameters of the layers, as jax.vmap(init)(keys) does.",
            )
    return shapes[0][0]


def plan_of_layer(path: str, row: LeafPlan, shape: tuple[int, ...]) -> LeafPlan:
    """Return the plan of one layer of a stacked leaf, with the blocks of the stack.

    Raises:
      ValueError: blocks lie along the axis of the layers.
    """
    slots = []
    for slot in row.slots:
        store = slot.store
        if isinstance(store, BlockStore):
            axis, block = store.axis_in(shape), store.block(shape)
            if axis == -len(shape):
                raise at_leaf(
                    path,
                    f"the blocks of `{slot.name}` lie along the first axis of {shape}, "
                    "and a layer cannot be cut out of them.",
                    "Keep it in float32 with blockwise(keep=<a pattern for it>), or "
                    "use blockwise(axis=-1).",
                )
            slot = slot._replace(store=replace(store, axis=axis, block_size=block))
        slots.append(slot)
    sharding = row.sharding
    if sharding is not None:
        rest = PartitionSpec(*sharding.spec[1:])
        sharding = NamedSharding(sharding.mesh, rest)
    return row._replace(slots=tuple(slots), sharding=sharding)


def site_of_layer(
    bits: Array, position: int, layer: Layer, shape: tuple[int, ...]
) -> Site:
    """Return the site of a layer, whose bits are those of its part of the stack."""
    index, size = layer.number.astype(jnp.uint32), math.prod(shape[1:])
    wraps = size * shape[0] > 2**32
    return Site(
        bits,
        jnp.int32(position),
        first=index * jnp.uint32(size % 2**32),
        beyond=index if wraps else None,
    )
