"""The places of a leaf's blocks in memory, and its program with a block in each row.

Buffers in 8 bits have blocks along one axis of the parameter. The leaf function of rows
is the same arithmetic on an array of two axes, whose last axis is one block.
"""

import math
from dataclasses import replace
from typing import Any, NamedTuple

from optadamw.commit.commit import Nearest
from optadamw.leaf.program import Program
from optadamw.store.blockwise import BlockStore
from optadamw.store.dense import Dense


class Blocks(NamedTuple):
    """The blocks of a leaf in memory."""

    size: int
    """The elements of a block."""
    stride: int
    """How far apart two neighbours in a block are."""


def blocks_of(program: Program, param: Any) -> set[Blocks]:
    """Return the blocks of the buffers of a leaf: none, one form or several."""
    shape, found = param.shape, set()
    for slot in program.slots:
        if isinstance(slot.store, BlockStore):
            axis = len(shape) + slot.store.axis_in(shape)
            found.add(Blocks(slot.store.block(shape), math.prod(shape[axis + 1 :])))
    return found


def stride_of(program: Program, param: Any) -> int:
    """Return how far apart neighbours in a block of a leaf are; 1 without blocks."""
    return max((blocks.stride for blocks in blocks_of(program, param)), default=1)


def in_rows(program: Program, size: int) -> Program:
    """Return the program of a leaf of `size` columns, each row of which is a block."""
    slots = tuple(
        slot._replace(store=replace(slot.store, block_size=size, axis=-1))
        if isinstance(slot.store, BlockStore)
        else slot
        for slot in program.slots
    )
    return replace(program, slots=slots)


def rules_alone(program: Program) -> Program:
    """Return the program with the same rules, and with nothing rounded or encoded."""
    slots = tuple(slot._replace(store=Dense()) for slot in program.slots)
    return replace(program, slots=slots, commit=Nearest(), is_tiled=True)
