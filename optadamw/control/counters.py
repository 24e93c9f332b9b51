"""Counters of skipped, bad and clipped gradients, packed in one small array.

The ten counters are one array, because every buffer that is passed in and out of a
compiled step costs about 3.6 microseconds of dispatch.
"""

import jax.numpy as jnp
import numpy as np

from optadamw.base.types import Array

EVENTS = (
    "skipped",  # optimizer steps that were due and not taken
    "nonfinite",  # gradients or losses that were not finite
    "spikes",  # gradients or losses beyond the limit of the spike guard
    "dropped",  # micro-batches left out of their window
    "consecutive",  # bad gradients since the last good one
    "stalled",  # 1 while `consecutive` is at its limit or beyond
    "clipped",  # optimizer steps whose gradient was clipped
    "seen_grad_norm",  # norms seen by the spike guard, below twice its window
    "seen_loss",  # losses seen by the spike guard, below twice its window
    "illegal",  # optimizer steps that were due with an illegal hyperparameter
)
"""The entries of `State.events` in order, int32; none grows beyond 2**31 - 1."""


def no_events() -> np.ndarray:
    """Return the counters before the first step."""
    return np.zeros(len(EVENTS), np.int32)


def event(events: Array, name: str) -> Array:
    """Return one counter; `events` may have leading axes, as under `vmap`."""
    return events[..., EVENTS.index(name)]


def next_counters(
    events: Array, changes: dict[str, Array], values: dict[str, Array]
) -> Array:
    """Return the counters with `changes` added, up to 2**31 - 1, and `values` set."""
    most = jnp.iinfo(jnp.int32).max
    entries = []
    for i, name in enumerate(EVENTS):
        entry = events[i]
        if name in values:
            entry = values[name]
        elif name in changes:
            more = changes[name].astype(jnp.int32)
            entry = jnp.where(entry > most - more, most, entry + more)
        entries.append(entry.astype(jnp.int32))
    return jnp.stack(entries)
