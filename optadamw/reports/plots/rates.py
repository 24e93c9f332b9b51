"""The curve of a learning-rate range test."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from optadamw.base.errors import mistyped
from optadamw.reports.plots.saving import saved
from optadamw.reports.plots.style import COLORS, DASHED, logarithmic
from optadamw.tuning.range_test import RangeTest


def range_test(result: RangeTest, path: str | Path) -> Path:
    """Draw the loss over the learning rate, with the suggested rate marked.

    Args:
        result: What `lr_range_test` returned.
        path: The file to write; its ending chooses the format, such as ".png".

    Returns:
        `path`.

    Raises:
        TypeError: `result` is no `RangeTest`.
        ValueError: `result` has no rate that was tried.
        OSError, ValueError: `path` is in no folder, or its ending names no format.
    """
    _check(result)
    if not len(result.rates):
        raise ValueError(f"`result` has nothing to draw. {result}")
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(result.rates, result.losses, ".", color="0.7", label="loss")
    axes.plot(result.rates, result.smoothed, color=COLORS[0], label="smoothed")
    logarithmic(axes)
    marks = {
        "suggestion": (result.suggestion, COLORS[2], "-"),
        "falls fastest": (result.steepest, COLORS[4], DASHED),
        "diverged": (result.diverged, COLORS[1], DASHED),
    }
    for name, (rate, color, line) in marks.items():
        if rate is not None:
            label = f"{name}: {rate:.2g}"
            axes.axvline(rate, color=color, linestyle=line, label=label)
    axes.set_xscale("log")
    shown = np.append(result.smoothed[np.isfinite(result.smoothed)], result.start)
    if shown.max() > shown.min():
        margin = 0.05 * (shown.max() - shown.min())
        low = shown.min() - margin
        axes.set_ylim(max(low, 0.9 * shown.min()) if shown.min() > 0 else low)
    axes.set(xlabel="Learning rate", ylabel="Loss after the step")
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return saved(figure, path)


def _check(result: Any) -> None:
    if not isinstance(result, RangeTest):
        rule = "a RangeTest, which optadamw.lr_range_test returns"
        raise mistyped("result", rule, result)
