"""Taking gradients in: unscale them, look at each, add it to its window."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from optadamw.base.hyperparameters import Clock
from optadamw.base.numerics import as_reals, compute_dtype, saturating_increment
from optadamw.base.tree import match_leaves
from optadamw.base.types import Array
from optadamw.control.accumulation import GIVEN_UP, weight_of
from optadamw.control.control import Control
from optadamw.control.signals import Finding, found, found_of_loss
from optadamw.leaf.leaf import accumulate_leaf
from optadamw.store.state import State
from optadamw.walk.inputs import Work


class Intake(NamedTuple):
    """What a call brought, and what the rules may now see."""

    work: Work
    """The leaves with the gradients that the rules will see."""
    scale: Array | None
    """What those are to be multiplied by."""
    ready: Array | None = None
    """Whether a step is due; None: always."""
    accumulators: list[Any] | None = None
    micro_step: Array | None = None
    weight: Array | None = None
    findings: tuple[Finding, ...] = ()
    """What was found of the gradients that came in with this call."""
    bad: Array | None = None
    """Whether what came in was found wanting; None: it was not looked at."""
    dropped: Array | None = None
    """Whether it was left out of its window."""
    arrived: bool = True
    """Whether gradients came in with this call; not with a flush."""
    present: list[Array] | None = None
    """For a flush: which leaves had a gradient in the window."""


def whole(
    control: Control, work: Work, state: State, clock: Clock, extra: Mapping[str, Any]
) -> Intake:
    """Gradients of which each is a step: the guard sees their norm later."""
    loss = found_of_loss(control, state, extra)
    findings = () if loss is None else (loss,)
    bad = None if loss is None else loss.bad
    weight_of(extra)  # a mean of one does not depend on it, but it must be a number
    return Intake(work, control.unscale(state, clock), findings=findings, bad=bad)


def partial_window(
    control: Control,
    work: Work,
    state: State,
    clock: Clock,
    accumulators: list[Any],
    *,
    look: bool,
) -> Intake:
    """What has been accumulated so far, as if the window were full.

    With `look` the accumulators tell which leaves had a gradient.
    """
    assert control.accumulation is not None
    assert state.micro_step is not None and state.weight is not None
    return Intake(
        work,
        control.accumulation.scale(state.weight, clock),
        ready=state.micro_step > 0,
        accumulators=accumulators,
        micro_step=state.micro_step,
        weight=state.weight,
        arrived=False,
        present=[_is_present(item.grad, item.like) for item in work.items]
        if look
        else None,
    )


def accumulated(
    control: Control,
    work: Work,
    state: State,
    clock: Clock,
    extra: Mapping[str, Any],
    norm_of: Callable[[Work, Array | None], Array],
) -> Intake:
    """Add gradients to their window, unless they are bad.

    `norm_of` measures gradients and multiplies the norm by a scale.
    """
    accumulation, watch = control.accumulation, control.watch
    assert accumulation is not None
    assert state.micro_step is not None and state.weight is not None
    inverse = control.unscale(state, clock)
    weight = weight_of(extra)
    loss = found_of_loss(control, state, extra)
    findings = [] if loss is None else [loss]
    if watch is not None and watch.drops and work.moving:
        norm = norm_of(work, inverse)
        judged = jnp.ones((), bool)
        findings.append(
            found(control, state, "grad_norm", norm, judged, work.largest_norm)
        )

    bad = None
    for finding in findings:
        bad = finding.bad if bad is None else bad | finding.bad
    keep = None if bad is None else ~bad
    share = jnp.ones((), jnp.float32)
    if weight is not None:
        wrong = ~(jnp.isfinite(weight) & (weight >= 0))
        bad = wrong if bad is None else bad | wrong
        keep = ~bad & (weight > 0)
        share = weight
    if keep is not None:
        share = jnp.where(keep, share, 0)

    first = state.micro_step == 0
    before = jnp.where(first, 0, state.weight)
    total = before + share
    if watch is not None and not watch.drops:
        spoiled = before < 0 if bad is None else (before < 0) | bad
        total = jnp.where(spoiled, GIVEN_UP, total)
    micro_step = saturating_increment(state.micro_step)
    if watch is not None and watch.waits and bad is not None:
        micro_step = jnp.where(bad, state.micro_step, micro_step)
    sums = _sums(control, work, state, clock, first, keep, weight, inverse)
    present = [
        None if item.grad is None else total_of
        for item, total_of in zip(work.items, sums, strict=True)
    ]
    return Intake(
        work.with_gradients(present),
        accumulation.scale(total, clock),
        ready=(micro_step >= accumulation.due(clock)),
        accumulators=sums,
        micro_step=micro_step,
        weight=total,
        findings=tuple(findings),
        bad=bad,
        dropped=None if keep is None else ~keep,
    )


def _sums(
    control: Control,
    work: Work,
    state: State,
    clock: Clock,
    first: Array,
    keep: Array | None,
    weight: Array | None,
    inverse: Array | None,
) -> list[Any]:
    """The accumulators with the gradients of this call in them."""
    assert control.accumulation is not None
    store = control.accumulation.store
    factor = inverse
    if weight is not None:
        wide = weight.astype(clock.dtype)
        factor = wide if inverse is None else wide * inverse
    held = match_leaves(state.accumulator, work.leaves, "state.accumulator")
    sums = []
    for path, item, kept in zip(work.leaves.paths, work.items, held, strict=True):
        if item.grad is None:
            # What an earlier window left must not reach a gradient to come.
            sums.append(jax.tree.map(lambda x: jnp.where(first, emptied(x), x), kept))
            continue
        store.check(path, kept, item.like)
        by = None if factor is None else factor.astype(item.dtype)
        sums.append(accumulate_leaf(store, kept, item.grad, item.like, first, keep, by))
    return sums


def emptied(buffer: Any) -> Any:
    """Negative zeros: what no sum of gradients is, as those begin at +0.0."""
    if isinstance(buffer, jax.ShapeDtypeStruct):
        return buffer
    return -jnp.zeros_like(buffer)


def _is_present(buffer: Any, like: Any) -> Array:
    """Whether a gradient was added to an accumulator since it was emptied."""
    reals = as_reals(buffer, compute_dtype(like.dtype))
    # Of -0.0 alone the reciprocal is -inf. One reduction of an arithmetic expression:
    # a comparison would be kept as an array of bools first.
    return jnp.max(1 / reals, initial=-jnp.inf) != -jnp.inf
