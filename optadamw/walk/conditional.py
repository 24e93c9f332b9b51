"""The pass over all leaves: always, or only if a condition holds.

A step that may be skipped, or is due only when a window is full, is a loop of at most
one turn over parameters and buffers. XLA runs this loop in their memory, and if it does
not run, their bits stay unchanged. A `where` on every result, or a `lax.cond`, would
copy parameters and buffers (docs/ideas/design.md has the measurements). `update` must
be differentiable in reverse mode, which loops are not, and therefore uses `lax.cond`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from optadamw.base.numerics import kind_of, sqrt
from optadamw.base.random_bits import Site
from optadamw.base.types import Array
from optadamw.base.varying import made_varying, varying
from optadamw.leaf.barrier import materialized
from optadamw.leaf.pallas.run import run
from optadamw.leaf.program import LeafInput, Program
from optadamw.walk.axes import summed, varying_norms
from optadamw.walk.offload import on_device, on_host
from optadamw.walk.zero1 import LeafLayout


class Outcome(NamedTuple):
    """The results of a pass: outputs and buffers of each leaf, and norms."""

    outputs: list[Any]
    """The new parameter or the update of each leaf."""
    buffers: list[Mapping[str, Any]]
    """The new buffers of each leaf by name."""
    measured: Array | None
    """Norms of updates and parameters, a row for the tree and for each group."""

    @classmethod
    def of(cls, leaves: int) -> "Outcome":
        """Return the results of so many leaves, which `fill` puts in their places."""
        return cls([None] * leaves, [{}] * leaves, None)

    def fill(self, numbers: Sequence[int], found: "Outcome") -> None:
        """Put the results of some leaves in their places among those of all."""
        for place, i in enumerate(numbers):
            self.outputs[i] = found.outputs[place]
            self.buffers[i] = found.buffers[place]


@dataclass(frozen=True)
class Pass:
    """The static part of a pass: the key under which it is compiled."""

    programs: tuple[Program, ...]
    """The leaf function of each leaf."""
    positions: tuple[int, ...]
    """The position of each leaf in the tree, from which its random bits follow."""
    groups: tuple[tuple[int, ...], ...] = ()
    """The leaves whose norms are measured together; the first group is all leaves."""
    axes: tuple[tuple[str, ...], ...] = ()
    """The axes of a shard_map over which the norm of each leaf is summed."""
    layouts: tuple[LeafLayout, ...] = ()
    """The layouts of each leaf under `with_zero1`; empty (default): there are none."""
    offload: tuple[str, ...] = ()
    """The buffers that lie in the memory of the host; default: none."""

    def part(self, numbers: Sequence[int]) -> "Pass":
        """Return the key of a pass over some of the leaves, which measures nothing."""
        return replace(
            self,
            programs=tuple(self.programs[i] for i in numbers),
            positions=tuple(self.positions[i] for i in numbers),
            groups=(),
            axes=(),
            layouts=tuple(self.layouts[i] for i in numbers if self.layouts),
        )


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
      present: whether each leaf is updated; None (default): all are.
    """
    outputs, buffers, squares = each_leaf(key, leaves, bits, present)
    return Outcome(outputs, buffers, norms_of(key, squares))


def each_leaf(
    key: Pass,
    leaves: Sequence[LeafInput],
    bits: Array,
    present: Sequence[Array] | None,
) -> tuple[list[Any], list[Any], list[Any]]:
    """Return the output, the buffers and the sums of squares of each leaf."""
    outputs: list[Any] = []
    buffers: list[Mapping[str, Any]] = []
    squares: list[Array | None] = []
    for i, (program, given) in enumerate(zip(key.programs, leaves, strict=True)):
        if outputs and program.commit.slots:
            # One leaf after the other, so that the float32 value of each leaf reuses
            # the memory of the last one.
            outputs[-1], grad = materialized((outputs[-1], given.grad))
            given = given._replace(grad=grad)
        if key.layouts:
            program = replace(program, sharding=key.layouts[i].away)
            given = key.layouts[i].entered(given)
        given = given._replace(buffers=on_device(given.buffers, key.offload))
        if program.draws and given.site is None:
            given = given._replace(site=Site(bits, jnp.int32(key.positions[i])))
        made = run(program, given)
        output, next_buffers = made.output, made.buffers
        if present is not None:
            # Inside the loop XLA fuses this selection with the leaf function.
            old, new = (given.param, given.buffers), (output, next_buffers)
            select = partial(jnp.where, present[i])
            output, next_buffers = jax.tree.map(select, new, old)
        if key.layouts:
            output, next_buffers = key.layouts[i].left(
                program, output, next_buffers, given.like
            )
        outputs.append(output)
        buffers.append(on_host(next_buffers, key.offload))
        sums = made.squares
        squares.append(None if sums is None else sums.astype(jnp.float32))
    return outputs, buffers, squares


@partial(jax.jit, static_argnums=0)
def if_step(
    key: Pass,
    leaves: Sequence[LeafInput],
    bits: Array,
    present: Sequence[Array] | None,
    go: Array,
    measured: Array | None,
) -> Outcome:
    """Run the pass if `go`; otherwise return parameters and buffers unchanged."""

    def run(carried: Sequence[LeafInput]) -> Any:
        return tuple(always(key, carried, bits, present))

    measured = _as_measured(key, leaves, go, measured)
    return Outcome(*at_most_once(run, leaves, go, measured))


def at_most_once(
    run: Callable[[Sequence[LeafInput]], Any],
    leaves: Sequence[LeafInput],
    go: Array,
    measured: Any,
) -> Any:
    """Run leaves in a loop of one turn if `go`, of none otherwise.

    Args:
      run: returns new parameters, new buffers and measurements of the leaves.
      leaves: the leaves; the loop changes their parameters and buffers in place.
      go: whether the loop has its turn.
      measured: the measurements if it has none.
    """
    go = jnp.asarray(go)
    leaves = _of_one_type(leaves, go)
    unchanged = [leaf.param for leaf in leaves], [leaf.buffers for leaf in leaves]

    def turn(carry: Any) -> Any:
        again, (params, buffers, _) = carry
        carried = [
            leaf._replace(param=param, buffers=held)
            for leaf, param, held in zip(leaves, params, buffers, strict=True)
        ]
        # Inside shard_map a decision of each device alone has a type of its own.
        stop = again & False if varying(again) else jnp.zeros((), bool)
        return stop, run(carried)

    start = go, (*unchanged, measured)
    return lax.while_loop(lambda carry: carry[0], turn, start)[1]


def _of_one_type(leaves: Sequence[LeafInput], go: Array) -> list[LeafInput]:
    """Return parameters and buffers of the types that a step gives them.

    They differ only inside `shard_map`, where devices may train models of their own
    from one parameter: it does not differ between devices before the step, and does
    after it.
    """
    typed = []
    for leaf in leaves:
        made = partial(made_varying, axes=varying((leaf, go)))
        param, buffers = jax.tree.map(made, (leaf.param, leaf.buffers))
        typed.append(leaf._replace(param=param, buffers=buffers))
    return typed


def _as_measured(
    key: Pass, leaves: Sequence[LeafInput], go: Array, measured: Array | None
) -> Array | None:
    """Return the norms that stand for those of a step, of the type of its norms."""
    if measured is None:
        return None
    return made_varying(measured, varying(go) | varying_norms(leaves, key.axes))


@partial(jax.jit, static_argnums=0)
def if_update(
    key: Pass,
    leaves: Sequence[LeafInput],
    bits: Array,
    present: Sequence[Array] | None,
    go: Array,
    measured: Array | None,
) -> Outcome:
    """Run the pass if `go`; otherwise return updates of -0.0: no parameter changes."""
    leaves = _of_one_type(leaves, go)
    measured = _as_measured(key, leaves, go, measured)

    def still() -> Outcome:
        none = [
            no_update(leaf.like, program.update_dtype)
            for leaf, program in zip(leaves, key.programs, strict=True)
        ]
        return Outcome(none, [leaf.buffers for leaf in leaves], measured)

    return lax.cond(go, lambda: always(key, leaves, bits, present), still)


def no_update(like: Any, dtype: np.dtype | None) -> Array:
    """Return an update of negative zeros, which changes no parameter, not even -0.0."""
    # Like the leaf, and not of its shape alone: on explicit axes both branches of a
    # condition must have one sharding.
    return jnp.full_like(like, -0.0, dtype=kind_of(dtype, like.dtype))


def norms_of(key: Pass, squares: Sequence[Array | None]) -> Array | None:
    """Return the norms of each group of leaves; None if they are not measured."""
    if not key.groups:
        return None
    none = jnp.zeros(2, jnp.float32)
    known = [none if s is None else s for s in squares]
    if key.axes:
        known = [summed(s, over) for s, over in zip(known, key.axes, strict=True)]
    sums = [sum((known[i] for i in group), none) for group in key.groups]
    return sqrt(jnp.stack(sums))
