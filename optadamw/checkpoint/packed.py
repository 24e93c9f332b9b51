"""Counters that are packed in one array: found by name, not by position."""

from typing import Any

import numpy as np

from optadamw.checkpoint.record import Meaning
from optadamw.control.counters import EVENTS

HISTORY = "seen"
"""What the counters begin with that belong to the spike guard's history."""


def counters(
    array: np.ndarray, old: Meaning | None, like: Any, *, keep_history: bool
) -> tuple[np.ndarray, list[str]]:
    """The counters in the order of this version, and the saved ones it lacks.

    Those that were not saved are zero; without their record they are taken to be in
    the order of this version, and have to be as many.
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
