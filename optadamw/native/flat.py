"""A leaf function as a flat list of operations on the numbers of one element.

The jaxpr of a leaf function is traced for a leaf of `LENGTH` elements. An array of this
length stands for one number of each element, and a 0-d array for a scalar that all
elements share. Calls inside the jaxpr are inlined, equal operations are merged, and
operations without a use are dropped.

A leaf whose buffers are kept in blocks is traced as `LENGTH` blocks of some elements
along its last axis. An array with one number for each block is a third kind.
"""

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, NamedTuple

import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

LENGTH = 1_000_003
"""The length that stands for every length; a prime that no rule computes with."""

CALLS = (
    *("jit", "pjit", "closed_call", "core_call", "custom_jvp_call"),
    *("custom_vjp_call", "checkpoint", "remat2"),
)
"""Primitives that call a jaxpr."""

UNCHANGED = (
    *("broadcast_in_dim", "reshape", "squeeze", "expand_dims", "copy"),
    *("optimization_barrier", "stop_gradient"),
)
"""Primitives that hand the number of each element on."""


SCALAR, BLOCK, ELEMENT = range(3)
"""Levels: one number for the leaf, for each of its blocks, for each element."""


class Unsupported(Exception):
    """A leaf function is no arithmetic on single elements; the text says why."""


class Constant(NamedTuple):
    """A number that is known when the leaf function is traced."""

    value: Any
    dtype: np.dtype


Operand = int | Constant
"""The number of an operation in the list, or a constant."""


class Operation(NamedTuple):
    """One operation; its operands stand before it in the list."""

    name: str
    """A JAX primitive; "input" and "scalar" read, "fma" is made by `contraction`."""
    operands: tuple[Operand, ...]
    dtype: np.dtype
    level: int
    """Whether there is a result for the leaf, for each block, or for each element."""
    detail: Any = None
    """The index of an input; the exponent of a power; the signs of an fma."""

    @property
    def is_uniform(self) -> bool:
        """Whether the result is the same number for all elements."""
        return self.level == SCALAR


@dataclass
class Flat:
    """Operations in order; equal operations have one number."""

    operations: list[Operation] = field(default_factory=list)
    outputs: list[Operand] = field(default_factory=list)
    _numbers: dict[Any, int] = field(default_factory=dict)

    def add(self, operation: Operation) -> int:
        """Return the number of an operation, which is appended if it is new."""
        keys = list(map(_key, operation.operands))
        if operation.name == "mul":
            # LLVM finds that x * y is y * x, so that neither product has a single use.
            keys.sort(key=repr)
        key = operation._replace(operands=tuple(keys))
        if key not in self._numbers:
            self._numbers[key] = len(self.operations)
            self.operations.append(operation)
        return self._numbers[key]

    def level(self, operands: Iterable[Operand]) -> int:
        """Return the level of a result of these operands."""
        levels = [
            self.operations[x].level for x in operands if not isinstance(x, Constant)
        ]
        return max(levels, default=SCALAR)

    def used(self, outputs: Sequence[Operand], known: Container[int] = ()) -> list[int]:
        """Return the operations that `outputs` need, in order.

        Those in `known` are among them, but not the operations that only they need.
        """
        found: set[int] = set()
        waiting = [x for x in outputs if not isinstance(x, Constant)]
        while waiting:
            number = waiting.pop()
            if number not in found:
                found.add(number)
                if number in known:
                    continue
                operands = self.operations[number].operands
                waiting += [x for x in operands if not isinstance(x, Constant)]
        return sorted(found)

    def by_result(self, rewrite: Callable[..., Operand]) -> "Flat":
        """Return a list of rewritten operations, made for one result after the other.

        `rewrite(self, new, result, made)` appends to `new`; `made` has earlier results.
        """
        new, made = Flat(), dict[int, Operand]()
        for x in sorted({x for x in self.outputs if not isinstance(x, Constant)}):
            made[x] = rewrite(self, new, x, made)
        new.outputs = [x if isinstance(x, Constant) else made[x] for x in self.outputs]
        return new

    def rewritten(
        self, change: Callable[[Operation, "Flat"], Operand | None]
    ) -> "Flat":
        """Return this list with operations replaced by what `change` returns.

        Args:
          change: gets an operation whose operands are numbers of the new list, and the
            new list. It returns the operand that takes the operation's place; None
            keeps the operation.
        """
        new = Flat()
        places: dict[int, Operand] = {}

        def moved(x: Operand) -> Operand:
            return x if isinstance(x, Constant) else places[x]

        for number in self.used(self.outputs):
            old = self.operations[number]
            operation = old._replace(operands=tuple(map(moved, old.operands)))
            found = change(operation, new)
            places[number] = new.add(operation) if found is None else found
        new.outputs = [moved(x) for x in self.outputs]
        return new


def _key(x: Operand) -> Any:
    """Return what makes an operand equal to another: of a constant, its bits."""
    if isinstance(x, Constant):
        return np.asarray(x.value, x.dtype).tobytes(), x.dtype.name
    return x


def flatten(closed: ClosedJaxpr, block: int = 1, has_places: bool = False) -> Flat:
    """Return the operations of a jaxpr whose arguments are scalars and arrays.

    Args:
      closed: the jaxpr of a leaf of `LENGTH` elements, or of `LENGTH` blocks.
      block: the elements of a block.
      has_places: whether the last argument is the place of each element in the leaf.

    Raises:
      Unsupported: the jaxpr is no arithmetic on single elements.
    """
    flat = Flat()
    arguments: list[Operand] = []
    counts = {"scalar": 0, "input": 0}
    variables = closed.jaxpr.invars
    for number, variable in enumerate(variables, start=1):
        level = _level(variable.aval, block)
        kind = "scalar" if level == SCALAR else "input"
        read = Operation(kind, (), _dtype(variable.aval), level, counts[kind])
        if has_places and number == len(variables):
            read = read._replace(name="iota", detail=None)
        else:
            counts[kind] += 1
        arguments.append(flat.add(read))
    flat.outputs = _inline(flat, closed.jaxpr, closed.consts, arguments, block)
    return flat


def _inline(
    flat: Flat,
    jaxpr: Jaxpr,
    consts: Sequence[Any],
    arguments: Sequence[Operand],
    block: int,
) -> list[Operand]:
    """Append the operations of a jaxpr, and return its results."""
    known: dict[Any, Operand] = dict(zip(jaxpr.invars, arguments, strict=True))
    for variable, value in zip(jaxpr.constvars, consts, strict=True):
        known[variable] = _constant(value)

    def read(atom: Any) -> Operand:
        if isinstance(atom, Literal):
            return _constant(np.asarray(atom.val, _dtype(atom.aval)))
        return known[atom]

    for equation in jaxpr.eqns:
        operands = [read(atom) for atom in equation.invars]
        name, params = equation.primitive.name, equation.params
        if name in CALLS:
            results = _inline(flat, *callee(params), operands, block)
        elif name in UNCHANGED:
            for atom in (*equation.invars, *equation.outvars):
                _level(atom.aval, block)
            results = operands
        elif name == "reduce_max" and block > 1:
            results = [_largest(flat, equation, operands[0], block)]
        elif name == "reduce_max" and _level(equation.outvars[0].aval, block):
            # The largest number of a block of one.
            results = operands
        else:
            if len(equation.outvars) != 1:
                raise Unsupported(f"{name} is no arithmetic on single elements")
            for atom in (*equation.invars, *equation.outvars):
                _check(name, atom.aval, block)
            dtype = _dtype(equation.outvars[0].aval)
            level = ELEMENT if name == "iota" else flat.level(operands)
            detail = _detail(name, params)
            made = Operation(name, tuple(operands), dtype, level, detail)
            if name == "iota" and block > 1:
                raise Unsupported("a rule counts the elements of a block")
            results = [flat.add(made)]
        known.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def callee(params: Mapping[str, Any]) -> tuple[Jaxpr, Sequence[Any]]:
    """Return the jaxpr and the constants of a call by its parameters."""
    for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        if key in params:
            called = params[key]
            return getattr(called, "jaxpr", called), getattr(called, "consts", ())
    raise Unsupported("a function is called whose operations are not known")


def _detail(name: str, params: Mapping[str, Any]) -> Any:
    if name == "integer_pow":
        return params["y"]
    return None


def _constant(value: Any) -> Constant:
    array = np.asarray(value)
    if array.size != 1:
        raise Unsupported(f"a constant of shape {array.shape} is part of the rule")
    return Constant(array.reshape(-1)[0], array.dtype)


def _dtype(aval: Any) -> np.dtype:
    if not isinstance(aval.dtype, np.dtype):  # a key of jax.random
        raise Unsupported(f"a rule computes with {aval.dtype}")
    return np.dtype(aval.dtype)


def _check(name: str, aval: Any, block: int) -> None:
    try:
        _level(aval, block)
    except Unsupported:
        raise Unsupported(f"{name} is no arithmetic on single elements") from None


def _largest(flat: Flat, equation: Any, x: Operand, block: int) -> Operand:
    """Append the largest number of each block, and return it.

    Raises:
      Unsupported: it is the largest number of something else.
    """
    before, after = equation.invars[0].aval, equation.outvars[0].aval
    levels = _level(before, block), _level(after, block)
    is_last = equation.params["axes"] == (len(before.shape) - 1,)
    if levels != (ELEMENT, BLOCK) or not is_last or before.dtype.kind not in "iu":
        raise Unsupported("reduce_max is not over the integers of a block")
    if isinstance(x, Constant) or flat.operations[x].level != ELEMENT:
        return x
    return flat.add(Operation("reduce_max", (x,), _dtype(after), BLOCK))


def _level(aval: Any, block: int) -> int:
    """Return the level of a value.

    Raises:
      Unsupported: it is neither a scalar nor an array of all blocks or elements.
    """
    shape = aval.shape
    if shape == ():
        return SCALAR
    if shape[0] == LENGTH:
        if prod(shape) == LENGTH:
            return ELEMENT if block == 1 else BLOCK
        if shape[-1] == block and prod(shape) == LENGTH * block:
            return ELEMENT
    raise Unsupported(f"an array of shape {shape} is neither scalar nor leaf")
