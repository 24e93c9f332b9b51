"""Plans of memory as bars."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator

from optadamw.base.errors import invalid, mistyped
from optadamw.reports.memory_table import MemoryPlan, scaled
from optadamw.reports.plots.saving import saved
from optadamw.reports.plots.style import COLORS


def memory(plans: Mapping[str, MemoryPlan], path: str | Path) -> Path:
    """Draw what each device holds during a step, a bar for each plan.

    A bar ends at the peak. Buffers in the memory of the host are left out.

    Args:
        plans: For each label a plan that `memory_plan` made. Temporaries are drawn if
            the plan has them.
        path: The file to write; its ending chooses the format, such as ".png".

    Returns:
        `path`.

    Raises:
        TypeError: `plans` is no mapping of labels to plans.
        ValueError: There is no plan.
        OSError, ValueError: `path` is in no folder, or its ending names no format.

    Example:
        >>> import tempfile, pathlib, jax.numpy as jnp, optadamw
        >>> params = {"w": jnp.zeros((512, 512), jnp.bfloat16)}
        >>> plans = {
        ...     precision: optadamw.memory_plan(
        ...         optadamw.adamw(1e-3, precision=precision), params, temporaries=False
        ...     )
        ...     for precision in ("full", "compact")
        ... }
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "memory.png"
        >>> optadamw.plotting.memory(plans, path).name
        'memory.png'
    """
    _check(plans)
    bars = {label: parts_of(plan) for label, plan in plans.items()}
    names = list(dict.fromkeys(name for parts in bars.values() for name in parts))
    figure = Figure(figsize=(8, 1.6 + 0.55 * len(bars)), layout="constrained")
    axes = figure.subplots()
    left = dict.fromkeys(bars, 0)
    for index, name in enumerate(names):
        widths = [parts.get(name, 0) for parts in bars.values()]
        color = COLORS[index % len(COLORS)]
        # A second round of colors is hatched: plans can have more than six parts.
        hatch = "//" if index >= len(COLORS) else None
        axes.barh(
            list(bars),
            widths,
            left=list(left.values()),
            color=color,
            hatch=hatch,
            edgecolor="white",
            label=name,
        )
        left = {label: left[label] + w for label, w in zip(left, widths, strict=True)}
    for label, whole in left.items():
        axes.annotate(
            scaled(whole),
            (whole, label),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
        )
    axes.invert_yaxis()
    axes.set_xlim(0, 1.18 * max(left.values()))
    # Ticks at powers of two, which the units of bytes are.
    apart = 2.0 ** max(0, math.ceil(math.log2(max(left.values()) / 6)))
    axes.xaxis.set_major_locator(MultipleLocator(apart))
    axes.xaxis.set_major_formatter(lambda size, _: scaled(size))
    axes.set_xlabel("bytes on a device during a step")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=min(len(names), 5), frameon=False)
    return saved(figure, path)


def _check(plans: Any) -> None:
    if not isinstance(plans, Mapping):
        remedy = 'Give a plan its label, as in {"compact": plan}.'
        raise mistyped("plans", "a mapping of labels to plans", plans, remedy)
    if not plans:
        raise invalid("plans", "a mapping with at least one plan", plans)
    for label, plan in plans.items():
        if not isinstance(plan, MemoryPlan):
            rule = "a MemoryPlan, which optadamw.memory_plan(tx, params) makes"
            raise mistyped(f"plans[{label!r}]", rule, plan)


def parts_of(plan: MemoryPlan) -> dict[str, int]:
    """Return the bytes on a device by their names; together they are the peak."""
    parts = {
        name: share.per_device
        for name, share in plan.shares.items()
        if name not in plan.on_host
    }
    return parts | ({"temporaries": plan.temporaries} if plan.temporaries else {})
