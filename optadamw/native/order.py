"""The order of the two terms of a sum, of which LLVM contracts the first it can.

In a sum of two products either one may become part of a fused multiply-add. LLVM takes
the left one, but before that it puts the terms in order: its pass "reassociate" gives
each value a rank, and puts the smaller rank to the left. A load has the rank of its
turn, and an operation one more than the largest rank of its operands. A sum with a
negative term has become a difference, whose terms stay where they are.
"""

from collections.abc import Mapping

from optadamw.native.flat import Constant, Flat, Operand, Operation

STEPS = {"neg": 0, "clamp": 2, "is_finite": 2}
"""How many instructions follow one another in an operation, if not one."""

BLOCK = 2**16
"""The rank of the first array: scalars are loaded before the loop."""


def in_order(flat: Flat) -> Flat:
    """Return the operations with the terms of each sum as LLVM puts them.

    Each result has an order of its own, as it is a loop of its own in XLA. A result
    that others need is read from memory by them.
    """
    return flat.by_result(_one_result)


def _one_result(
    flat: Flat, new: Flat, output: int, made: Mapping[int, Operand]
) -> Operand:
    places: dict[int, Operand] = dict(made)

    def moved(x: Operand) -> Operand:
        return x if isinstance(x, Constant) else places[x]

    ranks = _ranks(flat, output, made)
    for number in flat.used([output], made):
        if number not in made:
            ordered = _ordered(flat, flat.operations[number], ranks)
            operands = tuple(map(moved, ordered.operands))
            places[number] = new.add(ordered._replace(operands=operands))
    return places[output]


def _ordered(flat: Flat, operation: Operation, ranks: Mapping[int, int]) -> Operation:
    """Return a sum or difference with its terms in order."""
    if operation.name not in ("add", "add_any", "sub") or operation.dtype.kind != "f":
        return operation
    left, right = operation.operands
    if (term := _negated(flat, right)) is not None:
        name = "add" if operation.name == "sub" else "sub"
        return operation._replace(name=name, operands=(left, term))
    if operation.name == "sub":
        return operation
    if (term := _negated(flat, left)) is not None:
        return operation._replace(name="sub", operands=(right, term))
    if _is_negative(flat, right):
        return operation
    is_behind = not isinstance(right, Constant) and (
        isinstance(left, Constant) or ranks[right] < ranks[left]
    )
    if is_behind or _is_negative(flat, left):
        return operation._replace(operands=(right, left))
    return operation


def _negated(flat: Flat, x: Operand) -> Operand | None:
    """Return what `x` is the negative of, or None."""
    if isinstance(x, Constant) or flat.operations[x].name != "neg":
        return None
    return flat.operations[x].operands[0]


def _is_negative(flat: Flat, x: Operand) -> bool:
    """Return whether `x` is a product that LLVM subtracts without its sign.

    The negative of a scalar is a scalar to it, which XLA computes elsewhere.
    """
    if isinstance(x, Constant) or flat.operations[x].name != "mul":
        return False

    def has_sign(y: Operand) -> bool:
        if isinstance(y, Constant):
            return bool(y.value < 0)
        factor = flat.operations[y]
        return factor.name == "neg" and not factor.is_uniform

    signs = [has_sign(y) for y in flat.operations[x].operands]
    return signs[0] != signs[1]


def _ranks(flat: Flat, output: int, made: Mapping[int, Operand]) -> dict[int, int]:
    """Return the rank of each value of one result."""
    ranks: dict[int, int] = {}
    loads = {True: 0, False: BLOCK}
    for number in _emitted(flat, output, made):
        operation = flat.operations[number]
        if _is_loaded(operation) or number in made:
            loads[operation.is_uniform] += 1
            ranks[number] = loads[operation.is_uniform]
        else:
            read = [ranks[x] for x in operation.operands if not isinstance(x, Constant)]
            steps = STEPS.get(operation.name, 1)
            ranks[number] = max(read, default=0) + steps
    return ranks


def _emitted(flat: Flat, output: int, made: Mapping[int, Operand]) -> list[int]:
    """Return the values of a result in the order of XLA's code for the CPU.

    XLA visits the operations from the result on, breadth first with the last operand
    first, and emits them in the reverse order. A scalar among arrays is emitted as a
    whole at its turn, and a value that is needed before its turn at once.
    """
    done: dict[int, None] = {}

    def emit(root: int) -> None:
        if root in done:
            return
        shape = flat.operations[root].is_uniform
        visited = [root]
        for number in visited:
            operation = flat.operations[number]
            is_read = _is_loaded(operation) or number in made
            if not is_read and operation.is_uniform == shape:
                more = [x for x in reversed(_read(operation)) if x not in visited]
                visited += dict.fromkeys(more)
        for number in reversed(visited):
            operation = flat.operations[number]
            if operation.is_uniform != shape:
                emit(number)
            elif number not in done:
                if not (_is_loaded(operation) or number in made):
                    for x in _read(operation):
                        emit(x)
                done[number] = None

    emit(output)
    return list(done)


def _is_loaded(operation: Operation) -> bool:
    return operation.name in ("input", "scalar")


def _read(operation: Operation) -> list[int]:
    """Return the operands that are no constants, in XLA's order."""
    operands = operation.operands
    if operation.name == "select_n" and len(operands) == 3:
        test, other, chosen = operands
        operands = (test, chosen, other)
    return [x for x in operands if not isinstance(x, Constant)]
