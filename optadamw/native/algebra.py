"""The arithmetic that XLA puts in the place of a rule's own, before LLVM sees it.

XLA's algebraic simplifier rewrites expressions with other bits. Where it does so in
every program, so does `simplified`:

    x ** n       products, as JAX lowers them
    x / 3        x * (1/3), with the reciprocal in the dtype of x
    x + 0        x, also if x is -0.0 or a denormal
    abs(x * x)   x * x

Where it depends on the rest of the program or the version of XLA, the leaf function is
refused, and XLA runs it: a division by a scalar, a root or a quotient; several
constants, or a constant and a scalar, in one product; several constants in one sum; the
square of a root, the product of two magnitudes, and the larger or smaller of a number
and a denormal constant.
"""

import jax.numpy as jnp
import numpy as np

from optadamw.native.flat import Constant, Flat, Operand, Operation, Unsupported

SUMS = ("add", "add_any", "sub")
PRODUCTS = ("mul", "div")


def simplified(flat: Flat) -> Flat:
    """Return the operations that XLA makes of `flat`.

    Raises:
      Unsupported: XLA would rewrite them in one of several ways.
    """
    _check_all(flat)
    made = flat.rewritten(_changed)
    # Powers have become products and quotients.
    _check_all(made)
    return made


def _check_all(flat: Flat) -> None:
    for number in flat.used(flat.outputs):
        operation = flat.operations[number]
        if operation.dtype.kind == "f":
            _check(flat, operation)


def _changed(operation: Operation, new: Flat) -> Operand | None:
    """Return the operand that takes the place of an operation; None: it stays."""
    if operation.dtype.kind != "f":
        return None
    if operation.name == "square":
        return _power(operation, 2, new)
    if operation.name == "integer_pow":
        return _power(operation, operation.detail, new)
    if operation.name == "div":
        number, divisor = operation.operands
        if isinstance(divisor, Constant) and not isinstance(number, Constant):
            product = (number, _inverse(divisor))
            return new.add(operation._replace(name="mul", operands=product))
    if operation.name == "abs":
        below = _operation(new, operation.operands[0])
        if below is not None and _is_square(below):
            return operation.operands[0]
    if operation.name in ("add", "add_any"):
        for zero, other in (operation.operands, operation.operands[::-1]):
            if isinstance(zero, Constant) and zero.value == 0:
                return other
    return None


def _power(operation: Operation, exponent: int, new: Flat) -> Operand | None:
    """Return the products of a power in the order of JAX's lowering."""
    (x,) = operation.operands
    if isinstance(x, Constant):
        return None

    def times(a: Operand, b: Operand) -> Operand:
        return new.add(operation._replace(name="mul", operands=(a, b), detail=None))

    one = Constant(operation.dtype.type(1), operation.dtype)
    made: Operand | None = None
    rest = abs(exponent)
    while rest:
        if rest & 1:
            made = x if made is None else times(made, x)
        rest >>= 1
        if rest:
            x = times(x, x)
    if made is None:
        return one
    if exponent > 0:
        return made
    return new.add(operation._replace(name="div", operands=(one, made), detail=None))


def _inverse(divisor: Constant) -> Constant:
    with np.errstate(all="ignore"):
        value = divisor.dtype.type(1) / divisor.dtype.type(divisor.value)
    return Constant(value, divisor.dtype)


def _check(flat: Flat, operation: Operation) -> None:
    """Refuse an operation that XLA rewrites in some programs or versions only."""
    name = operation.name
    if name == "div":
        _check_quotient(flat, operation)
    if name == "sqrt":
        below = _operation(flat, operation.operands[0])
        if below is not None and below.name == "abs":
            below = _operation(flat, below.operands[0])
        if below is not None and _is_square(below):
            raise Unsupported("XLA may leave out the root of a square")
    if name in ("max", "min") and any(map(_is_denormal, operation.operands)):
        raise Unsupported(f"{name} with a denormal constant is a zero of either sign")
    if _is_product(operation):
        if len(_constants(flat, operation, PRODUCTS)) > 1:
            raise Unsupported("XLA may multiply the constants of a product first")
        _check_factors(flat, operation)
        _check_product(flat, operation)
    if name in SUMS:
        if len(_constants(flat, operation, SUMS)) > 1:
            raise Unsupported("XLA may add the constants of a sum first")
        _check_common_factor(flat, operation)


def _check_quotient(flat: Flat, operation: Operation) -> None:
    above, below = (_operation(flat, x) for x in operation.operands)
    if above is not None and above.name == "neg":
        above = _operation(flat, above.operands[0])
    for part in (above, below):
        if part is not None and part.name == "div":
            raise Unsupported("XLA makes one division of two")
    if below is None:
        return
    if below.name == "sqrt":
        raise Unsupported("XLA multiplies by the reciprocal of a square root")
    if below.is_uniform and not operation.is_uniform:
        raise Unsupported("XLA may multiply by the reciprocal of a scalar")


def _check_factors(flat: Flat, operation: Operation) -> None:
    """Refuse `(x * 0.3) * scalar`, of which jax 0.10 makes `x * (0.3 * scalar)`."""
    parts = [_operation(flat, x) for x in operation.operands]
    for scalar, other in (parts, parts[::-1]):
        if scalar is None or other is None or operation.is_uniform:
            continue
        if scalar.is_uniform and _is_product(other):
            if any(isinstance(x, Constant) for x in other.operands):
                raise Unsupported("XLA may multiply a constant and a scalar first")


def _check_product(flat: Flat, operation: Operation) -> None:
    """Refuse `sqrt(x) * sqrt(x)` and `abs(x) * abs(y)`."""
    parts = [_operation(flat, x) for x in operation.operands]
    names = [None if part is None else part.name for part in parts]
    if _is_square(operation) and names[0] == "sqrt":
        raise Unsupported("XLA leaves out the square of a root")
    if names == ["abs", "abs"]:
        raise Unsupported("XLA may take the magnitude of a product of two")


def _check_common_factor(flat: Flat, operation: Operation) -> None:
    """Refuse `x * c + y * c` with a power of two: XLA makes `(x + y) * c` of it."""
    factors = []
    for x in operation.operands:
        part = _operation(flat, x)
        if part is None or part.name != "mul":
            return
        constants = [y for y in part.operands if isinstance(y, Constant)]
        factors.append({float(y.value) for y in constants})
    common = factors[0] & factors[1]
    if any(np.frexp(abs(value))[0] == 0.5 for value in common):
        raise Unsupported("XLA multiplies a sum by the power of two in its terms")


def _constants(flat: Flat, operation: Operation, names: tuple[str, ...]) -> list[str]:
    """Return the constants of a product or sum with all products or sums in it."""
    found = []
    for place, x in enumerate(operation.operands):
        if isinstance(x, Constant):
            found.append(str(x.value))
            continue
        part = flat.operations[x]
        is_divisor = operation.name == "div" and place == 1
        if part.name in names and not is_divisor:
            found += _constants(flat, part, names)
    return found


def _is_denormal(x: Operand) -> bool:
    """Return whether `x` is a constant that XLA's threads take for a zero."""
    if not isinstance(x, Constant):
        return False
    return bool(0 < abs(x.value) < jnp.finfo(x.dtype).tiny)


def _is_product(operation: Operation) -> bool:
    """Return whether an operation is a product, or a division by a constant."""
    if operation.name == "div":
        return isinstance(operation.operands[1], Constant)
    return operation.name == "mul"


def _is_square(operation: Operation) -> bool:
    if operation.name in ("square", "integer_pow"):
        return operation.name == "square" or operation.detail % 2 == 0
    return operation.name == "mul" and operation.operands[0] == operation.operands[1]


def _operation(flat: Flat, x: Operand) -> Operation | None:
    return None if isinstance(x, Constant) else flat.operations[x]
