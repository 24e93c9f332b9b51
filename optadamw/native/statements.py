"""Operations as declarations of C: `const float v7 = v3 * v5;`."""

from collections.abc import Iterable

import numpy as np

from optadamw.native.flat import SCALAR, Constant, Flat, Operand
from optadamw.native.numbers import c_type, expression, literal


def statements(flat: Flat, level: int) -> list[str]:
    """Return the declarations of all used operations of a level."""
    numbers = flat.used(flat.outputs)
    chosen = [n for n in numbers if flat.operations[n].level == level]
    lines = [declaration(flat, n) for n in chosen]
    if level == SCALAR:
        # A number that the compiler does not know (see numbers.h).
        lines[:0] = ["const float one = *(const volatile float *)&ONE;", "(void)one;"]
    return lines


def declaration(flat: Flat, number: int, index: str = "e") -> str:
    """Return the declaration of an operation; `index` is the place in its array."""
    operation = flat.operations[number]
    kind = c_type(operation.dtype)
    if operation.name == "scalar":
        value = f"*(const {kind} *)s[{operation.detail}]"
    elif operation.name == "input":
        value = f"x{operation.detail}[{index}]"
    else:
        names = [name_of(x) for x in operation.operands]
        dtypes = [dtype_of(flat, x) for x in operation.operands]
        value = expression(operation, names, dtypes)
    return f"const {kind} v{number} = {value};"


def name_of(x: Operand) -> str:
    """Return the C expression of an operand."""
    return literal(x) if isinstance(x, Constant) else f"v{x}"


def dtype_of(flat: Flat, x: Operand) -> np.dtype:
    """Return the dtype of an operand."""
    return x.dtype if isinstance(x, Constant) else flat.operations[x].dtype


def operands_of(flat: Flat, numbers: Iterable[int]) -> set[int]:
    """Return the operands of these operations that are no constants."""
    found = (x for n in numbers for x in flat.operations[n].operands)
    return {x for x in found if not isinstance(x, Constant)}
