"""The leaf functions: one parameter through all rules, in one compiled function.

They are jitted and take every number as an argument, so leaves of one shape and dtype
are traced once, whatever their number and the hyperparameters. `tiles` runs the same
in a kernel.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core.primitives import convert_element_type_p

from optadamw.base.numerics import (
    as_reals,
    compute_dtype,
    from_reals,
    kind_of,
    rescaled_norm,
    sum_of_squares,
)
from optadamw.base.random_bits import Site
from optadamw.base.types import Array
from optadamw.commit.commit import Commit
from optadamw.rules.rule import Leaf, Rule, Stage
from optadamw.store.slot import Slot
from optadamw.store.store import Store

Emit = Literal["param", "update"]
"""What a leaf function returns: the new parameter, or the update that leads to it."""

Kernel = Literal["compiled", "interpreted"]
"""Kernels on the devices that have them, or in an interpreter on any."""


@dataclass(frozen=True)
class Program:
    """What a leaf function does, without any number: its compilation key."""

    rules: tuple[Rule, ...]
    slots: tuple[Slot, ...]
    commit: Commit
    is_whole: bool
    update_dtype: np.dtype | None
    emit: Emit
    measures: bool = False
    is_bounded: bool = False
    kernel: Kernel | None = None
    """How it is run in tiles where it can be; None: as a whole."""
    is_tiled: bool = False
    """Whether it is run inside such a kernel, on a part of a leaf."""

    @property
    def rounded(self) -> tuple[str, ...]:
        """The buffers that are kept rounded and that the parameter sees unrounded."""
        rules = [rule for rule in self.rules if rule.stage < Stage.COMMITTED]
        moved = [slot.name for rule in rules for slot in rule.slots]
        lossy = [slot.name for slot in self.slots if slot.store.is_lossy]
        return tuple(name for name in lossy if name in moved)

    @property
    def draws(self) -> bool:
        """Whether it needs a `Site`."""
        return self.commit.draws or any(slot.store.draws for slot in self.slots)


def _start(
    program: Program,
    grad: Array,
    param: Array | None,
    buffers: dict[str, Any],
    scale: Array | None,
) -> Leaf:
    like = grad if param is None else param
    decoded = {s.name: s.store.decode(buffers[s.name], like) for s in program.slots}
    gradient = as_reals(grad, compute_dtype(like.dtype))
    if scale is not None:
        gradient = gradient * scale
    return Leaf(
        numerator=gradient,
        denominator=None,
        drift=None,
        gradient=gradient,
        second=None,
        second_is_corrected=False,
        param=None if param is None else program.commit.read(param, decoded),
        buffers=decoded,
        is_bounded=program.is_bounded,
    )


@partial(jax.jit, static_argnums=0)
def measure_leaf(
    program: Program,
    grad: Array,
    param: Array | None,
    buffers: dict[str, Any],
    scalars: tuple[Mapping[str, Array], ...],
    scale: Array | None,
    squares: Array | None,
) -> Array:
    """The sum of squares of a leaf's update, or, knowing that sum, the norm."""
    if grad.dtype.itemsize < 4:
        # Or XLA converts once for this and the step, into a float32 array in memory.
        grad = lax.optimization_barrier(grad)
    update = _ruled(program, grad, param, buffers, scalars, scale).value()
    if squares is None:
        return sum_of_squares(update)
    return rescaled_norm(update, squares)


def computed(
    program: Program,
    grad: Array,
    param: Array | None,
    buffers: dict[str, Any],
    scalars: tuple[Mapping[str, Array], ...],
    scale: Array | None,
    site: Site | None,
) -> tuple[Array, dict[str, Any], Array | None]:
    """One parameter through the rules, its buffers, and what was measured.

    `scale` multiplies the gradient first. The measures are the sums of squares of the
    update and of the new parameter, if the program asks for them.
    """
    leaf = _ruled(program, grad, param, buffers, scalars, scale)
    like = grad if param is None else param
    update = committed = leaf.value()
    if param is None:
        output = from_reals(update, kind_of(program.update_dtype, like.dtype))
    else:
        output, leaf, committed = _finish(program, leaf, param, scalars, site)
    sites = {s.name: None if site is None else site.of(s.name) for s in program.slots}
    encoded: dict[str, Any] = {}
    # The last first: a maximum is made of the second moment before that is replaced.
    for slot in reversed(program.slots):
        name, store = slot.name, slot.store
        value = leaf.buffers[name]
        if name in program.rounded and not program.is_tiled:
            # No others: the barrier would hold the old ones beside the new.
            old = {k: buffers[k] for k in program.rounded if k not in encoded}
            (output, encoded), (grad, old) = _after((output, encoded), (grad, old))
            buffers = {**buffers, **old}
            again = _ruled(program, grad, param, buffers, scalars, scale)
            value = again.buffers[name]
        encoded[name] = store.encode(value, like, sites[name])
    measured = None
    if program.measures:
        measured = jnp.stack([sum_of_squares(update), sum_of_squares(committed)])
    return output, encoded, measured


@partial(jax.jit, static_argnums=0)
def run_leaf(
    program: Program,
    grad: Array,
    param: Array | None,
    buffers: dict[str, Any],
    scalars: tuple[Mapping[str, Array], ...],
    scale: Array | None,
    site: Site | None,
) -> tuple[Array, dict[str, Any], Array | None]:
    """`computed`, traced once for all leaves that are alike."""
    return computed(program, grad, param, buffers, scalars, scale, site)


def _ruled(
    program: Program,
    grad: Array,
    param: Array | None,
    buffers: dict[str, Any],
    scalars: tuple[Mapping[str, Array], ...],
    scale: Array | None,
) -> Leaf:
    """The leaf after its rules, before it is committed."""
    leaf = _start(program, grad, param, buffers, scale)
    for rule, values in zip(program.rules, scalars, strict=True):
        leaf = rule.apply(leaf, values)
    return leaf


def _after(made: Any, operands: Any) -> tuple[Any, Any]:
    """The same, with `operands` as they are once all of `made` is.

    A moment that is rounded where it is kept is computed twice: for the parameter,
    unrounded, from the old buffer, and for the new buffer. XLA's CPU backend makes a
    pass of each, and where nothing says which is first it copies the old buffer (at 8
    bits 2.1 bytes of temporaries for each number; so ordered, none). Elsewhere one pass
    has several results, and the two computations are one again.
    """
    return formed((made, operands))


def formed(values: Any) -> Any:
    """The same values, which XLA forms before it goes on; on CPU only.

    There a fusion has one result, and what several need is formed for each; elsewhere
    one fusion has them all, and would be cut in two.
    """
    return lax.platform_dependent(
        values, cpu=lax.optimization_barrier, default=lambda values: values
    )


@partial(jax.jit, static_argnums=0)
def accumulate_leaf(
    store: Store,
    accumulator: Any,
    grad: Array,
    like: Array,
    first: Array,
    keep: Array | None,
    factor: Array | None,
) -> Any:
    """`accumulator + factor * grad`; it starts anew where `first`.

    A gradient that is not kept is selected away: multiplied by 0 a NaN stays one. A
    sum begins at +0.0, so that it is never the -0.0 of a leaf without gradients.
    """
    term = as_reals(grad, compute_dtype(like.dtype))
    if factor is not None:
        term = term * factor
    if keep is not None:
        term = jnp.where(keep, term, -0.0)
    before = jnp.where(first, 0.0, store.decode(accumulator, like))
    return store.encode(before + term, like)


def _finish(
    program: Program,
    leaf: Leaf,
    param: Array,
    scalars: tuple[Mapping[str, Array], ...],
    site: Site | None,
) -> tuple[Array, Leaf, Array]:
    """Commit the parameter, run what follows from it, and shape the output.

    The last result is the committed parameter as rules read it.
    """
    commit, before, update = program.commit, leaf.param, leaf.value()
    assert before is not None
    if not program.is_whole:
        # A direction, not a move: what the next part of an optax.chain will scale.
        update = as_reals(
            from_reals(update, kind_of(program.update_dtype, param.dtype)), before.dtype
        )
    target = before + update
    if commit.slots and not program.is_tiled:
        # Two results of one number: where each is a pass of its own (CPU), the number
        # is kept once, and both passes write over what it was made of.
        target = formed(target)
    written, kept = commit.write(target, param, leaf.buffers, site)
    leaf = leaf._replace(buffers=kept)
    overwrites = []
    for rule, values in zip(program.rules, scalars, strict=True):
        target = commit.read(written, leaf.buffers)
        leaf, overwrite = rule.after_commit(target, leaf, values)
        if overwrite is not None:
            overwrites.append(overwrite.when)
            target = jnp.where(overwrite.when, overwrite.value, target)
            written, kept = commit.write(target, param, leaf.buffers, site)
            leaf = leaf._replace(buffers=kept)
    committed = commit.read(written, leaf.buffers)
    if program.emit == "param":
        return _like_weak(written, param), leaf, committed
    # What apply_updates sees, without what the commit keeps beside the parameter.
    dtype = before.dtype
    move = as_reals(written, dtype) - as_reals(param, dtype)
    narrow = jnp.finfo(param.dtype).nmant < jnp.finfo(before.dtype).nmant
    if not (narrow and program.is_whole):
        for when in overwrites:
            update = jnp.where(when, move, update)
        move = update
    output = from_reals(move, kind_of(program.update_dtype, param.dtype))
    return output, leaf, committed


def _like_weak(written: Array, param: Array) -> Array:
    """Keep the weak type of a parameter that began as a Python number.

    Losing it would change the signature of the step and compile it a second time.
    """
    if not param.weak_type:
        return written
    return convert_element_type_p.bind(
        written, new_dtype=written.dtype, weak_type=True, sharding=None
    )
