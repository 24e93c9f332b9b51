"""The C source of a leaf function: a loop over the elements of one piece of a leaf.

Operations on scalars stand before the loop. A selection between two arrays that hangs
on a scalar, such as `where(decay == 0, ...)`, is not made in the loop: each value of
the scalar has a loop of its own, as LLVM makes of XLA's code. Which products are
contracted depends on it.
"""

import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from optadamw.native.algebra import simplified
from optadamw.native.blocks import NO_BLOCKS, Layout, block_loops, tables
from optadamw.native.contraction import contracted
from optadamw.native.flat import ELEMENT, SCALAR, Constant, Flat, Operand, Operation
from optadamw.native.numbers import c_type
from optadamw.native.order import in_order
from optadamw.native.statements import dtype_of, name_of, statements

MOST_CHOICES = 3
"""More scalars than these are tested inside the loop: 2**3 loops are enough source."""

ARGUMENTS = "const void *const *s, void *const *x, int64_t at, int64_t n, int64_t inner"
OF_TILE = (
    "const void *const *s, void *const *x, int64_t stride, int64_t ahead, "
    "const uint32_t *places, uint32_t step"
)
"""The arguments of the loops over a tile of columns (`c/tiles.h`)."""


class Loops(NamedTuple):
    """The C source of a leaf function, and what it reads and writes."""

    source: str
    """Defines `kernel(s, x, at, n, inner)`, which runs `n` blocks from block `at` on,
    and BLOCK, the elements of a block."""
    scalars: tuple[np.dtype, ...]
    inputs: tuple[np.dtype, ...]
    outputs: tuple[np.dtype, ...]


def loops_of(
    flat: Flat,
    scalars: Sequence[np.dtype],
    inputs: Sequence[np.dtype],
    layout: Layout = NO_BLOCKS,
    of_blocks: Collection[int] = (),
) -> Loops:
    """Write the loops of a leaf function.

    Input `i` is overwritten by output `i - 1`: the first input is the gradient, the
    others are the parameter and its buffers.

    Args:
      flat: the operations.
      scalars: the dtypes of the scalars.
      inputs: the dtypes of gradient, parameter and buffers.
      layout: how the elements of a leaf lie in blocks; default: they do not.
      of_blocks: the inputs that have one number for each block, also those that no
        operation reads.

    Raises:
      Unsupported: an operation has no C expression with the bits of XLA.
    """
    flat = in_order(simplified(flat))
    predicates = _predicates(flat)
    parts, names = [f"enum {{ BLOCK = {layout.block} }};"], []
    if not layout.is_last:
        parts.append(tables(layout, inputs, of_blocks))
    arguments = ARGUMENTS if layout.is_last else OF_TILE
    pointers = [_pointer(i, dtype) for i, dtype in enumerate(inputs)]
    for values in itertools.product((False, True), repeat=len(predicates)):
        chosen = dict(zip(predicates, values, strict=True))
        name = "loop" + "".join(str(int(v)) for v in values)
        own = contracted(_chosen(flat, chosen))
        body = element_loop(own) if layout.block == 1 else block_loops(own, layout)
        lines = [*pointers, *statements(own, SCALAR), *body]
        parts.append(_function(name, lines, arguments))
        names.append(name)
    parts.append(_kernel(flat, predicates, names, layout))
    return Loops(
        "\n".join(parts),
        tuple(scalars),
        tuple(inputs),
        tuple(dtype_of(flat, x) for x in flat.outputs),
    )


def _predicates(flat: Flat) -> list[int]:
    """Return the scalars on which selections between arrays hang."""
    found = []
    for number in flat.used(flat.outputs):
        operation = flat.operations[number]
        if operation.name == "select_n" and not operation.is_uniform:
            test = operation.operands[0]
            if not isinstance(test, Constant) and flat.operations[test].is_uniform:
                found.append(test)
    found = list(dict.fromkeys(found))
    return found if len(found) <= MOST_CHOICES else []


def _chosen(flat: Flat, values: Mapping[int, bool]) -> Flat:
    """Return the operations where these scalars have these values."""
    if not values:
        return flat
    truth = np.dtype(np.bool_)
    keys = {
        (flat.operations[number].name, number): Constant(np.bool_(value), truth)
        for number, value in values.items()
    }
    numbers = iter(flat.used(flat.outputs))

    def change(operation: Operation, new: Flat) -> Operand | None:
        known = keys.get((operation.name, next(numbers)))
        if known is not None:
            return known
        if operation.name == "select_n" and isinstance(operation.operands[0], Constant):
            return operation.operands[2 if operation.operands[0].value else 1]
        return None

    return flat.rewritten(change)


def element_loop(flat: Flat) -> list[str]:
    """Return the loop over the elements of a leaf without blocks."""
    inside = statements(flat, ELEMENT)
    stores = [f"x{i}[e] = {name_of(x)};" for i, x in enumerate(flat.outputs, start=1)]
    return [
        "(void)inner;",
        # An element is read and written at one place. gcc 12 takes `restrict` of local
        # pointers for nothing, compares all pairs of arrays before the loop, and leaves
        # it as it is if these are more than 10.
        "#pragma GCC ivdep",
        "for (int64_t i = 0; i < n; ++i) {",
        "  const int64_t e = at + i;",
        "  const uint32_t place = (uint32_t)at + (uint32_t)i;",
        *(f"  {line}" for line in (*inside, *stores)),
        "}",
    ]


def _pointer(number: int, dtype: np.dtype) -> str:
    kind = f"const {c_type(dtype)}" if number == 0 else c_type(dtype)
    return f"{kind} *restrict x{number} = ({kind} *)x[{number}];"


def _function(name: str, lines: Sequence[str], arguments: str = ARGUMENTS) -> str:
    head = f"static void {name}({arguments}) {{"
    return "\n".join([head, *(f"  {line}" for line in lines), "}"])


def _kernel(
    flat: Flat, predicates: Sequence[int], names: Sequence[str], layout: Layout
) -> str:
    """Return the function that picks the loop."""
    tests = Flat(list(flat.operations), list(predicates))
    index = " | ".join(
        f"{name_of(x)} << {len(predicates) - 1 - i}" for i, x in enumerate(predicates)
    )
    given = "s, x, at, n, inner"
    calls = [
        f"{x}({given})" if layout.is_last else f"run_tiles({x}, {given})" for x in names
    ]
    cases = [f"  case {i}: {call}; return;" for i, call in enumerate(calls)]
    lines = [*statements(tests, SCALAR), f"switch ({index or '0'}) {{", *cases, "}"]
    return _function("kernel", lines)
