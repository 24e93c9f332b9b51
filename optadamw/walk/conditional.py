"""The pass over all leaves: always, or only if a condition holds.

A step that may be refused, or is due only when a window is full, is a loop of at most
one turn over the parameters and buffers: XLA runs it in their memory and leaves their
bits alone where it does not run. A `where` on every result, or `lax.cond` around
them, would copy them (docs/design.md has the measurements). `update` must stay
differentiable in reverse, which loops are not, and takes the `lax.cond`.
"""

from collections.abc import Mapping, Sequence
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
from optadamw.leaf.barrier import materialized
from optadamw.leaf.pallas import run
from optadamw.leaf.program import LeafInput, Program


class Outcome(NamedTuple):
    """What the pass leaves behind: outputs and buffers by leaf, and the norms."""

    outputs: list[Any]
    buffers: list[Mapping[str, Any]]
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


def always(
    key: Pass,
    leaves: Sequence[LeafInput],
    bits: Array,
    present: Sequence[Array] | None = None,
) -> Outcome:
    """Run the pass.

    Args:
      key: the programs and the positions of the leaves.
      leaves: the leaves that have a gradient.
      bits: the `step_key` of the random bits.
      present: whether each leaf is moved at all; None: all are.
    """
    outputs: list[Any] = []
    buffers: list[Mapping[str, Any]] = []
    squares: list[Array | None] = []
    for i, (program, given) in enumerate(zip(key.programs, leaves, strict=True)):
        if outputs and program.commit.slots:
            # One leaf after the other: the number that each keeps is then in the
            # memory of the one before, and not beside it.
            outputs[-1], grad = materialized((outputs[-1], given.grad))
            given = given._replace(grad=grad)
        if program.draws:
            given = given._replace(site=Site(bits, jnp.int32(key.positions[i])))
        made = run(program, given)
        output, kept = made.output, made.buffers
        if present is not None:
            # Inside the loop the selection is fused with what it selects from.
            old, new = (given.param, given.buffers), (output, kept)
            output, kept = jax.tree.map(partial(jnp.where, present[i]), new, old)
        outputs.append(output)
        buffers.append(kept)
        squares.append(made.squares)
    return Outcome(outputs, buffers, _norms(key, squares))


@partial(jax.jit, static_argnums=0)
def if_step(
    key: Pass,
    leaves: Sequence[LeafInput],
    bits: Array,
    present: Sequence[Array] | None,
    go: Array,
    measured: Array | None,
) -> Outcome:
    """Run the pass if `go`; otherwise return parameters and buffers bit for bit."""
    params = [leaf.param for leaf in leaves]
    kept = [leaf.buffers for leaf in leaves]

    def turn(carry: tuple[Array, Outcome]) -> tuple[Array, Outcome]:
        _, (before, buffers, _) = carry
        held = [
            leaf._replace(param=param, buffers=buffer)
            for leaf, param, buffer in zip(leaves, before, buffers, strict=True)
        ]
        return jnp.zeros((), bool), always(key, held, bits, present)

    start = (jnp.asarray(go), Outcome(params, kept, measured))
    return lax.while_loop(lambda carry: carry[0], turn, start)[1]


@partial(jax.jit, static_argnums=0)
def if_update(
    key: Pass,
    leaves: Sequence[LeafInput],
    bits: Array,
    present: Sequence[Array] | None,
    go: Array,
    measured: Array | None,
) -> Outcome:
    """Run the pass if `go`; otherwise return updates of -0.0, which change nothing."""

    def still() -> Outcome:
        none = [
            no_update(leaf.like, program.update_dtype)
            for leaf, program in zip(leaves, key.programs, strict=True)
        ]
        return Outcome(none, [leaf.buffers for leaf in leaves], measured)

    return lax.cond(go, lambda: always(key, leaves, bits, present), still)


def no_update(like: Any, dtype: np.dtype | None) -> Array:
    """Negative zeros: an update that leaves every parameter as it is, -0.0 too."""
    # Like the leaf, and not of its shape alone: on explicit axes both branches of a
    # condition must have one sharding.
    return jnp.full_like(like, -0.0, dtype=kind_of(dtype, like.dtype))


def _norms(key: Pass, squares: Sequence[Array | None]) -> Array | None:
    if not key.groups:
        return None
    none = jnp.zeros(2, jnp.float32)
    known = [none if s is None else s.astype(jnp.float32) for s in squares]
    sums = [sum((known[i] for i in group), none) for group in key.groups]
    return sqrt(jnp.stack(sums))
