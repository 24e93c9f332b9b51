"""Loops over the blocks of a leaf: the largest number of a block first, then its codes.

A leaf lies in memory as panels, rows of a block, and columns: element k of block
`panel * inner + i` is `(panel * BLOCK + k) * inner + i`. A tile is some blocks that are
neighbours. It is computed in stages: first each number that needs no largest number of
a block, and the largest numbers of all of these; then each number that needs those; and
so on. Numbers that a later stage needs wait in arrays of the size of a tile, unless
they follow from one number that waits already.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from optadamw.native.flat import BLOCK, ELEMENT, Constant, Flat, Unsupported
from optadamw.native.numbers import c_type, literal
from optadamw.native.statements import declaration, name_of, operands_of

TILE = 4096
"""The elements of a tile: two arrays of float32 of this length fit into 32 kB."""


class Layout(NamedTuple):
    """How the elements of a leaf lie in blocks."""

    block: int
    """The elements of a block."""
    is_last: bool
    """Whether blocks lie along the last axis, where their elements are neighbours."""


NO_BLOCKS = Layout(1, True)


def block_loops(flat: Flat, layout: Layout) -> list[str]:
    """Return the loops over tiles, with a loop for each stage.

    Raises:
      Unsupported: a block is larger than a tile.
    """
    if layout.block > TILE:
        raise Unsupported(f"blocks of more than {TILE} numbers")
    stages = _Stages(flat)
    width = TILE // layout.block
    lines = [f"enum {{ WIDTH = {width} }};"]
    lines += [
        f"{_kept_type(flat, n)} t{n}[{size}];"
        for numbers, size in (
            (stages.waiting, width * layout.block),
            (stages.of_blocks, width),
        )
        for n in sorted(numbers)
    ]
    lines += [
        "for (int64_t done = 0; done < n;) {",
        "  const int64_t first = at + done;",
        "  const int64_t panel = first / inner, column = first % inner;",
        "  int64_t w = n - done < WIDTH ? n - done : WIDTH;",
    ]
    if layout.is_last:
        lines += ["  (void)column;", "  const int64_t base = panel * BLOCK;"]
    else:
        lines += [
            "  if (w > inner - column) w = inner - column;",
            "  const int64_t base = panel * BLOCK * inner + column;",
        ]
    for depth in range(stages.count):
        lines += [f"  {line}" for line in _of_blocks(stages, depth)]
        lines += [f"  {line}" for line in _of_elements(stages, depth, layout)]
    return [*lines, "  done += w;", "}"]


class _Stages:
    """Which operations each stage computes, and which wait for a later one."""

    def __init__(self, flat: Flat):
        self.flat = flat
        self.depths: dict[int, int] = {}
        for number in flat.used(flat.outputs):
            below = [self.depths[x] for x in operands_of(flat, [number])]
            is_largest = flat.operations[number].name == "reduce_max"
            self.depths[number] = max(below, default=0) + is_largest
        self._known: dict[int, set[int]] = {}
        self.count = 1 + max(self.depths.values(), default=0)
        self.waiting: set[int] = set()
        """Numbers of elements that are kept for a later stage."""
        self.elements: list[list[int]] = [[] for _ in range(self.count)]
        """The operations on elements in each stage."""
        for depth in reversed(range(self.count)):
            self.elements[depth] = self._closure(depth)
        read = {
            x
            for numbers in self.elements
            for x in operands_of(flat, numbers)
            if flat.operations[x].level == BLOCK
        }
        largest = {n for n in self.depths if flat.operations[n].name == "reduce_max"}
        later = {
            x
            for n in self.depths
            if flat.operations[n].level == BLOCK and n not in largest
            for x in operands_of(flat, [n])
            if flat.operations[x].level == BLOCK and self.depths[x] < self.depths[n]
        }
        self.of_blocks = read | later | largest
        """Numbers of blocks that are kept."""

    def outputs(self, depth: int, level: int) -> list[tuple[int, int]]:
        """Return the places and numbers of the results of a stage."""
        return [
            (place, x)
            for place, x in enumerate(self.flat.outputs, start=1)
            if not isinstance(x, Constant)
            and self.flat.operations[x].level == level
            and self.depths[x] == depth
        ]

    def largest(self, depth: int) -> list[int]:
        """Return the largest numbers that the elements of a stage have."""
        return [
            n
            for n, of in self.depths.items()
            if self.flat.operations[n].name == "reduce_max" and of == depth + 1
        ]

    def _closure(self, depth: int) -> list[int]:
        """Return what a stage computes, and note what it needs of earlier ones."""
        flat = self.flat
        kept = [n for n in self.waiting if self.depths[n] == depth]
        waiting = [x for _, x in self.outputs(depth, ELEMENT)]
        waiting += [*operands_of(flat, self.largest(depth)), *kept]
        found: set[int] = set()
        while waiting:
            number = waiting.pop()
            if number in found or flat.operations[number].level != ELEMENT:
                continue
            if self.depths[number] < depth and not self._follows(number):
                self.waiting.add(number)
                continue
            found.add(number)
            waiting += operands_of(flat, [number])
        return sorted(found)

    def _follows(self, number: int) -> bool:
        """Return whether a number is computed anew from at most one that waits."""
        return self._sources(number) != {number}

    def _sources(self, number: int) -> set[int]:
        """Return from which one number of the same element, if any, a number follows.

        One that follows from several is its own source, as are those in memory, which
        an earlier stage may have overwritten.
        """
        if number not in self._known:
            found: set[int] = set()
            for x in operands_of(self.flat, [number]):
                if self.flat.operations[x].level == ELEMENT:
                    found |= self._sources(x)
            if len(found) > 1 or self.flat.operations[number].name == "input":
                found = {number}
            self._known[number] = found
        return self._known[number]


def _of_blocks(stages: _Stages, depth: int) -> list[str]:
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
    inside += [declaration(flat, n, "first + i") for n in own]
    inside += [f"t{n}[i] = v{n};" for n in own if n in stages.of_blocks]
    inside += [f"x{i}[first + i] = v{x};" for i, x in stages.outputs(depth, BLOCK)]
    for n in stages.largest(depth):
        dtype = flat.operations[n].dtype
        least = literal(Constant(np.iinfo(dtype).min, dtype))
        inside.append(f"t{n}[i] = {least};")
    return _loop("i", "w", inside) if inside else []


def _of_elements(stages: _Stages, depth: int, layout: Layout) -> list[str]:
    """Return the loops over the elements of a tile."""
    flat, own = stages.flat, stages.elements[depth]
    if not own:
        return []
    needed = operands_of(flat, own) - set(own)
    blocks = sorted(n for n in needed if flat.operations[n].level == BLOCK)
    kept = sorted(n for n in needed if flat.operations[n].level == ELEMENT)
    largest = stages.largest(depth)
    of_block = [_read(flat, n, "i") for n in blocks]
    inside = [
        _read(flat, n, "q") if n in kept else declaration(flat, n)
        for n in sorted([*kept, *own])
    ]
    inside += [
        f"t{n}[q] = v{n};"
        for n in sorted(stages.waiting)
        if stages.depths[n] == depth and n in own
    ]
    inside += [f"x{i}[e] = v{x};" for i, x in stages.outputs(depth, ELEMENT)]
    if layout.is_last:
        for n in largest:
            of_block.append(f"{c_type(flat.operations[n].dtype)} m{n} = t{n}[i];")
            inside.append(_larger(flat, n, f"m{n}"))
        place = ["const int64_t q = i * BLOCK + k, e = base + q;"]
        rows = _loop("k", "BLOCK", [*place, *inside])
        after = [f"t{n}[i] = m{n};" for n in largest]
        return _loop("i", "w", [*of_block, *rows, *after])
    inside += [_larger(flat, n, f"t{n}[i]") for n in largest]
    place = ["const int64_t q = k * WIDTH + i, e = base + k * inner + i;"]
    return _loop("k", "BLOCK", _loop("i", "w", [*place, *of_block, *inside]))


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
    head = f"for (int64_t {variable} = 0; {variable} < {end}; ++{variable}) {{"
    return [head, *(f"  {line}" for line in lines), "}"]
