"""The C source of a leaf function: a loop over the elements of one piece of a leaf.

Operations on scalars stand before the loop. A selection between two arrays that hangs
on a scalar, such as `where(decay == 0, ...)`, is not made in the loop: each value of
the scalar has a loop of its own, as LLVM makes of XLA's code. Which products are
contracted depends on it.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from optadamw.native.algebra import simplified
from optadamw.native.contraction import contracted
from optadamw.native.flat import Constant, Flat, Operand, Operation
from optadamw.native.numbers import c_type, expression, literal
from optadamw.native.order import in_order

MOST_CHOICES = 3
"""More scalars than these are tested inside the loop: 2**3 loops are enough source."""


class Loops(NamedTuple):
    """The C source of a leaf function, and what it reads and writes."""

    source: str
    """Defines `kernel(s, in, out, at, n)`."""
    scalars: tuple[np.dtype, ...]
    inputs: tuple[np.dtype, ...]
    outputs: tuple[np.dtype, ...]


def loops_of(
    flat: Flat, scalars: Sequence[np.dtype], inputs: Sequence[np.dtype]
) -> Loops:
    """Write the loops of a leaf function.

    Input `i` is overwritten by output `i - 1`: the first input is the gradient, the
    others are the parameter and its buffers.

    Args:
      flat: the operations.
      scalars: the dtypes of the scalars.
      inputs: the dtypes of gradient, parameter and buffers.

    Raises:
      Unsupported: an operation has no C expression with the bits of XLA.
    """
    flat = in_order(simplified(flat))
    predicates = _predicates(flat)
    parts, names = [], []
    for values in itertools.product((False, True), repeat=len(predicates)):
        chosen = dict(zip(predicates, values, strict=True))
        name = "loop" + "".join(str(int(v)) for v in values)
        own = contracted(_chosen(flat, chosen))
        parts.append(_loop(name, own, scalars, inputs))
        names.append(name)
    parts.append(_kernel(flat, predicates, names, scalars))
    return Loops(
        "\n".join(parts),
        tuple(scalars),
        tuple(inputs),
        tuple(_dtype(flat, x) for x in flat.outputs),
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


def _loop(
    name: str, flat: Flat, scalars: Sequence[np.dtype], inputs: Sequence[np.dtype]
) -> str:
    before, inside = _statements(flat)
    pointers = [
        f"const {c_type(d)} *restrict x{i} = (const {c_type(d)} *)x[{i}] + at;"
        if i == 0
        else f"{c_type(d)} *restrict x{i} = ({c_type(d)} *)x[{i}] + at;"
        for i, d in enumerate(inputs)
    ]
    stores = [f"x{i}[i] = {_name(x)};" for i, x in enumerate(flat.outputs, start=1)]
    lines = [
        f"static void {name}(const void *const *s, void *const *x, int64_t at,",
        "    int64_t n) {",
        *(f"  {line}" for line in (*pointers, *before)),
        "  for (int64_t i = 0; i < n; ++i) {",
        *(f"    {line}" for line in (*inside, *stores)),
        "  }",
        "}",
    ]
    return "\n".join(lines)


def _kernel(
    flat: Flat, predicates: Sequence[int], names: Sequence[str], scalars: object
) -> str:
    """Return the function that picks the loop."""
    tests = Flat(list(flat.operations), list(predicates))
    before, _ = _statements(tests)
    index = " | ".join(
        f"{_name(x)} << {len(predicates) - 1 - i}" for i, x in enumerate(predicates)
    )
    cases = [
        f"    case {i}: {name}(s, x, at, n); return;" for i, name in enumerate(names)
    ]
    lines = [
        "static void kernel(const void *const *s, void *const *x, int64_t at,",
        "    int64_t n) {",
        *(f"  {line}" for line in before),
        f"  switch ({index or '0'}) {{",
        *cases,
        "  }",
        "}",
    ]
    return "\n".join(lines)


def _statements(flat: Flat) -> tuple[list[str], list[str]]:
    """Return the declarations before the loop, and those inside."""
    inside: list[str] = []
    before = ["const float one = *(const volatile float *)&ONE;", "(void)one;"]
    for number in flat.used(flat.outputs):
        operation = flat.operations[number]
        kind = c_type(operation.dtype)
        if operation.name == "scalar":
            value = f"*(const {kind} *)s[{operation.detail}]"
        elif operation.name == "input":
            value = f"x{operation.detail}[i]"
        else:
            names = [_name(x) for x in operation.operands]
            dtypes = [_dtype(flat, x) for x in operation.operands]
            value = expression(operation, names, dtypes)
        place = before if operation.is_uniform else inside
        place.append(f"const {kind} v{number} = {value};")
    return before, inside


def _name(x: Operand) -> str:
    return literal(x) if isinstance(x, Constant) else f"v{x}"


def _dtype(flat: Flat, x: Operand) -> np.dtype:
    return x.dtype if isinstance(x, Constant) else flat.operations[x].dtype
