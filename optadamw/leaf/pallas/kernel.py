"""The leaf function as one Pallas kernel: every byte is read and written once.

A block of 8 bits can be encoded only after its largest number is known, so XLA makes
two passes. The kernel runs the same rules, stores and commit as `leaf.run_leaf` on a
tile instead of a leaf, and holds the tile in registers or fast memory between the two.
"""

import importlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from optadamw.base.numerics import kind_of
from optadamw.base.random_bits import Site
from optadamw.base.types import Array
from optadamw.leaf.compute import compute
from optadamw.leaf.pallas.layout import Layout
from optadamw.leaf.pallas.parts import run_by_parts
from optadamw.leaf.pallas.tiles import Target, tiling
from optadamw.leaf.program import LeafInput, LeafOutput, Program
from optadamw.store.blockwise import BlockStore


@partial(jax.jit, static_argnums=(0, 1, 2, 4))
def run_tiles(
    program: Program,
    target: Target,
    interpret: bool,
    given: LeafInput,
    whole: tuple[int, ...] | None = None,
    starts: Array | None = None,
) -> LeafOutput:
    """Compute `run_leaf` of a leaf that fits, tile by tile and in place.

    Args:
      program: the leaf function.
      target: the compiler of the kernel.
      interpret: whether Pallas's interpreter runs the kernel, on any device.
      given: the leaf, or one shard of it.
      whole: the shape of the leaf; None (default): it is not sharded.
      starts: the index of the shard's first element along each axis, uint32.
    """
    param, site = given.param, given.site
    assert param is not None
    pallas: Any = importlib.import_module("jax.experimental.pallas")
    shape = param.shape
    layout = layout_of(program, shape if whole is None else whole)
    program = _for_tiles(program, layout)
    arrays, structure = jax.tree.flatten((given.grad, param, given.buffers))
    kept = arrays[2:]
    width = sum(x.dtype.itemsize for x in (*arrays, param, *kept) if x.shape == shape)
    view, tile, part = cut = tiling(target, shape, layout.axis, layout.block, width)
    flat = [x.reshape(_coarse(view, shape, x.shape)) for x in arrays]
    numbers, plan = jax.tree.flatten((given.scalars, given.scale))
    packed = jnp.zeros((1, 1), jnp.float32)
    if numbers:
        packed = jnp.stack([x.astype(jnp.float32) for x in numbers])[None, :]
    ids = jnp.zeros((1, 2), jnp.uint32)
    if site is not None:
        ids = jnp.stack([site.key, site.leaf.astype(jnp.uint32)])[None, :]
        # Where the shard lies in its leaf, and the layer in its stack.
        more = [] if starts is None else [starts]
        more += [x[None] for x in (site.first, site.beyond) if x is not None]
        if more:
            ids = jnp.concatenate([ids, *(x[None, :] for x in more)], axis=1)

    def kernel(packed_ref: Any, ids_ref: Any, *refs: Any) -> None:
        inputs, outputs = refs[: len(flat)], refs[len(flat) :][: len(results)]
        values = [packed_ref[0, i] for i in range(len(numbers))]
        own_scalars, own_scale = jax.tree.unflatten(plan, values)

        def run(own: list[Array], size: tuple[int, ...], starts: list[Array]) -> Any:
            here = None
            if site is not None:
                places = _places(starts, size)
                if whole is not None:
                    firsts = [ids_ref[0, 2 + i] for i in range(len(shape))]
                    places = _in_whole(places, shape, whole, firsts)
                place = _index(places, view if whole is None else whole)
                here = Site(ids_ref[0, 0], ids_ref[0, 1].astype(jnp.int32), place)
                after = 2 if whole is None else 2 + len(shape)
                if site.first is not None:
                    here = here._replace(first=ids_ref[0, after])
                if site.beyond is not None:
                    here = here._replace(beyond=ids_ref[0, after + 1])
            grad, held, buffers = jax.tree.unflatten(structure, own)
            part = LeafInput(grad, held, buffers, own_scalars, own_scale, here)
            made = compute(program, part)
            return jax.tree.leaves((made.output, made.buffers))

        firsts = [
            pallas.program_id(axis).astype(jnp.uint32) * jnp.uint32(size)
            for axis, size in enumerate(tile)
        ]
        wide = refs[len(flat) + len(results) :]
        run_by_parts(pallas, run, cut, firsts, inputs, outputs, wide)

    def tile_of(x: Any) -> tuple[int, ...]:
        pairs = zip(tile, view, x.shape, strict=True)
        return tuple(size // (whole // n) for size, whole, n in pairs)

    def spec(x: Any) -> Any:
        return pallas.BlockSpec(tile_of(x), lambda *place: place)

    dtype = param.dtype
    if program.emit == "update":
        dtype = kind_of(program.update_dtype, dtype)
    # Inside `shard_map` a result varies over the axes over which an operand does.
    kinds = [jax.typeof(x).manual_axis_type for x in arrays]
    widest = max(kinds, key=lambda kind: len(kind.varying))
    result = partial(jax.ShapeDtypeStruct, manual_axis_type=widest)
    results = [result(view, dtype), *(result(x.shape, x.dtype) for x in flat[2:])]
    # Parameter and buffers are overwritten by their new values.
    first = 2 + 1
    aliases = {first + i: i for i in range(len(results))}
    if program.emit == "update":
        del aliases[first]
    scalar, params = _of_target(pallas, target)
    scales = [x for x in (*flat, *results) if x.shape != view and part != tile]
    found = pallas.pallas_call(
        kernel,
        out_shape=results,
        grid=cut.grid,
        in_specs=[*(scalar(x.shape) for x in (packed, ids)), *map(spec, flat)],
        out_specs=[spec(x) for x in results],
        scratch_shapes=[_wide(tile_of(x)) for x in scales],
        input_output_aliases=aliases,
        interpret=interpret,
        compiler_params=params,
        name="optadamw_leaf",
    )(packed, ids, *flat)
    output, *made = found
    shaped = [x.reshape(old.shape) for x, old in zip(made, kept, strict=True)]
    buffers = jax.tree.unflatten(jax.tree.structure(given.buffers), shaped)
    return LeafOutput(output.reshape(shape), buffers)


def layout_of(program: Program, shape: tuple[int, ...]) -> Layout:
    """Return the shapes of a leaf and of its scales."""
    coarse, block, axis = list(shape), 1, -1
    for slot in program.slots:
        if isinstance(slot.store, BlockStore):
            axis, block = slot.store.axis_in(shape), slot.store.block(shape)
    if block > 1:
        coarse[axis] //= block
    return Layout(tuple(shape), tuple(coarse), block, axis)


def _for_tiles(program: Program, layout: Layout) -> Program:
    """Return the program for a tile.

    Its stores have the blocks of the leaf, not those of the tile's shape.
    """
    slots = []
    for slot in program.slots:
        if isinstance(slot.store, BlockStore):
            size, axis = layout.block, layout.axis
            fixed = replace(slot.store, block_size=size, axis=axis)
            slot = slot._replace(store=fixed)
        slots.append(slot)
    return replace(program, slots=tuple(slots), is_tiled=True)


def _coarse(
    view: tuple[int, ...], shape: tuple[int, ...], own: tuple[int, ...]
) -> tuple[int, ...]:
    """Return the view of an array of the leaf, or of the scales of its blocks."""
    if own == shape:
        return view
    last = shape[-1] // own[-1]
    rows = shape[-2] // own[-2] if len(shape) > 1 else 1
    return (*view[:-2], view[-2] // rows, view[-1] // last)


def _places(firsts: list[Array], size: tuple[int, ...]) -> list[Array]:
    """Return for each axis of the view the index of each element of a part."""
    return [
        first + jax.lax.broadcasted_iota(jnp.uint32, size, axis)
        for axis, first in enumerate(firsts)
    ]


def _in_whole(
    places: list[Array],
    shape: tuple[int, ...],
    whole: tuple[int, ...],
    firsts: Sequence[Array],
) -> list[Array]:
    """Return the indices in the whole leaf of the elements of a shard."""
    *front, row, column = places
    if len(places) != len(whole):
        # The view has merged all axes but the last into rows, or is one row.
        for size in reversed(shape[1:-1]):
            front.insert(0, row % jnp.uint32(size))
            row = row // jnp.uint32(size)
        places = [row, *front, column] if len(whole) > 1 else [column]
    return [place + first for place, first in zip(places, firsts, strict=True)]


def _index(places: list[Array], shape: tuple[int, ...]) -> Array:
    """Return the index of elements among all elements of an array, row by row."""
    index, stride = jnp.zeros_like(places[0]), 1
    for place, size in zip(reversed(places), reversed(shape), strict=True):
        index = index + place * jnp.uint32(stride % 2**32)
        stride *= size
    return index


def _wide(shape: tuple[int, ...]) -> Any:
    """Return memory of a kernel on a TPU for the scales of a tile, in 32 bits."""
    tpu: Any = importlib.import_module("jax.experimental.pallas.tpu")
    return tpu.VMEM(shape, jnp.int32)


def _of_target(pallas: Any, target: Target) -> tuple[Any, Any]:
    """Return how scalars are passed, and the parameters of the target's compiler."""

    def first(*place: Any) -> tuple[Any, Any]:
        # In 32 bits, whatever jax_enable_x64 is: Mosaic knows no 64.
        return jnp.int32(0), jnp.int32(0)

    if target == "tpu":
        tpu: Any = importlib.import_module("jax.experimental.pallas.tpu")
        scalar = partial(pallas.BlockSpec, index_map=first, memory_space=tpu.SMEM)
        return scalar, tpu.CompilerParams()
    triton: Any = importlib.import_module("jax.experimental.pallas.triton")
    return partial(pallas.BlockSpec, index_map=first), triton.CompilerParams()
