"""The step at which a schedule ends."""

import math
from typing import Any

import jax
import numpy as np

_MOST = 2**31 - 1
"""Steps are counted in int32."""


def horizon_of(schedule: Any) -> int | None:
    """Return the attribute `horizon` of a schedule; None without a number of steps.

    1e4 counts as a number of steps, as elsewhere; one above 2**31 - 1 counts as that.
    """
    end = getattr(schedule, "horizon", None)
    if isinstance(end, jax.Array) and not isinstance(end, jax.core.Tracer):
        end = jax.device_get(end)
    if isinstance(end, np.ndarray) and end.shape == ():
        end = end[()]
    if isinstance(end, np.generic) and end.dtype.kind in "iufV":  # V: bfloat16
        end = float(end)
    if isinstance(end, bool) or not isinstance(end, int | float):
        return None
    if not 0 <= end < math.inf or end != int(end):
        return None
    return min(int(end), _MOST)
