"""Judging one gradient: is its norm, is its loss, what they should be?"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp

from optadamw.base.hyperparameters import real_scalar
from optadamw.base.types import Array
from optadamw.control.control import Control
from optadamw.control.events import event
from optadamw.store.state import State


class Finding(NamedTuple):
    """What was found of one signal; `judged` tells whether it was there at all."""

    name: str
    value: Array
    judged: Array
    nonfinite: Array
    spike: Array
    limit: Array | None

    @property
    def bad(self) -> Array:
        return self.nonfinite | self.spike


def found(
    control: Control,
    state: State,
    name: str,
    value: Array,
    judged: Array,
    most: float = math.inf,
) -> Finding:
    """Judge one signal where `judged`; beyond `most` it counts as not finite."""
    nonfinite = judged & ~(jnp.isfinite(value) & (jnp.abs(value) <= most))
    if control.spikes is None or name not in control.spikes.of:
        return Finding(name, value, judged, nonfinite, judged & False, None)
    assert state.history is not None and state.events is not None
    row = state.history[control.spikes.of.index(name)]
    limit = control.spikes.limit(row, event(state.events, f"seen_{name}"))
    spike = judged & ~nonfinite & (value > limit)
    return Finding(name, value, judged, nonfinite, spike, limit)


def found_of_loss(
    control: Control, state: State, extra: Mapping[str, Any]
) -> Finding | None:
    """Judge the loss, where it was passed.

    Raises:
      ValueError: it is watched and was not passed.
    """
    watched = control.spikes is not None and "loss" in control.spikes.of
    loss = extra.get("loss")
    if control.watch is None or (loss is None and not watched):
        return None
    if loss is None:
        raise ValueError(
            "`loss` is missing, and skip_spikes watches it. Pass the loss of these "
            "gradients: tx.step(grads, state, params, loss=loss)."
        )
    return found(control, state, "loss", real_scalar("loss", loss), jnp.ones((), bool))


def remembered(
    control: Control, state: State, findings: list[Finding]
) -> tuple[Array, dict[str, Array]]:
    """The spike guard's window with what was found in it, and its counters."""
    assert control.spikes is not None
    assert state.history is not None and state.events is not None
    rows, seen = list(state.history), {}
    for finding in findings:
        if finding.limit is None:
            continue
        name, row = f"seen_{finding.name}", control.spikes.of.index(finding.name)
        rows[row], seen[name] = control.spikes.entered(
            rows[row],
            event(state.events, name),
            finding.value,
            finding.limit,
            finding.judged & ~finding.nonfinite,
        )
    return jnp.stack(rows), seen
