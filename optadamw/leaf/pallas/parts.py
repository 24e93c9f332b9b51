"""Compute a tile part by part, so that the program of its kernel is a part's."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from optadamw.base.types import Array
from optadamw.leaf.pallas.tiles import Tiling

Run = Callable[[list[Array], tuple[int, ...], list[Array]], list[Array]]
"""From values, their shape, and the index of their first element along each axis of
the view (uint32) to results."""


def run_by_parts(
    pallas: Any,
    run: Run,
    cut: Tiling,
    firsts: list[Array],
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    wide: Sequence[Any],
) -> None:
    """Compute the outputs of a tile from its inputs, one part after the other.

    Args:
      pallas: `jax.experimental.pallas`, which is imported where kernels are made.
      run: computes a part.
      cut: the tiles of the leaf, and their parts.
      firsts: the index of the tile's first element along each axis of the view.
      inputs: the references of a kernel to a tile of each array that it reads.
      outputs: those to a tile of each array that it writes.
      wide: a reference to int32 numbers for each input and output of the shape of
        scales: the scales of a part, 8 rows of 8 bits, are no whole tile of a TPU.
    """
    if cut.part == cut.tile:
        values = run([ref[...] for ref in inputs], cut.tile, firsts)
        for ref, value in zip(outputs, values, strict=True):
            ref[...] = value
        return
    counts = [n // own for n, own in zip(cut.tile, cut.part, strict=True)]
    rest = iter(wide)
    pairs = [
        [(ref, ref if ref.shape == cut.tile else next(rest)) for ref in refs]
        for refs in (inputs, outputs)
    ]
    for ref, own in pairs[0]:
        if own is not ref:
            own[...] = ref[...].astype(own.dtype)

    def turn(index: Array, carry: tuple[()]) -> tuple[()]:
        place: list[Array] = []
        for count in reversed(counts):
            # Not % and //: for these Mosaic asks the device, which may not be there.
            place.insert(0, jax.lax.rem(index, jnp.int32(count)))
            index = jax.lax.div(index, jnp.int32(count))

        def of_part(ref: Any) -> tuple[Any, ...]:
            sizes = [n // count for n, count in zip(ref.shape, counts, strict=True)]
            return tuple(
                pallas.ds(pallas.multiple_of(i * jnp.int32(size), size), size)
                for i, size in zip(place, sizes, strict=True)
            )

        starts = [
            first + i.astype(jnp.uint32) * jnp.uint32(size)
            for first, i, size in zip(firsts, place, cut.part, strict=True)
        ]
        values = [own[of_part(own)].astype(ref.dtype) for ref, own in pairs[0]]
        made = run(values, cut.part, starts)
        for (_, own), value in zip(pairs[1], made, strict=True):
            own[of_part(own)] = value.astype(own.dtype)
        return carry

    jax.lax.fori_loop(jnp.int32(0), jnp.int32(math.prod(counts)), turn, ())
    for ref, own in pairs[1]:
        if own is not ref:
            ref[...] = own[...].astype(ref.dtype)
