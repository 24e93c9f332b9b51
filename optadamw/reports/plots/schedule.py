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
from optadamw.base.hyperparameters import whole_steps
from optadamw.base.types import Schedule
from optadamw.reports.plots.saving import saved
from optadamw.reports.plots.style import COLORS, DASHED, finish

_MOST = 2_000
"""So many values of a schedule are drawn at most, evenly spread over the steps."""


def schedules(
    schedules: Mapping[str, Schedule | float],
    path: str | Path,
    *,
    steps: int | None = None,
) -> Path:
    """Draw schedules over the optimizer steps, and mark where each of them ends.

    Args:
        schedules: For each label a schedule, `step -> value`, or a number.
        path: The file to write; its ending chooses the format, such as ".png".
        steps: The number of steps to draw. None (default): up to the last end of a
            schedule, and a tenth beyond; those of `optadamw.schedules` say where they
            end (`horizon`).

    Returns:
        `path`.

    Raises:
        TypeError: `schedules` is no mapping, or a value is no schedule and no number.
        ValueError: There is no schedule, `steps` is below 1, or it is None and no
            schedule says where it ends.
        OSError, ValueError: `path` is in no folder, or its ending names no format.

    Example:
        >>> import tempfile, pathlib, optadamw
        >>> made = optadamw.schedules.warmup_cosine_decay_schedule(0.0, 1e-3, 10, 100)
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "rate.png"
        >>> optadamw.plotting.schedules({"learning rate": made}, path).name
        'rate.png'
    """
    _check(schedules)
    ends = {label: horizon_of(schedule) for label, schedule in schedules.items()}
    last = max((end for end in ends.values() if end), default=None)
    if steps is None and last is None:
        rule = "a number of steps, since no schedule says where it ends"
        raise invalid("steps", rule, steps)
    wanted = steps if steps is not None else int(1.1 * (last or 0)) + 1
    count = int(whole_steps("steps", wanted).value)
    at = np.unique(np.linspace(0, count - 1, min(count, _MOST)).astype(np.int32))
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    for index, (label, schedule) in enumerate(schedules.items()):
        color, name = COLORS[index % len(COLORS)], f"schedules[{label!r}]"
        axes.plot(at, _values(name, schedule, at), color=color, label=label)
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


def _values(name: str, schedule: Any, at: np.ndarray) -> np.ndarray:
    is_number = isinstance(schedule, int | float | np.integer | np.floating)
    if is_number and not isinstance(schedule, bool):
        return np.full(len(at), float(schedule))
    if not callable(schedule):
        raise mistyped(name, "a schedule `step -> value`, or a number", schedule)
    values = np.asarray(jax.vmap(lambda step: jnp.asarray(schedule(step)))(at))
    if values.shape != at.shape:
        shape = values.shape[1:]
        raise ValueError(f"`{name}` must return scalars; it returned shape {shape}.")
    return values
