"""Loops over the blocks of a leaf: the largest number of a block first, then its codes.

A leaf lies in memory as panels, rows of a block, and columns: element k of block
`panel * inner + i` is `(panel * BLOCK + k) * inner + i`. A tile is some blocks that are
neighbours. It is computed in stages (`optadamw/native/stages.py`), with a loop for
each. Numbers that a later stage needs wait in arrays of the size of a tile.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from optadamw.native.flat import BLOCK, ELEMENT, Constant, Flat, Unsupported
from optadamw.native.headers import header
from optadamw.native.numbers import c_type, literal
from optadamw.native.stages import Stages
from optadamw.native.statements import declaration, name_of, operands_of

TILE = 2048
"""The elements of a tile: two arrays of float32 of this length, and the part of the
leaf that they are computed from, fit into 48 kB. 4096 take 1.2 times as long."""
LARGEST = 4096
"""The largest block; one that is larger than a tile is a tile."""
LINE = 64
"""The bytes of a line in a cache, and of the longest register."""
BYTES = ("uint8", "int8")


class Layout(NamedTuple):
    """How the elements of a leaf lie in blocks."""

    block: int
    """The elements of a block."""
    is_last: bool
    """Whether blocks lie along the last axis, where their elements are neighbours."""

    @property
    def width(self) -> int:
        """The blocks of a tile; of columns they fill lines, if they are as many."""
        width = max(1, TILE // self.block)
        is_cut = not self.is_last and width > LINE
        return width - width % LINE if is_cut else width


NO_BLOCKS = Layout(1, True)


def block_loops(flat: Flat, layout: Layout) -> list[str]:
    """Return the loops over tiles, with a loop for each stage.

    Raises:
      Unsupported: a block is too large.
    """
    if layout.block > LARGEST:
        raise Unsupported(f"blocks of more than {LARGEST} numbers")
    stages = Stages(flat)
    width = layout.width
    lines = [
        f"{_kept_type(flat, n)} t{n}[{size}];"
        for numbers, size in (
            (stages.waiting, width * layout.block),
            (stages.of_blocks, width),
        )
        for n in sorted(numbers)
    ]
    if not layout.is_last:
        return [*lines, *_tile(stages, layout, "WIDTH")]
    read, written = _bytes_read(flat, stages.depths), _bytes_written(flat)
    places = sorted({*read.values(), *written})
    return [
        f"enum {{ WIDTH = {width} }};",
        *lines,
        *(f"int32_t w{place}[WIDTH * BLOCK];" for place in places),
        "for (int64_t done = 0; done < n;) {",
        "  const int64_t first = at + done;",
        "  int32_t w = n - done < WIDTH ? n - done : WIDTH;",
        "  const int64_t base = first / inner * BLOCK;",
        *(f"  {line}" for line in _tile(stages, layout, "w")),
        "  done += w;",
        "}",
    ]


def tables(
    layout: Layout, inputs: Sequence[np.dtype], of_blocks: Collection[int]
) -> str:
    """Return the constants of `c/tiles.h`, and this file.

    Args:
      layout: the layout of blocks that are columns.
      inputs: the dtypes of all arrays.
      of_blocks: the arrays that have one number for each block.
    """
    sizes = [dtype.itemsize for dtype in inputs]
    flags = [int(i in of_blocks) for i in range(len(inputs))]
    return "\n".join(
        [
            f"enum {{ WIDTH = {layout.width}, ARRAYS = {len(inputs)} }};",
            f"enum {{ LARGEST_SIZE = {max(sizes)} }};",
            f"static const int SIZES[] = {{{', '.join(map(str, sizes))}}};",
            f"static const int IS_OF_BLOCKS[] = {{{', '.join(map(str, flags))}}};",
            header("tiles"),
        ]
    )


def _tile(stages: Stages, layout: Layout, width: str) -> list[str]:
    """Return the loops over a tile of so many blocks."""
    lines = []
    for depth in range(stages.count):
        lines += _of_blocks(stages, depth, layout, width)
        lines += _of_elements(stages, depth, layout, width)
    return lines


def _of_blocks(stages: Stages, depth: int, layout: Layout, width: str) -> list[str]:
    """Return the loop over the blocks of a tile."""
    flat = stages.flat
    own = [
        n
        for n, of in stages.depths.items()
        if flat.operations[n].level == BLOCK
        and of == depth
        and flat.operations[n].name != "reduce_max"
    ]
    waiting = [n for n in operands_of(flat, own) if n in stages.of_blocks - set(own)]
    inside = [_read(flat, n, "i") for n in sorted(waiting)]
    index = "first + i" if layout.is_last else "i"
    inside += [declaration(flat, n, index) for n in own]
    inside += [f"t{n}[i] = v{n};" for n in own if n in stages.of_blocks]
    inside += [f"x{i}[{index}] = v{x};" for i, x in stages.outputs(depth, BLOCK)]
    for n in stages.largest(depth):
        dtype = flat.operations[n].dtype
        least = literal(Constant(np.iinfo(dtype).min, dtype))
        inside.append(f"t{n}[i] = {least};")
    return _loop("i", width, inside) if inside else []


def _of_elements(stages: Stages, depth: int, layout: Layout, width: str) -> list[str]:
    """Return the loops over the elements of a tile."""
    flat, own = stages.flat, stages.elements[depth]
    if not own:
        return []
    needed = operands_of(flat, own) - set(own)
    blocks = sorted(n for n in needed if flat.operations[n].level == BLOCK)
    kept = sorted(n for n in needed if flat.operations[n].level == ELEMENT)
    largest = stages.largest(depth)
    of_block = [_read(flat, n, "i") for n in blocks]
    is_widened = layout.is_last
    narrow = _bytes_read(flat, own) if is_widened else {}
    inside = [
        _read(flat, n, "q")
        if n in kept
        else f"const int32_t v{n} = w{narrow[n]}[q];"
        if n in narrow
        else declaration(flat, n)
        for n in sorted([*kept, *own])
    ]
    inside += [
        f"t{n}[q] = v{n};"
        for n in sorted(stages.waiting)
        if stages.depths[n] == depth and n in own
    ]
    results = dict(stages.outputs(depth, ELEMENT))
    cut = [x for x in results if is_widened and x in _bytes_written(flat)]
    inside += [
        f"w{place}[q] = v{x};" if place in cut else f"x{place}[e] = v{x};"
        for place, x in results.items()
    ]
    if layout.is_last:
        for n in largest:
            of_block.append(f"{c_type(flat.operations[n].dtype)} m{n} = t{n}[i];")
            inside.append(_larger(flat, n, f"m{n}"))
        place = [
            "const int64_t q = i * BLOCK + k, e = base + q;",
            "const uint32_t place = (uint32_t)base + (uint32_t)q;",
        ]
        ahead = _fetch(flat, own, "base + (i + w) * BLOCK", "BLOCK")
        rows = _loop("k", "BLOCK", [*place, *inside])
        after = [f"t{n}[i] = m{n};" for n in largest]
        return [
            *(_copied(f"w{x}[q] = x{x}[base + q];") for x in narrow.values()),
            *_loop("i", width, [*ahead, *of_block, *rows, *after]),
            *(_copied(f"x{x}[base + q] = w{x}[q];") for x in cut),
        ]
    inside += [_larger(flat, n, f"t{n}[i]") for n in largest]
    place = [
        "const int64_t q = k * WIDTH + i, e = k * stride + i;",
        "const uint32_t place = places[i] + (uint32_t)k * step;",
    ]
    row = _fetch(flat, own, "ahead + k * stride", width)
    row += _loop("i", width, [*place, *of_block, *inside])
    return _loop("k", "BLOCK", row)


def _copied(statement: str) -> str:
    return f"for (int32_t q = 0; q < w * BLOCK; ++q) {statement}"


def _bytes_read(flat: Flat, numbers: Iterable[int]) -> dict[int, int]:
    """Return the arrays of 8 bits among these operations, by their numbers.

    Where blocks are rows, such arrays are copied to numbers of 32 bits and back in
    loops of their own. In a loop over the 32 elements of a block gcc gives them half a
    register, and then all other numbers too, which takes 1.6 times as long. A tile of
    columns fills the registers, and is 1.1 times as fast without the copies.
    """
    found = {n: flat.operations[n] for n in numbers}
    return {
        n: operation.detail
        for n, operation in found.items()
        if operation.name == "input"
        and operation.level == ELEMENT
        and operation.dtype.name in BYTES
    }


def _bytes_written(flat: Flat) -> set[int]:
    """Return the places of the results of 8 bits."""
    return {
        place
        for place, x in enumerate(flat.outputs, start=1)
        if not isinstance(x, Constant)
        and flat.operations[x].level == ELEMENT
        and flat.operations[x].dtype.name in BYTES
    }


def _fetch(flat: Flat, numbers: Iterable[int], start: str, count: str) -> list[str]:
    """Return the loops that fetch the same elements of the next tile.

    A CPU fetches ahead within a page of 4 kB, and the elements of a tile lie in many.
    The gradient is fetched to the second cache: where rows are a power of two apart,
    those of a tile share few places of the first. 8 bits of float32 take 0.9 of the
    time so.
    """
    lines = []
    for n in numbers:
        operation = flat.operations[n]
        if operation.name == "input" and operation.level == ELEMENT:
            step = LINE // operation.dtype.itemsize
            place = f"x{operation.detail} + {start} + j"
            how = "1" if operation.detail else "0, 2"
            lines += [
                f"for (int32_t j = 0; j < {count}; j += {step})",
                f"  __builtin_prefetch({place}, {how});",
            ]
    return lines


def _larger(flat: Flat, number: int, place: str) -> str:
    (x,) = flat.operations[number].operands
    name = name_of(x)
    return f"{place} = {name} > {place} ? {name} : {place};"


def _read(flat: Flat, number: int, index: str) -> str:
    dtype = flat.operations[number].dtype
    test = " != 0" if dtype == np.bool_ else ""
    return f"const {c_type(dtype)} v{number} = t{number}[{index}]{test};"


def _kept_type(flat: Flat, number: int) -> str:
    """Return the C type of a number that waits; gcc makes no masks of bool arrays."""
    dtype = flat.operations[number].dtype
    return "int32_t" if dtype == np.bool_ else c_type(dtype)


def _loop(variable: str, end: str, lines: Iterable[str]) -> list[str]:
    head = f"for (int32_t {variable} = 0; {variable} < {end}; ++{variable}) {{"
    return [head, *(f"  {line}" for line in lines), "}"]
