"""Products that LLVM contracts with a sum: fma(a, b, c) for a * b + c, rounded once.

XLA lets LLVM contract a product whose only use is an addition or subtraction, the left
operand first (`order` says which is the left one). XLA's CPU backend computes each
result in a loop of its own, so that only the uses inside one result count; a result
that another one needs is read from memory. A generated loop has all results; it
contracts the same products, and the C compiler is told to contract none by itself.
"""

from collections.abc import Mapping

import numpy as np

from optadamw.native.flat import Constant, Flat, Operand, Operation


def contracted(flat: Flat) -> Flat:
    """Return the operations with products contracted as XLA contracts them."""
    return flat.by_result(_one_result)


def _one_result(
    flat: Flat, new: Flat, output: int, made: Mapping[int, Operand]
) -> Operand:
    """Append the operations of one result, and return its number.

    Args:
      flat: the operations.
      new: the list to which they are appended.
      output: the result.
      made: results before it, which it reads from memory.
    """
    places: dict[int, Operand] = dict(made)
    numbers = [x for x in flat.used([output], made) if x not in made]
    uses = dict.fromkeys(numbers, 0)
    uses[output] = 1
    for number in numbers:
        for x in flat.operations[number].operands:
            if not isinstance(x, Constant) and x not in made:
                uses[x] += 1

    def moved(x: Operand) -> Operand:
        return x if isinstance(x, Constant) else places[x]

    def product(x: Operand) -> tuple[str, tuple[Operand, ...]] | None:
        """Return the sign and the factors of a product with a single use.

        The use of a product that is negated is the sum of its negative.
        """
        sign = ""
        while not isinstance(x, Constant) and uses.get(x) == 1:
            operation = flat.operations[x]
            if operation.is_uniform != is_uniform:
                return None
            if operation.name == "mul":
                return sign, tuple(map(moved, operation.operands))
            if operation.name != "neg":
                return None
            sign, x = _opposite(sign), operation.operands[0]
        return None

    for number in numbers:
        operation = flat.operations[number]
        # Sums of scalars are contracted before the loop, with products there.
        is_uniform = operation.is_uniform
        own = operation._replace(operands=tuple(map(moved, operation.operands)))
        if operation.name in ("add", "add_any", "sub") and _contracts(operation):
            left, right = operation.operands
            is_difference = operation.name == "sub"
            if (found := product(left)) is not None:
                sign, factors = found
                signs = (sign, "-" if is_difference else "")
                own = own._replace(
                    name="fma", operands=(*factors, moved(right)), detail=signs
                )
            elif (found := product(right)) is not None:
                sign, factors = found
                signs = (_opposite(sign) if is_difference else sign, "")
                own = own._replace(
                    name="fma", operands=(*factors, moved(left)), detail=signs
                )
        places[number] = new.add(own)
    return places[output]


def _opposite(sign: str) -> str:
    return "" if sign else "-"


def _contracts(operation: Operation) -> bool:
    return operation.dtype in (np.dtype(np.float32), np.dtype(np.float64))
