"""The leaf functions: one parameter through all rules, in one compiled function.

They are jitted and take every number as an argument, so leaves of one shape and dtype
are traced once, whatever their number and the hyperparameters. A kernel written by
hand for some platform would be another function with the signature of `run_leaf`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core.primitives import convert_element_type_p

from optadamw.aliases import Array
from optadamw.commit import Commit, Site
from optadamw.numerics import (
    as_reals,
    compute_dtype,
    from_reals,
    kind_of,
    rescaled_norm,
    sum_of_squares,
)
from optadamw.rule import Leaf, Rule, Slot

Emit = Literal["param", "update"]
"""What a leaf function returns: the new parameter, or the update that leads to it."""


@dataclass(frozen=True)
class Program:
    """What a leaf function does, without any number: its compilation key."""

    rules: tuple[Rule, ...]
    slots: tuple[Slot, ...]
    commit: Commit
    is_whole: bool
    update_dtype: np.dtype | None
    emit: Emit


def _start(
    program: Program, grad: Array, param: Array | None, buffers: dict[str, Any]
) -> Leaf:
    like = grad if param is None else param
    decoded = {s.name: s.store.decode(buffers[s.name], like) for s in program.slots}
    gradient = as_reals(grad, compute_dtype(like.dtype))
    return Leaf(
        numerator=gradient,
        denominator=None,
        drift=None,
        gradient=gradient,
        second=None,
        second_is_corrected=False,
        param=None if param is None else program.commit.read(param, decoded),
        buffers=decoded,
    )


@partial(jax.jit, static_argnums=0)
def measure_leaf(
    program: Program,
    grad: Array,
    param: Array | None,
    buffers: dict[str, Any],
    scalars: tuple[Mapping[str, Array], ...],
    squares: Array | None,
) -> Array:
    """The sum of squares of a leaf's update, or, knowing that sum, the norm."""
    leaf = _start(program, grad, param, buffers)
    for rule, values in zip(program.rules, scalars, strict=True):
        leaf = rule.apply(leaf, values)
    update = leaf.value()
    if squares is None:
        return sum_of_squares(update)
    return rescaled_norm(update, squares)


@partial(jax.jit, static_argnums=0)
def run_leaf(
    program: Program,
    grad: Array,
    param: Array | None,
    buffers: dict[str, Any],
    scalars: tuple[Mapping[str, Array], ...],
    site: Site | None,
) -> tuple[Array, dict[str, Any]]:
    """One parameter through the rules, and its buffers."""
    leaf = _start(program, grad, param, buffers)
    for rule, values in zip(program.rules, scalars, strict=True):
        leaf = rule.apply(leaf, values)
    like = grad if param is None else param
    if param is None:
        output = from_reals(leaf.value(), kind_of(program.update_dtype, like.dtype))
    else:
        output, leaf = _finish(program, leaf, param, scalars, site)
    encoded = {
        s.name: s.store.encode(leaf.buffers[s.name], like) for s in program.slots
    }
    return output, encoded


def _finish(
    program: Program,
    leaf: Leaf,
    param: Array,
    scalars: tuple[Mapping[str, Array], ...],
    site: Site | None,
) -> tuple[Array, Leaf]:
    """Commit the parameter, run what follows from it, and shape the output."""
    commit, before, update = program.commit, leaf.param, leaf.value()
    assert before is not None
    if not program.is_whole:
        # A direction, not a move: what the next part of an optax.chain will scale.
        update = as_reals(
            from_reals(update, kind_of(program.update_dtype, param.dtype)), before.dtype
        )
    written, kept = commit.write(before + update, param, leaf.buffers, site)
    leaf = leaf._replace(buffers=kept)
    overwrites = []
    for rule, values in zip(program.rules, scalars, strict=True):
        committed = commit.read(written, leaf.buffers)
        leaf, overwrite = rule.after_commit(committed, leaf, values)
        if overwrite is not None:
            overwrites.append(overwrite.when)
            target = jnp.where(overwrite.when, overwrite.value, committed)
            written, kept = commit.write(target, param, leaf.buffers, site)
            leaf = leaf._replace(buffers=kept)
    if program.emit == "param":
        return _like_weak(written, param), leaf
    move = commit.read(written, leaf.buffers) - before
    narrow = jnp.finfo(param.dtype).nmant < jnp.finfo(before.dtype).nmant
    if not (narrow and program.is_whole):
        for when in overwrites:
            update = jnp.where(when, move, update)
        move = update
    return from_reals(move, kind_of(program.update_dtype, param.dtype)), leaf


def _like_weak(written: Array, param: Array) -> Array:
    """Keep the weak type of a parameter that began as a Python number.

    Losing it would change the signature of the step and compile it a second time.
    """
    if not param.weak_type:
        return written
    return convert_element_type_p.bind(
        written, new_dtype=written.dtype, weak_type=True, sharding=None
    )
