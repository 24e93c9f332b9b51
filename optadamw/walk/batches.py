"""The pass of a step whose buffers lie in the memory of the host, a part at a time.

XLA starts a transfer as soon as it can, so that one pass over all leaves would bring
all buffers to the device at once (v5e, jax 0.10: 9.3 bytes of temporaries for each
parameter, where the moments take 8). It moves no transfer out of a loop that may not
run: each batch of leaves has a loop of its own, of at most one turn, and within it XLA
overlaps the transfers of its leaves.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from optadamw.base.types import Array
from optadamw.base.varying import made_varying, varying
from optadamw.leaf.program import LeafInput
from optadamw.walk.conditional import (
    Outcome,
    Pass,
    at_most_once,
    each_leaf,
    norms_of,
)

Results = tuple[list[Any], list[Any], list[Any]]
"""The output, the buffers and the sums of squares of each leaf."""

PARTS = 16
"""A batch has as many leaves as hold about this part of all bytes in the host."""


@partial(jax.jit, static_argnums=0)
def in_batches(
    key: Pass,
    leaves: Sequence[LeafInput],
    bits: Array,
    present: Sequence[Array] | None,
    go: Array | None,
    measured: Array | None,
) -> Outcome:
    """Run the pass of a step in batches of leaves, if `go`.

    Args:
      key: the programs and the positions of the leaves.
      leaves: the leaves that have a gradient.
      bits: the `step_key` of the random bits.
      present: whether each leaf is updated; None: all are.
      go: whether the step is taken; None: always.
      measured: the norms that the step returns if it is not taken.
    """
    given = (leaves, bits, present, go)
    outputs, buffers, squares = lax.platform_dependent(
        *given, cuda=partial(_at_once, key), default=partial(_in_loops, key)
    )
    norms = norms_of(key, squares)
    if norms is not None and measured is not None and go is not None:
        norms = jnp.where(go, norms, measured)
    return Outcome(outputs, buffers, norms)


def _at_once(
    key: Pass,
    leaves: Sequence[LeafInput],
    bits: Array,
    present: Sequence[Array] | None,
    go: Array | None,
) -> Results:
    """Run all leaves in one pass, and keep the old values unless `go`.

    XLA for NVIDIA GPUs refuses loops and branches that hold buffers of the host ("copy-
    start ... doesn't have correct host memory space color", jax 0.10), and
    brings few leaves to the device at once without any.
    """
    if go is not None:
        each = [go] * len(leaves)
        present = each if present is None else [p & go for p in present]
    return each_leaf(key, leaves, bits, present)


def _in_loops(
    key: Pass,
    leaves: Sequence[LeafInput],
    bits: Array,
    present: Sequence[Array] | None,
    go: Array | None,
) -> Results:
    """Run the leaves in batches, each in a loop of at most one turn."""
    # Behind a barrier, because XLA removes a loop of which it knows the one turn.
    gate = lax.optimization_barrier(jnp.ones((), bool)) if go is None else go
    columns: Results = ([None] * len(leaves), [{}] * len(leaves), [None] * len(leaves))
    for batch in _batches(key, leaves):
        given = [leaves[i] for i in batch]
        updated = None if present is None else [present[i] for i in batch]
        run = partial(each_leaf, key.part(batch), bits=bits, present=updated)
        none = [_no_squares(leaf) if key.groups else None for leaf in given]
        made = at_most_once(run, given, gate, none)
        for column, values in zip(columns, made, strict=True):
            for i, value in zip(batch, values, strict=True):
                column[i] = value
    return columns


def _no_squares(leaf: LeafInput) -> Array:
    """Return zeros of the type that the sums of squares of a leaf have."""
    return made_varying(jnp.zeros(2, jnp.float32), varying(leaf))


def _batches(key: Pass, leaves: Sequence[LeafInput]) -> list[list[int]]:
    """Return the numbers of the leaves of each batch, in order."""
    sizes = [
        sum(
            math.prod(x.shape) * x.dtype.itemsize
            for name in key.offload
            for x in jax.tree.leaves(leaf.buffers.get(name))
        )
        for leaf in leaves
    ]
    most = sum(sizes) / PARTS
    batches: list[list[int]] = [[]]
    held = 0
    for i, size in enumerate(sizes):
        if batches[-1] and held + size > most:
            batches.append([])
            held = 0
        batches[-1].append(i)
        held += size
    return batches
