"""The pass over all leaves, taken or not taken as one.

A step that may be refused, or is due only when a window is full, is a loop of at most
one turn over the parameters and buffers: XLA runs it in their memory and leaves their
bits alone where it does not run. A `where` on every result, or `lax.cond` around
them, would copy them (docs/design.md has the measurements). `update` must stay
differentiable in reverse, which loops are not, and takes the `lax.cond`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from optadamw.base.numerics import kind_of, sqrt
from optadamw.base.random_bits import Site
from optadamw.base.types import Array
from optadamw.leaf.leaf import Program, formed
from optadamw.leaf.pallas import run


class Operand(NamedTuple):
    """What the leaf function of one leaf is given."""

    grad: Any
    param: Any | None
    buffers: dict[str, Any]
    scalars: tuple[Any, ...]
    scale: Array | None
    present: Array | None = None
    """Whether the leaf is moved at all; None: it is."""


class Outcome(NamedTuple):
    """What the pass leaves behind: outputs and buffers by leaf, and the norms."""

    outputs: list[Any]
    buffers: list[dict[str, Any]]
    measured: Array | None
    """Norms of update and parameters: a row for the tree and for each group."""


@dataclass(frozen=True)
class Pass:
    """The part of a pass that is known when it is traced: its compilation key."""

    programs: tuple[Program, ...]
    positions: tuple[int, ...]
    """Where each leaf stands in the tree, for what is rounded at random."""
    groups: tuple[tuple[int, ...], ...] = ()
    """Rows among these leaves for which norms are measured; the first is all."""


def taken(key: Pass, operands: Sequence[Operand], bits: Array) -> Outcome:
    """The pass, unconditionally; `bits` is the `step_key`."""
    outputs: list[Any] = []
    buffers: list[dict[str, Any]] = []
    squares: list[Array | None] = []
    for program, position, leaf in zip(
        key.programs, key.positions, operands, strict=True
    ):
        if outputs and program.commit.slots:
            # One leaf after the other: the number that each keeps is then in the
            # memory of the one before, and not beside it.
            outputs[-1], grad = formed((outputs[-1], leaf.grad))
            leaf = leaf._replace(grad=grad)
        site = Site(bits, jnp.int32(position)) if program.draws else None
        output, kept, measured = run(program, *leaf[:5], site)
        if leaf.present is not None:
            # Inside the loop the selection is fused with what it selects from.
            old, new = (leaf.param, leaf.buffers), (output, kept)
            output, kept = jax.tree.map(partial(jnp.where, leaf.present), new, old)
        outputs.append(output)
        buffers.append(kept)
        squares.append(measured)
    return Outcome(outputs, buffers, _norms(key, squares))


@partial(jax.jit, static_argnums=0)
def stepped(
    key: Pass,
    operands: Sequence[Operand],
    bits: Array,
    go: Array,
    measured: Array | None,
) -> Outcome:
    """The pass where `go`: new parameters and buffers, or the old ones bit for bit."""
    params = [leaf.param for leaf in operands]
    kept = [leaf.buffers for leaf in operands]

    def turn(carry: tuple[Array, Outcome]) -> tuple[Array, Outcome]:
        _, (before, buffers, _) = carry
        leaves = [
            leaf._replace(param=param, buffers=held)
            for leaf, param, held in zip(operands, before, buffers, strict=True)
        ]
        return jnp.zeros((), bool), taken(key, leaves, bits)

    start = (jnp.asarray(go), Outcome(params, kept, measured))
    return lax.while_loop(lambda carry: carry[0], turn, start)[1]


@partial(jax.jit, static_argnums=0)
def updated(
    key: Pass,
    operands: Sequence[Operand],
    bits: Array,
    go: Array,
    measured: Array | None,
) -> Outcome:
    """The pass where `go`, with updates for outputs; elsewhere they change nothing."""

    def still() -> Outcome:
        none = [
            no_update(leaf.grad if leaf.param is None else leaf.param, p.update_dtype)
            for leaf, p in zip(operands, key.programs, strict=True)
        ]
        return Outcome(none, [leaf.buffers for leaf in operands], measured)

    return lax.cond(go, lambda: taken(key, operands, bits), still)


def no_update(like: Any, dtype: np.dtype | None) -> Array:
    """Negative zero: what leaves every parameter as it is, -0.0 too."""
    return jnp.full(like.shape, -0.0, kind_of(dtype, like.dtype))


def _norms(key: Pass, squares: Sequence[Array | None]) -> Array | None:
    if not key.groups:
        return None
    none = jnp.zeros(2, jnp.float32)
    known = [none if s is None else s.astype(jnp.float32) for s in squares]
    sums = [sum((known[i] for i in group), none) for group in key.groups]
    return sqrt(jnp.stack(sums))
