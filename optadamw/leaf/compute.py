"""The step of one parameter: decode, rules, commit, encode in one compiled function.

Every number is an argument of this function, so any number of leaves of one shape and
dtype, with any hyperparameters, is traced once. `optadamw.leaf.pallas` runs `compute`
in a kernel.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core.primitives import convert_element_type_p

from optadamw.base.numerics import (
    as_reals,
    compute_dtype,
    from_reals,
    kind_of,
)
from optadamw.base.reductions import PLAIN, REPRODUCIBLE, Reductions
from optadamw.base.types import Array
from optadamw.leaf.barrier import finish_first, materialized, waiting_for
from optadamw.leaf.check import check_written, checked_commit, checked_leaf
from optadamw.leaf.program import LeafInput, LeafOutput, Program
from optadamw.rules.check_scalars import check_scalars
from optadamw.rules.leaf import Leaf
from optadamw.rules.rule import Stage
from optadamw.store.dense import Dense

Measured = TypeVar("Measured")


@partial(jax.jit, static_argnums=0)
def run_leaf(program: Program, given: LeafInput) -> LeafOutput:
    """Run `compute`, traced once for all leaves of one shape and dtype."""
    return compute(program, given)


def compute(program: Program, given: LeafInput) -> LeafOutput:
    """Apply the rules to one parameter, write it, and encode its buffers."""
    given = with_leaf_scalars(program, given)
    start = decode(program, given)
    leaf = apply_rules(program, given, start)
    like = given.like
    update = committed = leaf.value()
    if given.param is None:
        output = from_reals(update, kind_of(program.update_dtype, like.dtype))
    else:
        output, leaf, committed = write_parameter(program, leaf, given)
    check_written(program.rules, start.buffers, leaf.buffers)
    output, buffers = encode(program, given, leaf, output)
    squares = None
    if program.measures:
        sum_of_squares = _reductions(program).sum_of_squares
        squares = jnp.stack([sum_of_squares(update), sum_of_squares(committed)])
    return LeafOutput(output, buffers, squares)


def decode(program: Program, given: LeafInput) -> Leaf:
    """Return the leaf before its first rule: real arrays in the compute dtype."""
    like, param = given.like, given.param
    buffers = {
        s.name: s.store.decode(given.buffers[s.name], like) for s in program.slots
    }
    gradient = as_reals(given.grad, compute_dtype(like.dtype))
    if given.scale is not None:
        gradient = gradient * given.scale
    return Leaf(
        numerator=gradient,
        denominator=None,
        drift=None,
        gradient=gradient,
        second=None,
        second_is_corrected=False,
        param=None if param is None else program.commit.read(param, buffers),
        buffers=buffers,
        is_bounded=program.is_bounded,
        reductions=_reductions(program),
    )


def _reductions(program: Program) -> Reductions:
    return REPRODUCIBLE if program.is_reproducible else PLAIN


def with_leaf_scalars(program: Program, given: LeafInput) -> LeafInput:
    """Return the input with the scalars that rules take of the whole leaf.

    XLA's CPU backend would keep every array that both the sum and the step after it
    need: 2.0 times the memory of the parameters for `clip_update_by_rms`. The rules
    before the sum therefore run twice, the second time on a gradient that waits for it.
    """
    for index, rule in enumerate(program.rules):
        if not rule.has_leaf_scalars:
            continue
        rows = given.scalars
        earlier = given._replace(scalars=rows[:index])
        leaf = apply_rules(program.upto(index), earlier, decode(program, given))
        found = check_scalars(
            f"{rule.verb}: leaf_scalars", rule.leaf_scalars(leaf, rows[index])
        )
        found = {
            name: jnp.asarray(x, leaf.numerator.dtype) for name, x in found.items()
        }
        row = {**rows[index], **found}
        given = given._replace(
            grad=waiting_for(found, given.grad),
            scalars=(*rows[:index], row, *rows[index + 1 :]),
        )
    return given


def apply_rules(program: Program, given: LeafInput, leaf: Leaf) -> Leaf:
    """Return the leaf after its rules, before it is committed."""
    for i, (rule, scalars) in enumerate(zip(program.rules, given.scalars, strict=True)):
        leaf = checked_leaf(rule, "apply", leaf, rule.apply(leaf, scalars))
        is_last = rule.stage == Stage.RATE or not program.is_whole
        if is_last and not program.awaits_rate(i + 1):
            leaf = leaf._replace(rate_is_due=False)
    return leaf


@partial(jax.jit, static_argnums=(0, 1))
def measure_leaf(
    program: Program,
    measure: Callable[..., Measured],
    given: LeafInput,
    *others: Array,
) -> Measured:
    """Return `measure(update, *others)` of a leaf, such as its `sum_of_squares`."""
    if given.grad.dtype.itemsize < 4:
        # Without the barrier XLA converts the gradient once for norm and step, into a
        # float32 array in memory; so does a second measure that waits for nothing.
        grad, *others = lax.optimization_barrier((given.grad, *others))
        given = given._replace(grad=grad)
    given = with_leaf_scalars(program, given)
    update = apply_rules(program, given, decode(program, given)).value()
    return measure(update, *others)


def write_parameter(
    program: Program, leaf: Leaf, given: LeafInput
) -> tuple[Array, Leaf, Array]:
    """Write the parameter, run `after_commit` of the rules, and form the output.

    Returns:
      The new parameter or the update, the leaf, and the committed parameter as rules
      read it.
    """
    commit, before, update = program.commit, leaf.param, leaf.value()
    param, site = given.param, given.site
    assert before is not None and param is not None
    if not program.is_whole:
        # Without a learning rate the update is a direction, which the next part of an
        # optax.chain scales.
        update = as_reals(
            from_reals(update, kind_of(program.update_dtype, param.dtype)), before.dtype
        )
    target = before + update
    if commit.slots and not program.is_tiled:
        # Parameter and residual are two results of one value. On the CPU each is a pass
        # of its own: the value is written to memory once, and both passes then
        # overwrite the buffers from which it was computed.
        target = materialized(target)
    written, kept = commit.write(target, param, leaf.buffers, site)
    leaf = leaf._replace(buffers=kept)
    overwrites = []
    for rule, scalars in zip(program.rules, given.scalars, strict=True):
        target = commit.read_back(written, leaf.buffers)
        made = rule.after_commit(target, leaf, scalars)
        leaf, overwrite = checked_commit(rule, leaf, made)
        if overwrite is not None:
            overwrites.append(overwrite.when)
            target = jnp.where(overwrite.when, overwrite.value, target)
            written, kept = commit.write(target, param, leaf.buffers, site)
            leaf = leaf._replace(buffers=kept)
    committed = commit.read_back(written, leaf.buffers)
    if program.emit == "param":
        return _like_weak(written, param), leaf, committed
    # apply_updates adds to the parameter alone, without the residual of its commit.
    dtype = before.dtype
    move = as_reals(written, dtype) - as_reals(param, dtype)
    narrow = jnp.finfo(param.dtype).nmant < jnp.finfo(before.dtype).nmant
    if not (narrow and program.is_whole):
        for when in overwrites:
            update = jnp.where(when, move, update)
        move = update
    output = from_reals(move, kind_of(program.update_dtype, param.dtype))
    return output, leaf, committed


def encode(
    program: Program, given: LeafInput, leaf: Leaf, output: Array
) -> tuple[Array, dict[str, Any]]:
    """Return the output, which is computed first, and the encoded buffers."""
    site = given.site
    sites = {s.name: None if site is None else site.of(s.name) for s in program.slots}
    encoded: dict[str, Any] = {}
    # In reverse order: AMSGrad's maximum needs the old second moment.
    for slot in reversed(program.slots):
        name = slot.name
        value = leaf.buffers[name]
        if name in program.rounded and not program.is_tiled:
            # Only the rounded buffers: the barrier would keep the old ones of all
            # others beside the new ones.
            old = {k: given.buffers[k] for k in program.rounded if k not in encoded}
            (output, encoded), (grad, old) = finish_first(
                (output, encoded), (given.grad, old)
            )
            given = given._replace(grad=grad, buffers={**given.buffers, **old})
            again = apply_rules(program, given, decode(program, given))
            value = again.buffers[name]
        encoded[name] = slot.store.encode(value, given.like, sites[name])
    return output, encoded


def _like_weak(written: Array, param: Array) -> Array:
    """Keep the weak type of a parameter that began as a Python number.

    Without it the signature of the step would change, and the step would be compiled a
    second time.
    """
    if not param.weak_type:
        return written
    return convert_element_type_p.bind(
        written, new_dtype=written.dtype, weak_type=True, sharding=None
    )


@partial(jax.jit, static_argnums=0)
def accumulate_leaf(
    store: Dense,
    accumulator: Any,
    grad: Array,
    like: Array,
    first: Array,
    keep: Array | None,
    factor: Array | None,
) -> Any:
    """Add `factor * grad` to the accumulator, which starts at 0 if `first`.

    A gradient is left out by a selection unless `keep`, because 0 times NaN is NaN. A
    sum begins at +0.0, so that it is never the -0.0 of a leaf without gradients.
    """
    term = as_reals(grad, compute_dtype(like.dtype))
    if factor is not None:
        term = term * factor
    if keep is not None:
        term = jnp.where(keep, term, -0.0)
    before = jnp.where(first, 0.0, store.decode(accumulator, like))
    total = before + term
    most = float(jnp.finfo(store.dtype_for(like)).max)
    if most < 2.0**127:
        # A store holds float16 at 65,504, so that a moment decays again. A sum held
        # there would be a wrong mean; an infinite one is seen by a guard.
        total = jnp.where(jnp.abs(total) > most, jnp.copysign(jnp.inf, total), total)
    return store.encode(total, like)
