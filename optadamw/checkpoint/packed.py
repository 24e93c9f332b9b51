"""Restore the packed counters by name, not by position."""

from typing import Any

import numpy as np

from optadamw.checkpoint.record import Meaning
from optadamw.control.counters import EVENTS

HISTORY = "seen"
"""The prefix of the counters that belong to the spike guard's history."""


def counters(
    array: np.ndarray, old: Meaning | None, like: Any, *, keep_history: bool
) -> tuple[np.ndarray, list[str]]:
    """Return the counters in the order of this version, and the names it lacks.

    A counter that was not saved is zero. Without a record of the names, the saved
    counters must be those of this version, in its order.
    """
    names = list(EVENTS) if old is None else list(old.get("events", EVENTS))
    if len(names) != array.size:
        return array, []
    values = dict(zip(names, array.tolist(), strict=True))
    taken = [
        values.get(name, 0) if keep_history or not name.startswith(HISTORY) else 0
        for name in EVENTS
    ]
    lost = [name for name in names if name not in EVENTS]
    return np.asarray(taken, array.dtype), lost
