"""Whether rules compute alike for parameters of all shapes.

A kernel in C is traced once, for one shape, and runs leaves of every shape. A rule of a
user may compute with the shape: `1 / leaf.param.shape[0]`, or `if leaf.param.ndim > 1`.
Its operations then differ between the two shapes. It may also count the elements of an
axis (`jnp.tril`, `jnp.arange`) or reduce an axis: these operations look alike for every
shape, and no rule with them has a kernel.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import Jaxpr, Literal

from optadamw.base.numerics import compute_dtype
from optadamw.leaf.compute import compute
from optadamw.leaf.program import LeafInput, Program
from optadamw.leaf.rows import rules_alone
from optadamw.native.flat import CALLS, UNCHANGED, callee


def depends_on_shape(
    program: Program, given: LeafInput, shape: tuple[int, ...]
) -> bool:
    """Return whether the rules compute otherwise for a leaf of another shape.

    Rules are compared by their operations, before a parameter is written and buffers
    are encoded. An error of a rule counts as a difference.

    Args:
      program: the leaf function.
      given: a leaf; only its dtype, its shape and its scalars are read.
      shape: the other shape.
    """
    try:
        own, other = (_operations(program, given, x) for x in (given.like.shape, shape))
    except Exception:  # a rule may raise any; XLA's path raises it again
        return True
    return own != other or any(_is_along_an_axis(name) for name, *_ in own[0])


def _is_along_an_axis(name: str) -> bool:
    return name == "iota" or (name.startswith("reduce_") and name != "reduce_precision")


def _operations(
    program: Program, given: LeafInput, shape: tuple[int, ...]
) -> tuple[list[Any], list[Any]]:
    """Return the operations of the rules in order, and which of them are results."""
    alone = rules_alone(program)
    array = jax.ShapeDtypeStruct(shape, compute_dtype(given.like.dtype))
    buffers = {slot.name: array for slot in alone.slots}
    closed = jax.make_jaxpr(lambda x: compute(alone, x))(
        LeafInput(array, array, buffers, given.scalars)
    )
    found: list[Any] = []
    arguments = [("argument", i) for i, _ in enumerate(closed.jaxpr.invars)]
    return found, _read(closed.jaxpr, closed.consts, arguments, found)


def _read(
    jaxpr: Jaxpr, consts: Sequence[Any], arguments: Sequence[Any], found: list[Any]
) -> list[Any]:
    """Append the operations of a jaxpr to `found`, and return its results."""
    known: dict[Any, Any] = dict(zip(jaxpr.invars, arguments, strict=True))
    known |= {v: _bits(x) for v, x in zip(jaxpr.constvars, consts, strict=True)}

    def read(atom: Any) -> Any:
        return _bits(atom.val) if isinstance(atom, Literal) else known[atom]

    for equation in jaxpr.eqns:
        operands = [read(atom) for atom in equation.invars]
        name, params = equation.primitive.name, equation.params
        if name in CALLS:
            results = _read(*callee(params), operands, found)
        elif name in UNCHANGED:
            results = operands
        else:
            avals: list[Any] = [variable.aval for variable in equation.outvars]
            dtypes = tuple(str(aval.dtype) for aval in avals)
            found.append((name, tuple(operands), dtypes, params.get("y")))
            results = [(len(found), i) for i, _ in enumerate(dtypes)]
        known |= dict(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _bits(value: Any) -> Any:
    array = np.asarray(value)
    return array.dtype.name, array.shape, array.tobytes()
