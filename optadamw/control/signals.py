"""Check the signals of one gradient: its norm and its loss.

A signal is bad if it is not finite, or if it is a spike: larger than the limit that
follows from the window of its last values.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp

from optadamw.base.types import Array
from optadamw.control.counters import event
from optadamw.control.spikes import Spikes
from optadamw.store.state import State


class Check(NamedTuple):
    """The result of checking one signal; each flag is a bool array of shape ()."""

    name: str
    value: Array
    is_known: Array
    """Whether this call has the signal; if not, the flags are False."""
    nonfinite: Array
    spike: Array
    limit: Array | None
    """The largest value that is no spike; None if spikes of it are not checked."""

    @property
    def bad(self) -> Array:
        """Whether the gradient must not become a step."""
        return self.nonfinite | self.spike


def check_signal(
    spikes: Spikes | None,
    state: State,
    name: str,
    value: Array,
    is_known: Array,
    most: float = math.inf,
) -> Check:
    """Check one signal if `is_known`; beyond `most` a value counts as not finite."""
    nonfinite = is_known & ~(jnp.isfinite(value) & (jnp.abs(value) <= most))
    if spikes is None or name not in spikes.of:
        return Check(name, value, is_known, nonfinite, is_known & False, None)
    assert state.history is not None and state.events is not None
    row = state.history[spikes.of.index(name)]
    limit = spikes.limit(row, event(state.events, f"seen_{name}"))
    spike = is_known & ~nonfinite & (value > limit)
    return Check(name, value, is_known, nonfinite, spike, limit)


def next_history(
    spikes: Spikes, state: State, checks: list[Check]
) -> tuple[Array, dict[str, Array]]:
    """Return the windows with the values of `checks`, and the counts of values seen."""
    assert state.history is not None and state.events is not None
    rows, seen = list(state.history), {}
    for check in checks:
        if check.limit is None:
            continue
        name, row = f"seen_{check.name}", spikes.of.index(check.name)
        rows[row], seen[name] = spikes.entered(
            rows[row],
            event(state.events, name),
            check.value,
            check.limit,
            check.is_known & ~check.nonfinite,
        )
    return jnp.stack(rows), seen
