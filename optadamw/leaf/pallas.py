"""The leaf function as one Pallas kernel: every byte is read and written once.

A block of 8 bits can be encoded only after its largest number is known, so XLA makes
two passes. A tile holds whole blocks, and is small enough to stay in registers between
the two. The kernel runs the same rules, stores and commit as `leaf.run_leaf` on a tile
instead of a leaf. Rules that reduce a whole parameter cannot run in tiles.

Tests compare the kernel with `run_leaf` in Pallas's interpreter, bit for bit. It was
not measured on a device; it runs only under `with_pallas`.
"""

import importlib
import math
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from optadamw.base.numerics import compute_dtype, is_complex, kind_of
from optadamw.base.random_bits import Site
from optadamw.base.types import Array
from optadamw.leaf.compute import compute, run_leaf
from optadamw.leaf.program import LeafInput, LeafOutput, Program
from optadamw.store.blockwise import BlockStore

TILE = 1024
"""Size of a tile: eight numbers for each of 128 threads."""


def run(program: Program, given: LeafInput) -> LeafOutput:
    """Run a leaf in tiles if the program has a kernel and the leaf fits; else whole."""
    if program.kernel is None or not fits(program, given.param):
        return run_leaf(program, given)
    if program.kernel == "interpreted":
        return run_tiles(program, True, given)
    return jax.lax.platform_dependent(
        given,
        cuda=partial(run_tiles, program, False),
        default=partial(run_leaf, program),
    )


def fits(program: Program, param: Any) -> bool:
    """Return whether a leaf can be run in tiles; other leaves are run as a whole."""
    if param is None or not param.shape or 0 in param.shape or param.weak_type:
        return False
    if is_complex(param.dtype) or compute_dtype(param.dtype) != jnp.float32:
        return False
    if program.measures or any(rule.sums for rule in program.rules):
        return False
    if math.prod(param.shape) > 2**32:  # the index of an element is one number
        return False
    blocks = [s.store.block(param.shape) for s in program.slots if _is_blocks(s.store)]
    return all(b & (b - 1) == 0 and b <= TILE for b in blocks)


@partial(jax.jit, static_argnums=(0, 1))
def run_tiles(program: Program, interpret: bool, given: LeafInput) -> LeafOutput:
    """Compute `run_leaf` of a leaf that `fits`, tile by tile and in place."""
    param, site = given.param, given.site
    assert param is not None
    pallas: Any = importlib.import_module("jax.experimental.pallas")
    triton: Any = importlib.import_module("jax.experimental.pallas.triton")
    shape = param.shape
    columns = shape[-1]
    rows = param.size // columns
    width = min(TILE, 1 << (columns - 1).bit_length())
    height = min(TILE // width, 1 << (rows - 1).bit_length())
    fixed = [
        slot._replace(store=replace(slot.store, block_size=slot.store.block(shape)))
        if _is_blocks(slot.store)
        else slot
        for slot in program.slots
    ]
    program = replace(program, slots=tuple(fixed), is_tiled=True)
    arrays, structure = jax.tree.flatten((given.grad, param, given.buffers))
    flat = [x.reshape(rows, x.shape[-1]) for x in arrays]
    numbers, plan = jax.tree.flatten((given.scalars, given.scale))
    packed = jnp.stack([x.astype(jnp.float32) for x in numbers])[None, :]
    ids = jnp.zeros((1, 2), jnp.uint32)
    if site is not None:
        ids = jnp.stack([site.key, site.leaf.astype(jnp.uint32)])[None, :]

    def kernel(packed_ref: Any, ids_ref: Any, *refs: Any) -> None:
        inputs, outputs = refs[: len(flat)], refs[len(flat) :]
        values = [packed_ref[0, i] for i in range(len(numbers))]
        own_scalars, own_scale = jax.tree.unflatten(plan, values)
        here = None
        if site is not None:
            at = [
                pallas.program_id(axis).astype(jnp.uint32) * jnp.uint32(size)
                + jax.lax.broadcasted_iota(jnp.uint32, (height, width), axis)
                for axis, size in enumerate((height, width))
            ]
            place = at[0] * jnp.uint32(columns) + at[1]
            here = Site(ids_ref[0, 0], ids_ref[0, 1].astype(jnp.int32), place)
        own = jax.tree.unflatten(structure, [ref[...] for ref in inputs])
        grad, held, buffers = own
        tile = LeafInput(grad, held, buffers, own_scalars, own_scale, here)
        made = compute(program, tile)
        results = jax.tree.leaves((made.output, made.buffers))
        for ref, value in zip(outputs, results, strict=True):
            ref[...] = value

    def spec(x: Array) -> Any:
        share = columns // x.shape[-1]
        return pallas.BlockSpec((height, width // share), lambda i, j: (i, j))

    whole = [pallas.BlockSpec(x.shape, lambda i, j: (0, 0)) for x in (packed, ids)]
    dtype = param.dtype
    if program.emit == "update":
        dtype = kind_of(program.update_dtype, dtype)
    like = jax.ShapeDtypeStruct((rows, columns), dtype)
    results = [like, *(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in flat[2:])]
    # Parameter and buffers are overwritten by their new values.
    first = 2 + 1
    aliases = {first + i: i for i in range(len(results))}
    if program.emit == "update":
        del aliases[first]
    found = pallas.pallas_call(
        kernel,
        out_shape=results,
        grid=(-(-rows // height), -(-columns // width)),
        in_specs=[*whole, *(spec(x) for x in flat)],
        out_specs=[spec(x) for x in (param.reshape(rows, columns), *flat[2:])],
        input_output_aliases=aliases,
        interpret=interpret,
        compiler_params=triton.CompilerParams(),
    )(packed, ids, *flat)
    output, *kept = found
    shaped = [x.reshape(old.shape) for x, old in zip(kept, arrays[2:], strict=True)]
    buffers = jax.tree.unflatten(jax.tree.structure(given.buffers), shaped)
    return LeafOutput(output.reshape(shape), buffers)


def _is_blocks(store: Any) -> bool:
    return isinstance(store, BlockStore)
