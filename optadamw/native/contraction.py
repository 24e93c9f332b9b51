"""Products that LLVM contracts with a sum: fma(a, b, c) for a * b + c, rounded once.

XLA lets LLVM contract a product whose only use is an addition or subtraction, the left
operand first. XLA's CPU backend computes each result in a loop of its own, so that only
the uses inside one result count; a product that is a result itself is read from memory.
A generated loop has all results; it contracts the
same products, and the C compiler is told to contract none by itself.
"""

import numpy as np

from optadamw.native.flat import Constant, Flat, Operand, Operation


def contracted(flat: Flat) -> Flat:
    """Return the operations with products contracted as XLA contracts them."""
    new = Flat()
    new.outputs = [_one_result(flat, new, output) for output in flat.outputs]
    return new


def _one_result(flat: Flat, new: Flat, output: Operand) -> Operand:
    """Append the operations of one result, and return its number."""
    if isinstance(output, Constant):
        return output
    numbers = flat.used([output])
    uses = dict.fromkeys(numbers, 0)
    uses[output] = 1
    for number in numbers:
        for x in flat.operations[number].operands:
            if not isinstance(x, Constant):
                uses[x] += 1
    places: dict[int, Operand] = {}

    def moved(x: Operand) -> Operand:
        return x if isinstance(x, Constant) else places[x]

    def product(x: Operand) -> tuple[Operand, ...] | None:
        """Return the factors of a product with a single use."""
        if isinstance(x, Constant) or uses[x] != 1 or x in flat.outputs:
            return None
        operation = flat.operations[x]
        if operation.name != "mul" or operation.is_uniform:
            return None
        return tuple(map(moved, operation.operands))

    for number in numbers:
        operation = flat.operations[number]
        made = operation._replace(operands=tuple(map(moved, operation.operands)))
        if operation.name in ("add", "add_any", "sub") and _contracts(operation):
            left, right = operation.operands
            is_difference = operation.name == "sub"
            if (factors := product(left)) is not None:
                signs = ("", "-" if is_difference else "")
                made = made._replace(
                    name="fma", operands=(*factors, moved(right)), detail=signs
                )
            elif (factors := product(right)) is not None:
                signs = ("-" if is_difference else "", "")
                made = made._replace(
                    name="fma", operands=(*factors, moved(left)), detail=signs
                )
        places[number] = new.add(made)
    return places[output]


def _contracts(operation: Operation) -> bool:
    return not operation.is_uniform and operation.dtype in (
        np.dtype(np.float32),
        np.dtype(np.float64),
    )
