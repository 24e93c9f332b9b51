"""What a call leaves in the state besides the buffers: counters, window, loss scale."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from optadamw.base.hyperparameters import Constant
from optadamw.base.numerics import saturating_increment
from optadamw.base.types import Array
from optadamw.control.control import Control
from optadamw.control.events import counted, event
from optadamw.control.loss_scale import DynamicLossScale, StaticLossScale
from optadamw.control.signals import Finding, remembered
from optadamw.store.state import State
from optadamw.walk.accumulate import Intake


def ruled(
    control: Control,
    intake: Intake,
    state: State,
    findings: Sequence[Finding],
    go: Array,
    clipped: Array | None,
) -> dict[str, Any]:
    """The small fields of the next state, where `go` says whether a step was taken.

    `findings` are those of the intake and those made at the step; `clipped` tells
    whether a clip changed the gradients, if that is recorded.
    """
    no = jnp.zeros((), bool)
    nonfinite = _any([f.nonfinite for f in findings], no)
    spike = _any([f.spike for f in findings], no) & ~nonfinite
    bad = nonfinite | spike
    if intake.bad is not None:
        bad = bad | intake.bad
    fields: dict[str, Any] = {}
    due = wanted = jnp.ones((), bool)
    if control.accumulation is not None:
        assert intake.ready is not None
        assert intake.micro_step is not None and intake.weight is not None
        due = intake.ready
        wanted = due & (intake.weight > 0)
        fields["micro_step"] = jnp.where(due, 0, intake.micro_step)
        fields["weight"] = jnp.where(due, 0, intake.weight)
    # Whatever refused a step that there was: a sum, a rate, and not only a gradient.
    bad = bad | (wanted & ~go)
    seen: dict[str, Array] = {}
    if control.spikes is not None:
        fields["history"], seen = remembered(control, state, list(findings))
    if state.events is not None:
        fields["events"] = _events(
            control,
            intake,
            state.events,
            {"nonfinite": nonfinite, "spikes": spike, "skipped": due & ~go},
            seen,
            bad,
            go,
            clipped,
        )
    if isinstance(control.loss_scale, StaticLossScale):
        # As it is given now: what optax.inject_hyperparams changed counts for the
        # next loss. The gradients of this call were divided by the scale before.
        fields["loss_scale"] = control.loss_scale.initial()
    if isinstance(control.loss_scale, DynamicLossScale):
        assert state.loss_scale is not None and state.growth is not None
        good = go
        if control.loss_scale.counts == "gradients":
            good = ~bad if intake.arrived else no
        fields["loss_scale"], fields["growth"] = control.loss_scale.after(
            state.loss_scale, state.growth, bad=nonfinite, good=good
        )
    return fields


def _events(
    control: Control,
    intake: Intake,
    events: Array,
    changes: dict[str, Array],
    values: dict[str, Array],
    bad: Array,
    go: Array,
    clipped: Array | None,
) -> Array:
    watch = control.watch
    if intake.dropped is not None:
        changes = changes | {"dropped": intake.dropped}
    if clipped is not None:
        changes = changes | {"clipped": clipped & go}
    by_micro_step = control.accumulation is not None and (watch is None or watch.drops)
    good = go
    if by_micro_step:
        good = ~bad if intake.arrived else jnp.zeros((), bool)
    run = event(events, "consecutive")
    run = jnp.where(bad, saturating_increment(run), jnp.where(good, 0, run))
    values = values | {"consecutive": run}
    if watch is not None and watch.max_consecutive is not None:
        given = watch.max_consecutive
        limit = int(given.value) if isinstance(given, Constant) else given.value
        limit = jnp.asarray(limit).astype(jnp.int32)
        values = values | {"stalled": run >= limit}
    return counted(events, changes, values)


def _any(flags: Sequence[Array], no: Array) -> Array:
    for flag in flags:
        no = no | flag
    return no
