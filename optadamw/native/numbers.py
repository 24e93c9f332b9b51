"""Dtypes and operations of JAX as types and expressions of C."""

import math
from collections.abc import Sequence

import numpy as np

from optadamw.native.flat import Constant, Operation, Unsupported

TYPES = {
    "bool": "bool",
    **{f"int{n}": f"int{n}_t" for n in (8, 16, 32, 64)},
    **{f"uint{n}": f"uint{n}_t" for n in (8, 16, 32, 64)},
    # The header declares them as 16 bits, with which C does not compute.
    **{"bfloat16": "bf16", "float16": "f16"},
    **{"float32": "float", "float64": "double"},
}
SUFFIX = {"float32": "f", "float64": ""}
"""The dtypes in which C computes, with the ends of the names of their functions."""

INFIX = {
    **{"add": "+", "add_any": "+", "sub": "-", "mul": "*", "div": "/"},
    **{"and": "&", "or": "|", "xor": "^"},
}
COMPARISONS = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}
SHIFTS = ("shift_left", "shift_right_logical", "shift_right_arithmetic")
SHIFTED = ("int32", "uint32", "int64", "uint64")
BITS = (
    *({"float32", "uint32"}, {"float32", "int32"}, {"int32", "uint32"}),
    *({"float64", "uint64"}, {"bfloat16", "uint16"}, {"float16", "uint16"}),
)
NARROW = ("bfloat16", "float16")
"""The dtypes that are kept as bits; `numbers.h` has functions for them."""

BUILTIN = {"sqrt": "sqrt", "abs": "fabs", "floor": "floor", "ceil": "ceil"}
"""Functions that IEEE 754 rounds exactly; exp and its like are approximations."""


def is_float(dtype: np.dtype) -> bool:
    """Return whether numbers of a dtype are floats; bfloat16 is not one of NumPy's."""
    return dtype.kind == "f" or dtype.name == "bfloat16"


def c_type(dtype: np.dtype) -> str:
    """Return the C type of a dtype.

    Raises:
      Unsupported: a loop does not compute with such numbers, as with complex ones.
    """
    if dtype.name not in TYPES:
        raise Unsupported(f"a number is {dtype.name}")
    return TYPES[dtype.name]


def literal(constant: Constant) -> str:
    """Return a constant as C source, exact to the bit."""
    value, dtype = constant
    kind = c_type(dtype)
    if dtype == np.bool_:
        return "true" if value else "false"
    if dtype.name in NARROW:
        wide = literal(Constant(np.float32(value), np.dtype(np.float32)))
        return f"to_{kind}({wide})"
    if is_float(dtype):
        return f"({_float_literal(float(value), SUFFIX[dtype.name])})"
    # As bits, since C has no literal for the smallest int64.
    return f"(({kind}){int(value) % 2**64}ull)"


def _float_literal(value: float, suffix: str) -> str:
    sign = "-" if math.copysign(1, value) < 0 else ""
    if math.isnan(value):
        return f'{sign}__builtin_nan{suffix}("")'
    if math.isinf(value):
        return f"{sign}__builtin_inf{suffix}()"
    return value.hex() + suffix


def expression(
    operation: Operation, operands: Sequence[str], dtypes: Sequence[np.dtype]
) -> str:
    """Return the C expression of an operation.

    Args:
      operation: the operation.
      operands: the C expressions of its operands, each a name or in parentheses.
      dtypes: the dtypes of its operands.

    Raises:
      Unsupported: no C expression is known to have the bits of XLA.
    """
    name, dtype = operation.name, operation.dtype
    if name == "convert_element_type":
        return _conversion(operands[0], dtypes[0], dtype)
    if name == "bitcast_convert_type":
        if {dtypes[0].name, dtype.name} not in BITS:
            raise Unsupported(f"the bits of {dtypes[0].name} become {dtype.name}")
        return f"{dtypes[0].name}_as_{dtype.name}({operands[0]})"
    if name == "select_n":
        if len(operands) != 3 or dtypes[0] != np.bool_:
            raise Unsupported("a selection is not between two values")
        return f"{operands[0]} ? {operands[2]} : {operands[1]}"
    if name == "iota":
        return f"({c_type(dtype)})place"
    if name in COMPARISONS:
        left, right = map(widened, operands, dtypes)
        return f"{left} {COMPARISONS[name]} {right}"
    if name == "is_finite":
        suffix = "" if dtypes[0].name == "float64" else "f"
        size = f"__builtin_fabs{suffix}({widened(operands[0], dtypes[0])})"
        return f"{size} < __builtin_inf{suffix}()"
    if name == "nextafter" and dtype.name in NARROW:
        return f"nextafter_{dtype.name}({operands[0]}, {operands[1]})"
    if is_float(dtype):
        return _of_floats(operation, operands)
    return _of_integers(operation, operands)


def _of_floats(operation: Operation, operands: Sequence[str]) -> str:
    name, dtype = operation.name, operation.dtype
    if dtype.name not in SUFFIX:
        # XLA may keep more digits between two operations on 16 bits, or fewer.
        raise Unsupported(f"{name} is computed in {dtype.name}")
    suffix = SUFFIX[dtype.name]
    if name == "fma":
        sign, sign_of_addend = operation.detail
        a, b, c = operands
        return f"FMA{suffix}({sign}{a}, {b}, {sign_of_addend}{c})"
    if name in ("add", "add_any", "sub", "mul", "div"):
        return f"{operands[0]} {INFIX[name]} {operands[1]}"
    if name == "square" or (name == "integer_pow" and operation.detail == 2):
        return f"{operands[0]} * {operands[0]}"
    if name == "neg":
        return f"-{operands[0]}"
    if name in BUILTIN:
        return f"__builtin_{BUILTIN[name]}{suffix}({operands[0]})"
    if name in ("max", "min"):
        return f"{name}_{dtype.name}({operands[0]}, {operands[1]}, one)"
    if name == "sign":
        return f"sign_{dtype.name}({operands[0]}, one)"
    if name == "clamp":
        low, x, high = operands
        return f"min_{dtype.name}(max_{dtype.name}({low}, {x}, one), {high}, one)"
    raise Unsupported(f"{name} has no C expression with the bits of XLA")


def _of_integers(operation: Operation, operands: Sequence[str]) -> str:
    name, kind = operation.name, c_type(operation.dtype)
    if name == "not":
        return f"!{operands[0]}" if kind == "bool" else f"({kind})~{operands[0]}"
    if name in ("and", "or", "xor"):
        return f"({kind})({operands[0]} {INFIX[name]} {operands[1]})"
    if kind == "bool":
        raise Unsupported(f"{name} is computed in bool")
    if name in ("add", "add_any", "sub", "mul"):
        # Unsigned numbers wrap in C; int does not, nor two uint16_t.
        wide = "uint64_t" if operation.dtype.itemsize == 8 else "uint32_t"
        left, right = (f"({wide}){x}" for x in operands)
        return f"({kind})({left} {INFIX[name]} {right})"
    if name in ("max", "min"):
        sign = ">" if name == "max" else "<"
        return f"({operands[0]} {sign} {operands[1]}) ? {operands[0]} : {operands[1]}"
    if name in SHIFTS and operation.dtype.name in SHIFTED:
        return f"{name}_{operation.dtype.name}({operands[0]}, {operands[1]})"
    raise Unsupported(f"{name} of integers has no C expression with the bits of XLA")


def _conversion(x: str, old: np.dtype, new: np.dtype) -> str:
    if old == new:
        return x
    if new == np.bool_:
        return f"{widened(x, old)} != 0"
    if is_float(old) and not is_float(new):
        raise Unsupported("a float becomes an integer")
    if new.name in NARROW:
        # By way of float32, as XLA rounds a double.
        if old.name not in (*NARROW, "float32", "float64", "bool"):
            raise Unsupported(f"{old.name} becomes {new.name}")
        return f"to_{c_type(new)}((float){widened(x, old)})"
    return f"({c_type(new)}){widened(x, old)}"


def widened(x: str, dtype: np.dtype) -> str:
    """Return a number in a type with which C computes."""
    return f"from_{c_type(dtype)}({x})" if dtype.name in NARROW else x
