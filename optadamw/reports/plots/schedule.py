"""Schedules over the steps of a training."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from optadamw.base.errors import invalid, mistyped
from optadamw.base.horizon import horizon_of
from optadamw.base.hyperparameters import (
    Clock,
    Hyperparameter,
    hyperparameter,
    whole_steps,
)
from optadamw.base.interval import Interval
from optadamw.base.traced import NEEDS_VALUE, untraceable
from optadamw.base.types import ScalarOrSchedule
from optadamw.reports.plots.saving import saved
from optadamw.reports.plots.style import COLORS, DASHED, finish

_MOST = 2_000
"""So many values of a schedule are drawn at most, evenly spread over the steps."""


def schedules(
    schedules: Mapping[str, ScalarOrSchedule],
    path: str | Path,
    *,
    steps: int | None = None,
) -> Path:
    """Draw schedules over the optimizer steps, and mark where each of them ends.

    Args:
        schedules: For each label a schedule, `step -> value`, a number, a 0-d array or
            an `adjustable`, which is drawn with its first value.
        path: The file to write; its ending chooses the format, such as ".png".
        steps: The number of steps to draw. None (default): up to the last end of a
            schedule, and a tenth beyond; those of `optadamw.schedules` say where they
            end (`horizon`).

    Returns:
        `path`.

    Raises:
        TypeError: `schedules` is no mapping, a value is no schedule and no number, or
            a schedule cannot be traced, because it has an `if` or NumPy's functions.
        ValueError: There is no schedule, a number is not finite, `steps` is below 1, or
            it is None and no schedule says where it ends.
        OSError, ValueError: `path` is in no folder, or its ending names no format.

    Example:
        >>> import tempfile, pathlib, optadamw
        >>> made = optadamw.schedules.warmup_cosine_decay_schedule(0.0, 1e-3, 10, 100)
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "rate.png"
        >>> optadamw.plotting.schedules({"learning rate": made}, path).name
        'rate.png'
    """
    _check(schedules)
    names = {label: f"schedules[{label!r}]" for label in schedules}
    checked = {label: _checked(names[label], schedules[label]) for label in schedules}
    ends = {label: horizon_of(schedule) for label, schedule in checked.items()}
    last = max((end for end in ends.values() if end), default=None)
    if steps is None and last is None:
        rule = "a number of steps, since no schedule says where it ends"
        raise invalid("steps", rule, steps)
    beyond = min(int(1.1 * (last or 0)) + 1, 2**31 - 1)  # steps are counted in int32
    wanted = beyond if steps is None else steps
    count = int(whole_steps("steps", wanted).value)
    at = np.unique(np.linspace(0, count - 1, min(count, _MOST)).astype(np.int32))
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    for index, (label, schedule) in enumerate(checked.items()):
        color = COLORS[index % len(COLORS)]
        values = _values(names[label], schedule, at)
        axes.plot(at, values, color=color, label=label)
        end = ends[label]
        if end is not None and end < count:
            axes.axvline(end, color=color, linewidth=1, linestyle=DASHED)
    finish(axes, "")
    axes.set_xlabel("Step (dashed: the schedule ends)" if last else "Step")
    axes.legend(frameon=False)
    return saved(figure, path)


def _check(schedules: Any) -> None:
    if not isinstance(schedules, Mapping):
        remedy = 'Give a schedule its label, as in {"learning rate": schedule}.'
        raise mistyped("schedules", "a mapping of labels", schedules, remedy)
    if not schedules:
        raise invalid("schedules", "a mapping with at least one schedule", schedules)


def _checked(name: str, given: Any) -> Hyperparameter:
    if isinstance(given, np.generic):
        given = np.asarray(given)  # a scalar of bfloat16 is no `np.floating`
    return hyperparameter(name, given, Interval())


def _values(name: str, checked: Hyperparameter, at: np.ndarray) -> np.ndarray:
    try:
        return np.asarray(
            jax.vmap(lambda step: jnp.asarray(checked.at(Clock.at(step))))(at)
        )
    except NEEDS_VALUE:
        raise untraceable(name, "the schedule") from None
